"""The half of a connection that writes a request."""

from __future__ import annotations

import asyncio
import socket
from typing import cast

from streamproxy.client.connection import ClientConnection
from streamproxy.client.secure import TlsTransport
from streamproxy.wire.gather import GATHERS


class SendingConnection(ClientConnection):
    """A connection with a transport to write to, which may have to be waited for."""

    __slots__ = ("_drained", "_transport", "_write_paused")

    def __init__(self, loop: asyncio.AbstractEventLoop, sock: socket.socket) -> None:
        super().__init__(loop, sock, 1)
        self._transport: asyncio.Transport | TlsTransport = cast(asyncio.Transport, None)  # until connection_made
        self._write_paused = False
        self._drained: asyncio.Future[None] | None = None

    def write(self, data: bytes) -> None:
        """Writes bytes to the transport. Does nothing on a closed connection."""
        if not self.closed:
            self._transport.write(data)

    def writelines(self, parts: list[bytes]) -> None:
        """Writes several strings of bytes to the transport. Does nothing on a closed connection."""
        if self.closed:
            return
        if GATHERS:
            self._transport.writelines(parts)
        else:
            self._transport.write(b"".join(parts))

    async def drained(self) -> None:
        """Waits until the transport accepts more."""
        while self._write_paused and not self.closed:
            self._drained = self._loop.create_future()
            await self._drained

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the loop."""
        self._transport = cast(asyncio.Transport | TlsTransport, transport)


def settle(future: asyncio.Future[None] | None) -> None:
    """Wakes whoever awaits ``future``, if anybody still does."""
    if future is not None and not future.done():
        future.set_result(None)
