"""Sends a request body, while its response may already arrive."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from streamproxy.client.http1.connection import Connection
from streamproxy.client.http1.request import BodyFraming
from streamproxy.errors import BadRequest
from streamproxy.wire.chunked import LAST_CHUNK, chunk_parts

# A client does not wait indefinitely for 100 (Continue), which old servers never send (RFC 9110 section 10.1.1).
CONTINUE_TIMEOUT: Final = 1.0


class BodySender:
    """Sends one body, in a task that runs from `start` to the end of the body or to `cancel`.

    ``pulled`` is whether anything was requested from ``content``; if not, the request can still be repeated.
    """

    __slots__ = ("_connection", "_content", "_framing", "_progress", "_task", "pulled")

    def __init__(
        self,
        connection: Connection,
        content: AsyncIterator[bytes],
        framing: BodyFraming,
        progress: Callable[[str], None] | None,
    ) -> None:
        self._connection = connection
        self._content = content
        self._framing = framing
        self._progress = progress
        self._task: asyncio.Task[None] | None = None
        self.pulled = False

    def start(self) -> None:
        """Starts to send."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """Stops sending. Does nothing if the whole body was sent."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        """Sends the body as fast as the transport accepts it; an error fails the exchange."""
        connection = self._connection
        try:
            if self._framing.expects_continue:
                await connection.continued(CONTINUE_TIMEOUT)
                if connection.response.headers is not None:
                    return  # a final response arrived instead
            if connection.closed:
                return
            self.pulled = True
            if self._framing.length is None:
                await self._send_chunked(connection)
            else:
                await self._send_sized(connection, self._framing.length)
        except Exception as error:
            connection.fail(error)
        else:
            connection.sent = True
            if self._progress is not None and not connection.closed:
                self._progress("head")

    async def _send_sized(self, connection: Connection, length: int) -> None:
        left = length
        async for chunk in self._content:
            left -= len(chunk)
            if left < 0:
                raise BadRequest("The request body is longer than its Content-Length")
            if chunk:
                connection.write(chunk)
            await connection.drained()
        if left:
            raise BadRequest("The request body is shorter than its Content-Length")

    async def _send_chunked(self, connection: Connection) -> None:
        async for chunk in self._content:
            if chunk:
                connection.writelines(chunk_parts(chunk))
            await connection.drained()
        connection.write(LAST_CHUNK)
