"""TLS of the main listener, and its certificate's exchange for another while the proxy runs.

Theory of operation. A listener keeps the context that it was opened with, the *front*. At the beginning of every
handshake, with or without a server name in it, OpenSSL asks the front's callback, which moves the connection to the
context in force. A new certificate is a new context, made and checked aside, and comes into force by one assignment:
handshakes from then on see it, connections that are there keep the one that they began with, and files that don't fit
each other change nothing.

What a connection keeps of the front is whether it asks for a client certificate at all, so that can't be switched
while the listener is open; which authorities it trusts is the new context's. A client that resumes a session is not
asked for its certificate again. With TLS 1.3 such sessions are not offered where client certificates are wanted; with
TLS 1.2 OpenSSL keeps them in the front, and one from before the authorities in force is refused.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path

from streamproxy.config.certificates import no_password
from streamproxy.config.model import ServerTls
from streamproxy.errors import StreamproxyError
from streamproxy.server.alpn import offered

# TLS 1.2: forward secrecy and authenticated encryption only. The suites of TLS 1.3 have both.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


class TlsError(StreamproxyError):
    """Certificate, key or authorities can't be used; the text says why."""


class _Context(ssl.SSLContext):
    """A context that knows since when its authorities are trusted, in seconds since the epoch, 0 for ever."""

    trusted_since = 0.0


class _Connection(ssl.SSLObject):
    """A connection that does not resume a session from before its context's authorities."""

    def do_handshake(self) -> None:
        super().do_handshake()
        context, session = self.context, self.session
        if not self.session_reused or session is None or not isinstance(context, _Context):
            return
        if session.time <= context.trusted_since:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the session is older than the authorities for client certificates")


class ListenerTls:
    """TLS of a listener: ``front`` is what to open it with, ``http2`` whether it offers that.

    Raises TlsError for files that can't be used.
    """

    def __init__(self, tls: ServerTls, http2: bool = False) -> None:
        self._http2 = http2
        self.front = self._current = server_context(tls, http2)
        self._authorities = self._read_authorities(tls)
        self.front.sni_callback = self._choose

    @staticmethod
    def _read_authorities(tls: ServerTls) -> bytes:
        return b"" if tls.client_ca is None else Path(tls.client_ca).read_bytes()

    def prepare(self, tls: ServerTls) -> Callable[[], None]:
        """Read other files, or what these say now. Returns what puts them into force. Raises TlsError."""
        context = server_context(tls, self._http2)
        authorities = self._read_authorities(tls)

        def swap() -> None:
            same = authorities == self._authorities
            context.trusted_since = self._current.trusted_since if same else time.time()
            self._current, self._authorities = context, authorities

        return swap

    def _choose(self, connection: ssl.SSLObject, name: str | None, front: ssl.SSLContext) -> None:
        connection.context = self._current


def server_context(tls: ServerTls, http2: bool = False) -> _Context:
    """The context for a server: TLS 1.2 and later, modern ciphers, ALPN, and with ``client_ca`` only clients whose
    certificate comes from one of those authorities. Raises TlsError."""
    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.sslobject_class = _Connection
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.set_alpn_protocols(offered(http2))
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
