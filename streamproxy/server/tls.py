"""TLS of the main listener, and its certificate's exchange for another while the proxy runs.

Theory of operation. A listener keeps the context that it was opened with, the *front*. At the beginning of every
handshake, with or without a server name in it, OpenSSL asks the front's callback, which moves the connection to the
context in force. A new certificate is a new context, made and checked aside, and comes into force by one assignment:
handshakes from then on see it, connections that are there keep the one that they began with, and files that don't fit
each other change nothing.

What a connection keeps of the front is whether it asks for a client certificate at all, so that can't be switched
while the listener is open; which authorities it trusts is the new context's. With client certificates no session is
resumed: its client would not be looked at again under the new authorities.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable

from streamproxy.config.certificates import no_password
from streamproxy.config.model import ServerTls
from streamproxy.errors import StreamproxyError

# TLS 1.2: forward secrecy and authenticated encryption only. The suites of TLS 1.3 have both.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(StreamproxyError):
    """Certificate, key or authorities can't be used; the text says why."""


class ListenerTls:
    """TLS of a listener: ``front`` is what to open it with. Raises TlsError for files that can't be used."""

    def __init__(self, tls: ServerTls) -> None:
        self.front = server_context(tls)
        self._current = self.front
        self.front.sni_callback = self._choose

    def prepare(self, tls: ServerTls) -> Callable[[], None]:
        """Read other files, or what these say now. Gives what puts them into force. Raises TlsError."""
        context = server_context(tls)

        def swap() -> None:
            self._current = context

        return swap

    def _choose(self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext) -> None:
        connection.context = self._current


def server_context(tls: ServerTls) -> ssl.SSLContext:
    """The context for a server: TLS 1.2 and later, modern ciphers, ALPN http/1.1, and with ``client_ca`` only clients
    whose certificate comes from one of those authorities. Raises TlsError."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(["http/1.1"])
    try:
        context.load_cert_chain(tls.cert, tls.key, no_password)
        if tls.client_ca is not None:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(tls.client_ca)
            context.options |= ssl.OP_NO_TICKET
            context.num_tickets = 0
    except (OSError, ValueError) as error:  # SSLError is an OSError
        raise TlsError(f"server.tls cannot be used: {error}") from error
    return context
