"""One stream of a connection as its reader sees it, without I/O.

Theory of operation. A response is a head, perhaps behind some of informational responses, a body, and perhaps trailer
fields. It is *done* when the upstream has ended it in good order, and has a ``fault`` when it never will be. A response
to HEAD, a 204 and a 304 are done with their head (RFC 9110 section 6.4.1), since an upstream whose handler of GET
serves HEAD too may never end them. The stream is *closed* when it takes no part in the connection any more; a response
may be done before that, while the body of its request is still on its way.

The body goes to its one reader in one of two ways, as over HTTP/1.1: pulled, it waits in ``chunks``; pushed, it is
handed to the ``sink`` in the read itself. What the reader has not passed on yet is ``owed``: bytes of the stream's
window that the upstream gets back when the reader waits for more. So a slow reader holds its own stream, and no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from streamproxy.client.base import Sink
from streamproxy.errors import BadResponse, ConnectionTerminated, ResponseIncomplete, UpstreamBusy
from streamproxy.wire.headers import Headers
from streamproxy.wire.http1 import MAX_FIELDS
from streamproxy.wire.http2.head import read_response
from streamproxy.wire.http2.session import ENHANCE_YOUR_CALM, PROTOCOL_ERROR, REFUSED_STREAM, SessionFailed

MAX_HEAD: Final = 65536  # bytes of all heads of one response
_FIELD: Final = 32  # bytes that a field counts beyond its own (RFC 9113 section 6.5.2)
# Chunks below this are joined when several wait: handing on one more costs ten times what copying it does.
_JOIN_BELOW: Final = 8192

_BODILESS: Final = (204, 304)

Informational = Callable[[int, Headers], None]


class ResponseState:
    """What is known of the response on one stream.

    ``headers`` is None until the final head is complete; ``status`` comes with it. ``refused`` says that the upstream
    has not processed the request, and ``touched`` that anything at all has come on the stream. ``room`` is what the
    sender of the request's body waits for.
    """

    __slots__ = (
        "_bodiless",
        "_informational",
        "_interim",
        "_waiter",
        "chunks",
        "closed",
        "continued",
        "done",
        "fault",
        "headers",
        "number",
        "owed",
        "refused",
        "room",
        "sink",
        "status",
        "touched",
        "trailers",
    )

    def __init__(self, informational: Informational | None, asked_head: bool = False) -> None:
        self.number = 0
        self._bodiless = asked_head  # whether its head is all of it
        self._informational = informational
        self._interim = 0  # bytes of informational heads
        self._waiter: asyncio.Future[None] | None = None
        self.room: asyncio.Future[None] | None = None
        self.headers: Headers | None = None
        self.status = 0
        self.trailers: Headers = []
        self.chunks: list[bytes] = []
        self.sink: Sink | None = None
        self.owed = 0
        self.continued = self.done = self.closed = self.refused = self.touched = False
        self.fault: BaseException | None = None

    # From the connection.

    def inform(self, fields: tuple[tuple[bytes, bytes], ...]) -> None:
        """An informational response. Raises BadResponse, and SessionFailed on a flood of them."""
        self.touched = True
        status, headers = read_response(fields, MAX_FIELDS)
        self._interim += sum(len(name) + len(value) + _FIELD for name, value in fields)
        if self._interim > MAX_HEAD:
            raise SessionFailed(ENHANCE_YOUR_CALM, "too many informational responses")
        if status == 100:
            self.continued = True
            self.wake_sender()
        elif self._informational is not None:
            self._informational(status, headers)

    def begin(self, fields: tuple[tuple[bytes, bytes], ...], end: bool) -> None:
        """The final head. Behind a fault, perhaps in the same read, it changes nothing. Raises BadResponse."""
        self.touched = True
        if self.fault is not None:
            return
        self.status, self.headers = read_response(fields, MAX_FIELDS)
        self.done = end or self._bodiless or self.status in _BODILESS
        self.wake()
        self.wake_sender()

    def feed(self, chunk: bytes, end: bool) -> bool:
        """A piece of the body; returns whether it has gone on already."""
        passed = True
        if chunk:
            sink = self.sink
            if sink is None:
                self.chunks.append(chunk)
                passed = False
            else:
                passed = sink(chunk, b"")
            if not passed:
                self.owed += len(chunk)
        if end:
            self.done = True
        if end or not passed:
            self.wake()
        return passed

    def finish(self, trailers: tuple[tuple[bytes, bytes], ...]) -> None:
        """The body has ended with these fields. More than may stand behind chunks make the response incomplete."""
        if len(trailers) > MAX_FIELDS:
            self.fail(ResponseIncomplete(note=f"more than {MAX_FIELDS} trailer fields"))
            return
        self.trailers = list(trailers)
        self.done = True
        self.wake()

    def close(self, code: int, by_peer: bool) -> None:
        """The stream is closed with this error code, by a frame of the upstream's or by the rules of HTTP/2."""
        self.closed = True
        if self.done or self.fault is not None:
            self.wake_sender()
            return
        note = f"stream reset with error code {code:#x}" if by_peer else f"the stream broke rule {code:#x}"
        self.refused = code == REFUSED_STREAM
        fault: BaseException
        if code == ENHANCE_YOUR_CALM:
            fault = UpstreamBusy(note=note) if self.headers is None else ResponseIncomplete(note=note)
        elif self.headers is not None:
            fault = ResponseIncomplete(note=note)
        elif code == PROTOCOL_ERROR and not by_peer:
            fault = BadResponse(note=note)
        else:
            fault = ConnectionTerminated(note=note)
        self.fail(fault)

    def fail(self, fault: BaseException) -> None:
        """The response will never be complete, unless it is already."""
        if not self.done and self.fault is None:
            self.fault = fault
        self.wake()
        self.wake_sender()

    # For the reader.

    def take(self) -> bytes:
        """The next chunk; there is one. Small chunks that wait together are one."""
        chunks = self.chunks
        chunk = chunks.pop(0)
        if chunks and len(chunk) < _JOIN_BELOW:
            chunk = b"".join((chunk, *chunks))
            chunks.clear()
        return chunk

    def wait(self, loop: asyncio.AbstractEventLoop) -> asyncio.Future[None]:
        """A future of the next change. For one reader at a time."""
        self._waiter = waiter = loop.create_future()
        return waiter

    def wake(self) -> None:
        """Tell the reader to look again; nothing more is pushed."""
        self.sink = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    def wake_sender(self) -> None:
        """Tell the sender of the request's body to look again."""
        room, self.room = self.room, None
        if room is not None and not room.done():
            room.set_result(None)
