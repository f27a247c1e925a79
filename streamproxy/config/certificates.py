"""Checks of certificate, key and CA files before the proxy starts to serve with them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import Literal

Key = Literal["cert", "key"]


def no_password() -> str:
    """The password callback of ``load_cert_chain``, which would otherwise prompt on the terminal. Raises ValueError."""
    raise ValueError("is encrypted; give a key without a password")


def unusable_pair(cert: str, key: str) -> Iterator[tuple[Key, str]]:
    """Yields what is wrong with a certificate and its private key: the key at fault and a message.

    Both arguments are paths of readable PEM files.
    """
    if (why := unusable_authorities(cert)) is not None:
        yield "cert", why
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            yield "key", "is not the private key of the certificate"
        elif error.reason in ("EE_KEY_TOO_SMALL", "CA_MD_TOO_WEAK", "CA_KEY_TOO_SMALL"):
            yield "cert", "is too weak to be used"
        else:
            yield "key", "has no private key in PEM form"
    except ValueError as error:
        yield "key", str(error)
    except OSError as error:
        yield "key", f"cannot be read: {error.strerror}"


def unusable_authorities(path: str) -> str | None:
    """Returns what is wrong with a PEM file of CA certificates, or None."""
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_verify_locations(path)
    except ssl.SSLError:
        return "has no certificate in PEM form"
    except OSError as error:
        return f"cannot be read: {error.strerror}"
    return None
