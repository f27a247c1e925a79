"""Who may use a route.

credentials   where a request carries its credential, and how it is taken out of what goes upstream
watched       what a file says, read again when it changes
bearer        fixed tokens
jwt           signed tokens (RFC 7519); needs the extra ``jwt``
authenticator one check of a request, by all of these
examine       what of a configuration's credentials cannot be used, before anything is served
"""

from streamproxy.auth.authenticator import Authenticator, Passed
from streamproxy.auth.build import build_authenticator
from streamproxy.auth.examine import examine

__all__ = ["Authenticator", "Passed", "build_authenticator", "examine"]
