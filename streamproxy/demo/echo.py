"""``/ws``: a WebSocket that sends every message back.

Our own servers carry a WebSocket as a stream of bytes, in which `Echo` responds to frames (RFC 6455 section 5). Other
ASGI servers use the ``websocket`` scope.
"""

from __future__ import annotations

import asyncio

from starlette.types import Receive, Send

from streamproxy.demo.call import Call, Refused
from streamproxy.exchange.extension import DownstreamConnection
from streamproxy.exchange.stream import Callbacks
from streamproxy.wire.websocket import CLOSE, PING, accept_of, close_payload, control_frame

MOST = 1 << 20  # bytes of one frame
_PONG = 10
_TOO_BIG = 1009
_PROTOCOL_ERROR = 1002


class Echo:
    """Responds to a client's frames: `feed` takes bytes and returns bytes. ``closed`` is set after a Close."""

    def __init__(self) -> None:
        self.closed = False
        self._held = bytearray()

    def feed(self, data: bytes) -> bytes:
        """Takes the bytes of one read. Returns the bytes to send."""
        self._held += data
        answer = b""
        while not self.closed and (frame := self._frame()) is not None:
            answer += frame
        return answer

    def _frame(self) -> bytes | None:
        """Returns the response to the first buffered frame, or None if it is incomplete."""
        held = self._held
        if len(held) < 2:
            return None
        first, length, start = held[0], held[1] & 0x7F, 2
        if not held[1] & 0x80:
            return self._close(_PROTOCOL_ERROR)  # clients mask their frames (section 5.1)
        if length >= 126:
            size = 2 if length == 126 else 8
            if len(held) < start + size:
                return None
            length, start = int.from_bytes(held[start : start + size], "big"), start + size
        if length > MOST:
            return self._close(_TOO_BIG)
        if len(held) < start + 4 + length:
            return None
        mask, masked = held[start : start + 4], held[start + 4 : start + 4 + length]
        payload = bytes(byte ^ mask[at & 3] for at, byte in enumerate(masked))
        del held[: start + 4 + length]
        return self._answer(first, payload)

    def _answer(self, first: int, payload: bytes) -> bytes:
        opcode = first & 0x0F
        if opcode == CLOSE:
            self.closed = True
            return control_frame(CLOSE, payload[:2])
        if opcode == PING:
            return control_frame(_PONG, payload)
        if opcode > CLOSE:
            return b""
        size = len(payload)
        if size < 126:
            return bytes((first, size)) + payload
        if size < 1 << 16:
            return bytes((first, 126)) + size.to_bytes(2, "big") + payload
        return bytes((first, 127)) + size.to_bytes(8, "big") + payload

    def _close(self, code: int) -> bytes:
        self.closed = True
        return control_frame(CLOSE, close_payload(code))


async def echo(call: Call) -> None:
    """Accepts a handshake from our own server, and echoes until the client closes or leaves."""
    connection = call.connection
    if connection is None or not connection.wants_websocket:
        raise Refused(426, "This is a WebSocket: connect with a client for one", fields=((b"upgrade", b"websocket"),))
    await _echo(connection, accept_of(call.header(b"sec-websocket-key")))


async def _echo(connection: DownstreamConnection, accept: bytes) -> None:
    stream = connection.upgrade(
        [(b"upgrade", b"websocket"), (b"connection", b"Upgrade"), (b"sec-websocket-accept", accept)]
    )
    over, frames = asyncio.Event(), Echo()

    def take(data: bytes) -> None:
        stream.write(frames.feed(data))
        if frames.closed:
            over.set()

    try:
        stream.start(Callbacks(take, over.set, over.set))
        await over.wait()
    finally:
        stream.close()


async def echo_messages(receive: Receive, send: Send) -> None:
    """Echoes on an ASGI server that reads the frames itself."""
    await receive()
    await send({"type": "websocket.accept"})
    while (message := await receive())["type"] == "websocket.receive":
        said = {key: message[key] for key in ("bytes", "text") if message.get(key) is not None}
        await send({"type": "websocket.send", **said})
