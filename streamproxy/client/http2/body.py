"""Sending a request body on its stream while its response may already be coming."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Final

from streamproxy.client.http1.request import BodyFraming
from streamproxy.client.http2.connection import Http2Connection
from streamproxy.client.http2.state import ResponseState
from streamproxy.errors import BadRequest
from streamproxy.wire.headers import Headers
from streamproxy.wire.http2.head import trailer_fields

# RFC 9110 section 10.1.1: a client does not wait for 100 (Continue) for ever; old servers never send it.
CONTINUE_TIMEOUT: Final = 1.0


class BodySender:
    """Sends one body, as a task from `start` to its end or to `cancel`.

    ``pulled`` says whether ``content`` has been asked for anything: if not, the request can still be repeated.
    ``trailers`` returns the fields that end the body.
    """

    __slots__ = ("_connection", "_content", "_framing", "_progress", "_state", "_task", "_trailers", "pulled")

    def __init__(
        self,
        connection: Http2Connection,
        state: ResponseState,
        content: AsyncIterator[bytes],
        framing: BodyFraming,
        progress: Callable[[str], None] | None,
    ) -> None:
        self._connection = connection
        self._state = state
        self._content = content
        self._framing = framing
        self._progress = progress
        self._trailers: Callable[[], Headers] | None = None
        self._task: asyncio.Task[None] | None = None
        self.pulled = False

    def start(self, trailers: Callable[[], Headers] | None) -> None:
        """Begin to send; ``trailers`` returns the fields behind the body, once it has ended."""
        self._trailers = trailers
        self._task = asyncio.get_running_loop().create_task(self._run())

    def cancel(self) -> None:
        """Send no more; nothing happens when the body is out."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        """Send the body, as fast as the stream takes it; what goes wrong with it fails the exchange."""
        connection, state = self._connection, self._state
        try:
            if self._framing.expects_continue:
                await connection.continued(state, CONTINUE_TIMEOUT)
                if state.headers is not None:
                    return  # a final response came instead
            if state.closed:
                return
            self.pulled = True
            await self._send()
        except Exception as error:
            state.fail(error)
        else:
            if self._progress is not None and not state.closed:
                self._progress("head")

    async def _send(self) -> None:
        connection, state, left = self._connection, self._state, self._framing.length
        async for chunk in self._content:
            if left is not None:
                left -= len(chunk)
                if left < 0:
                    raise BadRequest("The request body is longer than its Content-Length")
            if chunk:
                connection.send(state, chunk)
            await connection.room(state)
            if state.closed:
                return
        if left:
            raise BadRequest("The request body is shorter than its Content-Length")
        connection.end(state, trailer_fields(self._trailers()) if self._trailers is not None else [])
