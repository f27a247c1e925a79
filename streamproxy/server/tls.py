"""TLS of the main listener, and the replacement of its certificate while the proxy runs.

Theory of operation. A listener keeps the context that it was opened with, the *front*. At the start of every handshake,
with or without a server name, OpenSSL calls the front's callback, which switches the connection to the context in
force. A new certificate gets a new context, which is built and checked separately and comes into force by one
assignment. Later handshakes use it, existing connections keep theirs, and files that do not fit each other change
nothing.

Whether a connection requests a client certificate at all depends on the front, so this cannot be switched while the
listener is open. The trusted CAs are those of the new context. A client that resumes a session is not asked for its
certificate again. With TLS 1.3 such sessions are not offered if client certificates are required. With TLS 1.2 OpenSSL
keeps them in the front, and a session that is older than the CAs in force is refused.

A client that begins with a plain HTTP request gets a plain response, 400: OpenSSL recognises GET, POST, PUT and HEAD in
place of a handshake. The response is put where the handshake's own bytes would be. The handshake then waits for more
bytes, which are dropped, until the client closes or its time for a handshake is over. So no byte of a connection is
looked at for this before OpenSSL has looked at it.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamproxy.config.certificates import no_password
from streamproxy.config.model import ServerTls
from streamproxy.errors import BadRequest, StreamproxyError
from streamproxy.server.alpn import offered
from streamproxy.server.http1.head import whole_response
from streamproxy.server.refusal import refusal

# TLS 1.2 only with forward secrecy and authenticated encryption. All cipher suites of TLS 1.3 have both.
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"

_PLAIN_HTTP = "HTTP_REQUEST"  # OpenSSL's reason of the error
_NOT_TLS = "The plain HTTP request was sent to a port that expects TLS: use https"


class TlsError(StreamproxyError):
    """The certificate, the key or the CAs cannot be used; the text says why."""


class _Context(ssl.SSLContext):
    """A context with the time since which its CAs are trusted, in seconds since the epoch; 0 means always.

    ``on_rejected`` is called with the status and the reason of each plain HTTP request that was refused.
    """

    trusted_since = 0.0
    on_rejected: Callable[[int, str], None] | None = None

    def wrap_bio(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **options: Any) -> ssl.SSLObject:
        """Remembers the two ends of the connection, which OpenSSL alone has otherwise."""
        connection = super().wrap_bio(incoming, outgoing, *args, **options)
        if isinstance(connection, _Connection):
            connection.incoming, connection.outgoing = incoming, outgoing
        return connection


class _Connection(ssl.SSLObject):
    """A connection that answers plain HTTP, and does not resume sessions that are older than the CAs of its context."""

    incoming: ssl.MemoryBIO
    outgoing: ssl.MemoryBIO
    _answered = False

    def do_handshake(self) -> None:
        if self._answered:
            self._drop()
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if error.reason == _PLAIN_HTTP:
                self._answer()
            raise
        context, session = self.context, self.session
        if not self.session_reused or session is None or not isinstance(context, _Context):
            return
        if session.time <= context.trusted_since:
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "the session is older than the authorities for client certificates")

    def _answer(self) -> None:
        """Responds to a plain HTTP request. Raises SSLWantReadError, at which the caller sends what was written."""
        error = BadRequest(_NOT_TLS)
        if isinstance(self.context, _Context) and self.context.on_rejected is not None:
            self.context.on_rejected(error.status, error.detail)
        self._answered = True
        self.outgoing.write(whole_response(error.status, *refusal(error)))
        self._drop()

    def _drop(self) -> None:
        """Reads on, because a close would reset the connection before the client has read its response."""
        self.incoming.read()
        raise ssl.SSLWantReadError


class ListenerTls:
    """TLS of a listener. ``front`` is the context to open it with; ``http2`` is whether it offers HTTP/2.

    Set ``front.on_rejected`` to be called with the status and the reason of each plain HTTP request that was refused.

    Raises TlsError for unusable files.
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
        """Reads other files, or the same ones again. Returns a function that puts them into force. Raises TlsError."""
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
    """Returns the context for a server: TLS 1.2 and later, modern ciphers, and ALPN.

    With ``client_ca``, clients need a certificate of one of these CAs. Raises TlsError."""
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
