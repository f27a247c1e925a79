"""Opens connections (TCP or Unix socket, and TLS) within a single time limit.

Happy eyeballs (RFC 8305): addresses are tried in turn, with 250 ms between the starts. A failed attempt starts the next
one at once, the first connection wins, and the others are abandoned. This is built on ``sock_connect``, which asyncio
and uvloop both have.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

from streamproxy.client.connection import ClientConnection
from streamproxy.client.resolve import Address, Resolver
from streamproxy.client.secure import TlsTransport
from streamproxy.client.translate import connect_error
from streamproxy.errors import ConnectTimeout, TlsFailed
from streamproxy.wire.hosts import DEFAULT_PORTS

ATTEMPT_DELAY: Final = 0.25  # seconds, RFC 8305 section 5
# TCP keepalive detects a vanished peer in a silent stream, two minutes after its last byte. It also keeps address
# translation on the way alive, which often drops connections after 350 s of silence, while a model may think for
# longer. The system's default of the first probe is two hours.
_TCP_OPTIONS: Final = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 60), ("TCP_KEEPINTVL", 15), ("TCP_KEEPCNT", 4))
        if hasattr(socket, name)  # not available on every system
    ),
]
# If the queue of a Unix socket is full, retry after this many seconds, then after twice as many, up to the maximum.
_FULL_QUEUE_PAUSE: Final = 0.002
_FULL_QUEUE_MOST: Final = 0.1


# Creates the protocol of a connected socket, given the result of ALPN (None: no result, or no TLS).
Build = Callable[[socket.socket, str | None], ClientConnection]


class Connector:
    """Connects to one endpoint: an http or https URL, or the Unix socket at ``path`` in its place.

    ``ssl_context`` and ``server_name`` apply to https only; the server name defaults to the URL's host. ``build``
    creates the connections. Raises ValueError for a URL with another scheme. ``resolver`` looks up the host; it is None
    for a Unix socket.
    """

    def __init__(
        self, url: str, path: str | None, ssl_context: ssl.SSLContext | None, server_name: str | None, build: Build
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an upstream's URL begins with http:// or https:// and has a host")
        secure = parts.scheme == "https"
        if secure and ssl_context is None:
            raise ValueError("https needs an SSL context")
        self._ssl = ssl_context if secure else None
        # A host name may end with a dot, but not in a certificate (RFC 6066 section 3).
        self._server_name = (server_name or parts.hostname.rstrip(".")) if secure else None
        self._path = path
        self.resolver = Resolver(parts.hostname, parts.port or DEFAULT_PORTS[parts.scheme]) if path is None else None
        self._build = build

    async def connect(self, seconds: float | None) -> ClientConnection:
        """Returns a connection that is ready for a request.

        Raises ConnectTimeout after ``seconds``, and another UpstreamError if the connection fails.
        """
        deadline = asyncio.timeout(seconds)
        try:
            async with deadline:
                return await self._connect()
        except OSError as error:
            if self.resolver is not None:
                self.resolver.forget()
            if deadline.expired():
                raise ConnectTimeout() from error
            raise connect_error(error) from error

    async def _connect(self) -> ClientConnection:
        loop = asyncio.get_running_loop()
        if self.resolver is None:
            sock = await open_socket(Address(socket.AF_UNIX, self._path))
        else:
            sock = await first_to_connect(await self.resolver.addresses())
        address = None
        if self.resolver is not None and self.resolver.changes:
            try:
                address = sock.getpeername()[:2]
            except OSError:  # reset at the same moment
                sock.close()
                raise
        if self._ssl is None:
            connection = self._build(sock, None)
            await _over(loop, sock, connection)
        else:
            connection = await self._secure(self._ssl, sock)
        connection.address = address
        return connection

    async def _secure(self, context: ssl.SSLContext, sock: socket.socket) -> ClientConnection:
        """Performs the handshake over a connected socket. Raises ssl.SSLError, and TlsFailed if the peer leaves."""
        built: list[ClientConnection] = []

        def build(protocol: str | None) -> Any:
            built.append(self._build(sock, protocol))
            return built[0]

        try:
            tls = TlsTransport(context, self._server_name, build, asyncio.get_running_loop())
        except ValueError as error:
            sock.close()
            raise TlsFailed(note=f"{self._server_name!r} is no name of a server: {error}") from error
        try:
            await _shake_hands(tls, sock)
        except ConnectionError as error:  # TCP was connected, so the handshake failed
            raise TlsFailed(note=f"closed during the handshake: {type(error).__name__} {error}") from error
        return built[0]

    def close(self) -> None:
        """Cancels background work."""
        if self.resolver is not None:
            self.resolver.close()


async def _over(loop: asyncio.AbstractEventLoop, sock: socket.socket, protocol: Any) -> asyncio.Transport:
    """Attaches a protocol to a connected socket; returns the transport."""
    if sock.family == socket.AF_UNIX:
        return (await loop.create_unix_connection(lambda: protocol, sock=sock))[0]
    return (await loop.create_connection(lambda: protocol, sock=sock))[0]


async def _shake_hands(tls: TlsTransport, sock: socket.socket) -> None:
    """Performs the handshake over a connected socket. Raises ssl.SSLError, and ConnectionError if the peer leaves."""
    transport = await _over(asyncio.get_running_loop(), sock, tls)
    try:
        await tls.made
    except asyncio.CancelledError:
        transport.abort()
        raise
    if tls.fault is not None:
        raise tls.fault


async def open_socket(address: Address) -> socket.socket:
    """Returns a connected socket. Raises OSError, and then closes the socket."""
    sock = socket.socket(address.family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        if address.family == socket.AF_UNIX:
            await _connect_unix(sock, address.sockaddr)
        else:
            for level, option, value in _TCP_OPTIONS:
                sock.setsockopt(level, option, value)
            await asyncio.get_running_loop().sock_connect(sock, address.sockaddr)
    except BaseException:
        sock.close()
        raise
    return sock


async def _connect_unix(sock: socket.socket, path: str) -> None:
    """Connects to a Unix socket, once there is room in its queue.

    A burst of requests fills the queue of a busy server. connect(2) then returns EAGAIN, and nothing signals room. The
    loops' ``sock_connect`` waits until the socket is writable, which it is at once, and then treats it as connected.
    """
    pause = _FULL_QUEUE_PAUSE
    while True:
        try:
            sock.connect(path)
        except BlockingIOError:
            await asyncio.sleep(pause)
            pause = min(2 * pause, _FULL_QUEUE_MOST)
        else:
            return


async def first_to_connect(addresses: list[Address], delay: float = ATTEMPT_DELAY) -> socket.socket:
    """Returns a socket connected to the first address that responds. Raises OSError if none does."""
    if len(addresses) == 1:
        return await open_socket(addresses[0])
    loop = asyncio.get_running_loop()
    left = list(reversed(addresses))
    attempts: set[asyncio.Task[socket.socket]] = set()
    faults: list[BaseException] = []
    try:
        while left or attempts:
            if left:
                attempts.add(loop.create_task(open_socket(left.pop())))
            done, _ = await asyncio.wait(attempts, timeout=delay if left else None, return_when=asyncio.FIRST_COMPLETED)
            for attempt in done:
                attempts.remove(attempt)
                fault = attempt.exception()
                if fault is None:
                    return attempt.result()
                faults.append(fault)
    finally:
        for attempt in attempts:
            attempt.cancel()
            attempt.add_done_callback(_close_loser)
    # A refusal is more informative than an unreachable address family.
    raise next((fault for fault in faults if isinstance(fault, ConnectionRefusedError)), faults[0])


def _close_loser(attempt: asyncio.Task[socket.socket]) -> None:
    if not attempt.cancelled() and attempt.exception() is None:
        attempt.result().close()
