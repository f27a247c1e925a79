"""The client's end of a tunnel where the server hands out messages: frames are made of messages, and the reverse.

Theory of operation. `MessageStream` is a `ByteStream` whose peer is an ASGI server. The tunnel reads the client's
messages from it as masked frames, and writes the upstream's frames to it, which become messages in the `Outbox`. The
sans-io part of the websockets library parses and builds the frames, answers the upstream's pings, and holds the state
of the closing handshake. States::

    OPEN ──a Close frame of either end──▶ ENDED ──its answer, or the end of patience──▶ LOST
      └────────────────────the connection is lost───────────────────────────────────────▲

ENDED (``_ended``): no message passes in either direction. LOST (``_lost``): the receiver has been told.

Frames that are due are delivered to the tunnel in a turn of the event loop of their own, never inside `write`. While
the tunnel has paused, they wait. Once more than `READ_AHEAD` bytes do, `received` does not return, and `write` reports
that it takes no more: an upstream that sends pings and reads no answer would fill the memory.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Final

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side

from streamproxy.errors import BadResponse
from streamproxy.exchange.stream import ByteStream, Receiver
from streamproxy.proxy.outbox import GRACE, READ_AHEAD, Message, Outbox, settle

_NO_STATUS: Final = 1005
_ABNORMAL: Final = 1006
_NORMAL: Final = 1000


class MessageStream(ByteStream):
    """The client's end of a tunnel, made of messages: it reads as the bytes of a client, and takes a server's."""

    __slots__ = (
        "_ended",
        "_eof_sent",
        "_fragments",
        "_held",
        "_lost",
        "_on_fault",
        "_out",
        "_parting",
        "_paused",
        "_pending",
        "_protocol",
        "_receiver",
        "_room",
        "_text",
    )

    def __init__(self, out: Outbox, on_fault: Callable[[BadResponse], None]) -> None:
        self._out = out
        self._on_fault = on_fault  # called when the upstream's frames are not valid
        self._protocol = Protocol(Side.CLIENT, max_size=None)
        self._pending: deque[bytes] = deque()  # frames that the tunnel has not taken
        self._held = 0
        self._paused = True
        self._fragments: list[bytes] = []
        self._text = False
        self._ended = False  # the client sends no more
        self._eof_sent = False
        self._lost = False
        self._parting: asyncio.TimerHandle | None = None
        self._room: asyncio.Future[None] | None = None
        self._receiver: Receiver | None = None

    # For the tunnel.

    @property
    def pingable(self) -> bool:
        return False

    def start(self, receiver: Receiver) -> None:
        self._receiver = receiver
        self._paused = False
        asyncio.get_running_loop().call_soon(self._deliver)

    def write(self, data: bytes) -> bool:
        protocol = self._protocol
        if self._lost or self._eof_sent:
            return True
        protocol.receive_data(data)
        self._take_events()
        self._hand_on()
        if protocol.parser_exc is not None:
            self._fail()
        return not (self._out.full or self._full)

    async def drained(self) -> None:
        while (self._out.full or self._full) and not self._lost:
            await self._out.drained()
            await self._has_room()

    def set_write_limit(self, high: int) -> None:
        self._out.limit = high

    def pause(self) -> None:
        self._paused = True

    def resume(self) -> None:
        if self._paused:
            self._paused = False
            asyncio.get_running_loop().call_soon(self._deliver)

    def write_eof(self) -> None:
        # ASGI has no half-close, and what the client has left to say is not worth keeping a socket for.
        self._eof_sent = True
        asyncio.get_running_loop().call_soon(self.lose)

    def close(self) -> None:
        self._eof_sent = True
        self.stop()

    def abort(self) -> None:
        self.close()

    def stop(self) -> None:
        """Call back no more."""
        self._receiver = None
        if self._parting is not None:
            self._parting.cancel()

    # What the upstream says.

    def _take_events(self) -> None:
        for event in self._protocol.events_received():
            if not isinstance(event, Frame):
                continue
            if event.opcode is Opcode.CLOSE:
                self._closed_by_upstream()
            elif event.opcode is Opcode.TEXT or event.opcode is Opcode.BINARY or event.opcode is Opcode.CONT:
                self._take_data(event)

    def _take_data(self, frame: Frame) -> None:
        """Collect the fragments of a message: ASGI has whole ones only."""
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
        self._fragments.append(bytes(frame.data))
        if not frame.fin:
            return
        data = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
        self._fragments.clear()
        message: Message = {"type": "websocket.send"}
        if self._text:
            try:
                message["text"] = data.decode()
            except UnicodeDecodeError:
                self._protocol.fail(1007, "not valid UTF-8")
                self._fail()
                return
        else:
            message["bytes"] = data
        if not self._ended:
            self._out.put(message, len(data))

    def _closed_by_upstream(self) -> None:
        close = self._protocol.close_rcvd
        assert close is not None
        if self._ended:  # the answer to the client's own
            asyncio.get_running_loop().call_soon(self.lose)
            return
        self._ended = True
        code = _NORMAL if close.code == _NO_STATUS else close.code  # a server can't be asked for an empty one
        self._out.put({"type": "websocket.close", "code": code, "reason": close.reason})

    def _fail(self) -> None:
        self._ended = self._eof_sent = True
        self._hand_on()
        self._on_fault(BadResponse("The upstream's WebSocket frames are not valid"))

    # What the client says.

    async def received(self, message: Message) -> None:
        """A message of the client; returns when another may be received."""
        if self._ended:
            return
        text = message.get("text")
        if text is not None:
            self._protocol.send_text(text.encode())
        else:
            self._protocol.send_binary(message.get("bytes") or b"")
        self._hand_on()
        await self._has_room()

    def left(self, message: Message) -> None:
        """The client has closed the socket, or is lost."""
        code = message.get("code", _NO_STATUS)
        # uvicorn says 1005 of a lost connection, and of a Close frame without a code with a reason beside it.
        lost = code == _ABNORMAL or (code == _NO_STATUS and "reason" not in message)
        if not self._ended:
            self._ended = True
            try:
                if not lost and code == _NO_STATUS:
                    self._protocol.send_close()
                elif not lost:
                    self._protocol.send_close(code, message.get("reason") or "")
            except ProtocolError:
                lost = True  # a code that no frame can carry
        self._hand_on()
        if lost or self._protocol.close_rcvd is not None:
            self.lose()
        else:
            self._parting = asyncio.get_running_loop().call_later(GRACE, self.lose)

    def lose(self) -> None:
        """Nothing passes any more."""
        if self._lost:
            return
        self._paused = False
        self._deliver()
        self._lost = True
        settle(self._room)
        receiver = self._receiver
        self.stop()
        if receiver is not None:
            receiver.lost()

    @property
    def _full(self) -> bool:
        """Whether more frames wait for the tunnel than may: the client's, or answers to the upstream's pings."""
        return self._held > READ_AHEAD

    async def _has_room(self) -> None:
        while self._full and not self._lost:
            if self._room is None or self._room.done():
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)  # two may wait for it

    def _hand_on(self) -> None:
        """Take the frames that are due, and have them delivered in a turn of their own."""
        idle = not self._pending
        for data in self._protocol.data_to_send():
            if data:
                self._pending.append(data)
                self._held += len(data)
        if idle and self._pending and not self._paused:
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        while self._pending and not self._paused and self._receiver is not None:
            data = self._pending.popleft()
            self._held -= len(data)
            self._receiver.received(data)
        if not self._full:
            settle(self._room)
