"""Connections that begin with a header of the PROXY protocol: accepted, and read up to its last byte.

The header comes before TLS. A transport would read beyond it, and what it read of the handshake would be lost to the
TLS layer, so these connections are accepted here: the header is read from the socket itself, exactly its bytes, and
only then does the event loop get the socket.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from streamproxy.wire.forwarded import Network, is_trusted
from streamproxy.wire.proxy_protocol import Announced, BadProxyHeader, ProxyHeader

_AGAIN = 0.1  # seconds until an accept is tried again that has failed, for want of descriptors


async def read_announcement(
    connection: socket.socket, networks: Sequence[Network], patience: float
) -> Announced | None:
    """Read the header of a connection, if it comes from one of ``networks``; from elsewhere it may not have one.

    Raises BadProxyHeader, OSError, or TimeoutError after ``patience`` seconds. Not a byte of what follows the header is
    read.
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
                raise BadProxyHeader("the connection ended within its PROXY header")
            header.feed(data)
    return header.announced


class Acceptor:
    """Accepts connections in place of a loop's server, and is closed like one.

    ``welcome`` gets each connection, in a task of its own, and has to close it.
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
        """Take one connection: whoever counts them may close us before the next."""
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
        """Accept no more. Those that were accepted are welcomed."""
        if self._listener.fileno() == -1:
            return
        if self._again is not None:
            self._again.cancel()
        self._loop.remove_reader(self._listener.fileno())
        self._listener.close()

    async def wait_closed(self) -> None:
        """Give up those whose header or handshake still goes on."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
