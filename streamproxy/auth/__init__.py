"""Authentication of requests.

credentials   where a request carries its credential, and how it is removed from what goes upstream
watched       files that are reloaded when they change
bearer        static tokens
jwt           signed tokens (RFC 7519); needs the extra ``jwt``
remote        sets of keys that are read from a URL
authenticator checks a request with all of these
examine       finds unusable credentials while the configuration is read
"""

from streamproxy.auth.authenticator import Authenticator, Passed
from streamproxy.auth.build import build_authenticator
from streamproxy.auth.examine import examine
from streamproxy.auth.remote import KeySets

__all__ = ["Authenticator", "KeySets", "Passed", "build_authenticator", "examine"]
