"""TLS towards an upstream."""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Final

# The locations used by Debian, Fedora, Alpine and openSUSE. A Python built elsewhere looks in the wrong place.
_SYSTEM_BUNDLES: Final = (
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
    "/etc/ssl/ca-bundle.pem",
)


def client_context(
    *,
    ca: str | None = None,
    cert: str | None = None,
    key: str | None = None,
    verify: bool = True,
    protocols: Sequence[str] = ("http/1.1",),
) -> ssl.SSLContext:
    """Returns the context for an upstream: TLS 1.2 and later, with certificate and host name verified.

    ``protocols`` are offered by ALPN, in order of preference.

    ``ca`` is the path of a PEM bundle to trust instead of the system's; ``cert`` and ``key`` are paths of a client
    certificate. ``verify=False`` accepts any certificate. Raises OSError or ssl.SSLError for files that cannot be read
    or used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))
    context.options |= ssl.OP_NO_RENEGOTIATION  # TLS 1.3 has none; `TlsTransport` relies on this
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    elif ca is not None:
        context.load_verify_locations(cafile=ca)
    else:
        _trust_system(context)
    if cert is not None:
        context.load_cert_chain(cert, key)
    return context


def _trust_system(context: ssl.SSLContext) -> None:
    """Loads the CA certificates from OpenSSL's default location or those above; the environment is not read."""
    paths = ssl.get_default_verify_paths()
    capath = paths.openssl_capath if os.path.isdir(paths.openssl_capath) and os.listdir(paths.openssl_capath) else None
    files = [paths.openssl_cafile, *([] if capath else _SYSTEM_BUNDLES)]
    cafile = next((path for path in files if os.path.isfile(path)), None)
    if cafile is not None or capath is not None:
        context.load_verify_locations(cafile=cafile, capath=capath)
