"""Accepts connections that begin with a PROXY protocol header, and reads the header.

The header precedes TLS. A transport would read beyond it, and the TLS layer would miss the start of the handshake. So
these connections are accepted here: exactly the bytes of the header are read from the socket, and then the socket is
passed to the event loop.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from streamproxy.wire.forwarded import Network, is_trusted
from streamproxy.wire.proxy_protocol import Announced, ProxyHeader

_AGAIN = 0.1  # seconds until an accept is tried again after it failed for lack of descriptors


async def read_announcement(
    connection: socket.socket, networks: Sequence[Network], patience: float
) -> Announced | None:
    """Reads the header of a connection from one of ``networks``; other connections may not have one.

    Raises BadProxyHeader, OSError (a connection that ends first, as a health check's, is one), or TimeoutError after
    ``patience`` seconds. No byte after the header is read.
    """
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    if not is_trusted(connection.getpeername()[0], networks):
        return None
    loop = asyncio.get_running_loop()
    header = ProxyHeader()
    async with asyncio.timeout(patience):
        while header.announced is None:
            data = await loop.sock_recv(connection, header.wanted)
            if not data:
                raise ConnectionResetError("the connection ended within its PROXY header")
            header.feed(data)
    return header.announced


class Acceptor:
    """Accepts connections in place of a loop's server, and is closed in the same way.

    ``welcome`` is called with each connection in a separate task, and must close it.
    """

    def __init__(
        self,
        listener: socket.socket,
        welcome: Callable[[socket.socket], Coroutine[Any, Any, None]],
    ) -> None:
        self._listener = listener
        self._welcome = welcome
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()
        self._again: asyncio.TimerHandle | None = None
        listener.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._again = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        """Accepts one connection at a time, because the limit on connections may close this before the next."""
        try:
            connection, _ = self._listener.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:
            self._loop.remove_reader(self._listener.fileno())
            self._again = self._loop.call_later(_AGAIN, self._listen)
            return
        connection.setblocking(False)
        task = self._loop.create_task(self._welcome(connection))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def close(self) -> None:
        """Accepts no more connections. Those already accepted are still passed to ``welcome``."""
        if self._listener.fileno() == -1:
            return
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    async def wait_closed(self) -> None:
        """Gives up connections whose header or handshake is incomplete."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
