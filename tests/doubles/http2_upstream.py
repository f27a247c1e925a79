"""The scripted upstream over HTTP/2, so that the behaviour suite runs for our client of HTTP/2 too.

While `Upstream.http2` is set, a connection that begins with HTTP/2's preface is a `Front`, and each of its streams is a
`Conn` of its own with a script of its own: one request, one response. What the script says as HTTP/1.1 is said in the
words of HTTP/2, piece by piece: a head becomes HEADERS, the data of chunks DATA, trailers HEADERS again, and an end
that leaves the response unfinished RST_STREAM. A script that says what HTTP/2 has no word for fails with `Unsayable`:
such tests are marked.

A connection that begins with anything else is one of HTTP/1.1, as WebSocket's handshakes are.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

import hpack
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import DataReceived, RequestReceived, StreamEnded, StreamReset, TrailersReceived, WindowUpdated
from h2.exceptions import ProtocolError

from tests.doubles.connection import Head, Headers

if TYPE_CHECKING:
    from tests.doubles.upstream import Conn

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
OF_THE_CONNECTION = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
BODYLESS = frozenset({204, 304})


class Unsayable(Exception):
    """HTTP/2 has no word for what a script said."""


class _Encoder(hpack.Encoder):
    """Huffman's code costs the square of a field's length here."""

    def encode(self, headers: Any, huffman: bool = False) -> bytes:
        return super().encode(headers, huffman=False)


class Front(asyncio.Protocol):
    """One connection: HTTP/2 by its first bytes, or handed on to a `Conn`."""

    def __init__(self, make: Callable[[], Conn]) -> None:
        self.make = make
        self.transport: asyncio.Transport
        self.streams: dict[int, Stream] = {}
        self.h2: H2Connection | None = None
        self.paused = False
        self._begun = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.h2 is None:
            self._begun += data
            if len(self._begun) < len(PREFACE) and PREFACE.startswith(self._begun):
                return
            data = self._begun
            if not data.startswith(PREFACE):
                self._hand_on(data)
                return
            settings = H2Configuration(
                client_side=False, header_encoding=None, validate_inbound_headers=False, validate_outbound_headers=False
            )
            self.h2 = H2Connection(settings)
            self.h2.encoder = _Encoder()
            self.h2.initiate_connection()
        for event in self.h2.receive_data(data):
            self._take(event)
        self.flush()

    def _hand_on(self, data: bytes) -> None:
        conn = self.make()
        self.transport.set_protocol(conn)
        conn.connection_made(self.transport)
        conn.data_received(data)

    def _take(self, event: Any) -> None:
        assert self.h2 is not None
        if isinstance(event, RequestReceived):
            whole = event.stream_ended is not None
            self.streams[event.stream_id] = Stream(self, event.stream_id, list(event.headers), whole)
        elif isinstance(event, WindowUpdated):
            for stream in list(self.streams.values()):
                stream.flush()
        elif (found := self.streams.get(getattr(event, "stream_id", 0) or 0)) is None:
            pass
        elif isinstance(event, DataReceived):
            found.feed(event.data, event.flow_controlled_length)
        elif isinstance(event, TrailersReceived):
            found.trailers = list(event.headers)
        elif isinstance(event, StreamEnded):
            found.feed_end()
        elif isinstance(event, StreamReset):
            found.lost()

    def flush(self) -> None:
        assert self.h2 is not None
        self.transport.write(self.h2.data_to_send())

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        for stream in list(self.streams.values()):
            stream.flush()

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        for stream in list(self.streams.values()):
            stream.lost()


class _NoSocket:
    """A stream has none that could be reset."""

    family = socket.AF_UNIX


class Stream(asyncio.Transport):
    """One stream, as the transport of a `Conn`: HTTP/1.1 on the script's side, HTTP/2 on the wire."""

    def __init__(self, front: Front, number: int, fields: Headers, whole: bool) -> None:
        super().__init__()
        self.front = front
        self.number = number
        self.trailers: Headers = []
        self._closing = False
        self._asked_whole = whole
        self._reading = True
        self._unread = 0  # bytes of the window that were not given back
        self._out = bytearray()  # of the body, for the windows
        self._end: Headers | None = None  # behind the body; None: it goes on
        self._ended = False  # END_STREAM or RST_STREAM is out
        self._said = Response(self, dict(fields).get(b":method") == b"HEAD")
        self.conn = front.make()
        self.conn.connection_made(self)
        self._chunked = not whole and b"content-length" not in dict(fields)
        self.conn.data_received(_request(fields, self._chunked))

    # From the client.

    def feed(self, data: bytes, length: int) -> None:
        self._unread += length
        if data:
            self.conn.data_received(b"%x\r\n%s\r\n" % (len(data), data) if self._chunked else data)
        self._give_back()

    def feed_end(self) -> None:
        self._asked_whole = True
        if self._chunked:
            lines = b"".join(b"%s: %s\r\n" % pair for pair in self.trailers)
            self.conn.data_received(b"0\r\n%s\r\n" % lines)

    def lost(self) -> None:
        """The stream is over, by whichever side."""
        self.front.streams.pop(self.number, None)
        self._ended = True
        self._out.clear()
        if not self._closing:
            self._closing = True
            self.conn.eof_received()
        asyncio.get_running_loop().call_soon(self.conn.connection_lost, None)

    def _give_back(self) -> None:
        if self._unread and self._reading and not self._ended:
            assert self.front.h2 is not None
            self.front.h2.acknowledge_received_data(self._unread, self.number)
            self._unread = 0

    # To the client, from `Response`.

    def head(self, fields: Headers, end: bool) -> None:
        assert self.front.h2 is not None
        self.front.h2.send_headers(self.number, fields, end_stream=end)
        if end:
            self._over()
        self.front.flush()

    def body(self, data: bytes) -> None:
        self._out += data
        self.flush()

    def finish(self, trailers: Headers) -> None:
        self._end = trailers
        self.flush()

    def flush(self) -> None:
        """Send what the windows allow."""
        h2 = self.front.h2
        assert h2 is not None
        while self._out and not self.front.paused and not self._ended:
            size = min(h2.local_flow_control_window(self.number), h2.max_outbound_frame_size, len(self._out))
            if size <= 0:
                break
            h2.send_data(self.number, bytes(self._out[:size]))
            del self._out[:size]
        if self._end is not None and not self._out and not self._ended:
            if self._end:
                h2.send_headers(self.number, self._end, end_stream=True)
            else:
                h2.end_stream(self.number)
            self._over()
        self.front.flush()
        if self._out or self.front.paused:
            self.conn.pause_writing()
        else:
            self.conn.resume_writing()

    def _over(self) -> None:
        """The response is whole. The script may read on in the request's body, if there is more."""
        self._ended = True
        if self._asked_whole:
            asyncio.get_running_loop().call_soon(self.lost)

    def _reset(self, code: ErrorCodes) -> None:
        if self.number in self.front.streams and not (self._ended and self._asked_whole):
            assert self.front.h2 is not None
            with contextlib.suppress(ProtocolError):  # it is closed
                self.front.h2.reset_stream(self.number, code)
            self.front.flush()
        self.lost()

    # asyncio.Transport

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        if not self._closing:
            self._said.feed(bytes(data))

    def write_eof(self) -> None:
        if self._said.ends_with_close:
            self.finish([])
        elif not self._said.whole:
            self._reset(ErrorCodes.INTERNAL_ERROR)

    def close(self) -> None:
        if self._closing:
            return
        self._closing = True
        if self._said.ends_with_close:
            self.finish([])
        elif not self._said.whole:
            self._reset(ErrorCodes.INTERNAL_ERROR)
        elif not self._asked_whole and not self._out:
            self._reset(ErrorCodes.NO_ERROR)

    def abort(self) -> None:
        if self.number in self.front.streams:
            self._closing = True
            self._reset(ErrorCodes.INTERNAL_ERROR)

    def is_closing(self) -> bool:
        return self._closing

    def pause_reading(self) -> None:
        self._reading = False

    def resume_reading(self) -> None:
        self._reading = True
        self._give_back()
        self.front.flush()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """A `Conn` waits until the windows have taken everything."""

    def get_write_buffer_size(self) -> int:
        return len(self._out) + self.front.transport.get_write_buffer_size()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return _NoSocket() if name == "socket" else self.front.transport.get_extra_info(name, default)


def _request(fields: Headers, chunked: bool) -> bytes:
    """The head of a request as HTTP/1.1 would say it."""
    said = dict(fields)
    lines = [b"%s %s HTTP/1.1" % (said[b":method"], said[b":path"])]
    if b":authority" in said:
        lines.append(b"host: " + said[b":authority"])
    lines += [b"%s: %s" % pair for pair in fields if not pair[0].startswith(b":")]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
    return b"\r\n".join([*lines, b"", b""])


class Response:
    """Reads what a script says as HTTP/1.1, and says it on a stream as it comes."""

    def __init__(self, stream: Stream, asked_head: bool) -> None:
        self._stream = stream
        self._asked_head = asked_head
        self._buffer = bytearray()
        self._read: Callable[[], bool] = self._read_head
        self._left = 0  # bytes of the body, or of the chunk
        self.whole = self.ends_with_close = False

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer and self._read():
            pass

    def _read_head(self) -> bool:
        raw, blank, rest = bytes(self._buffer).partition(b"\r\n\r\n")
        if not blank:
            return False
        self._buffer[:] = rest
        lines = raw.split(b"\r\n")
        if not lines[0].startswith(b"HTTP/1.") or any(b":" not in line or line[:1] == b" " for line in lines[1:]):
            raise Unsayable(f"HTTP/2 can't say {raw!r}")
        head = Head.parse(raw)
        if head.status == 101:
            raise Unsayable("HTTP/2 has no 101")
        pairs = [(name.lower(), value) for name, value in head.headers]
        fields = [(b":status", b"%d" % head.status), *(pair for pair in pairs if pair[0] not in OF_THE_CONNECTION)]
        end = head.status >= 200 and self._begin(head)
        self._stream.head(fields, end)
        if end:
            self._finished()
        return True

    def _begin(self, head: Head) -> bool:
        """Choose how the body is read; whether there is none."""
        length = next(iter(head.all("content-length")), None)
        if self._asked_head or head.status in BODYLESS:
            return True
        if head.chunked:
            self._read = self._read_size
            return False
        self._left = int(length or 0)
        self.ends_with_close = length is None
        self._read = self._read_sized if length is not None else self._read_all
        return length is not None and not self._left

    def _read_all(self) -> bool:
        self._pass(len(self._buffer))
        return False

    def _read_sized(self) -> bool:
        self._left -= self._pass(min(self._left, len(self._buffer)))
        if not self._left:
            self._finished()
            self._stream.finish([])
        return bool(self._buffer)

    def _read_size(self) -> bool:
        line, end, rest = bytes(self._buffer).partition(b"\r\n")
        if not end:
            return False
        try:
            self._left = int(line.split(b";")[0], 16)
        except ValueError:
            raise Unsayable(f"HTTP/2 has no chunk of the size {line!r}") from None
        self._buffer[:] = rest
        self._read = self._read_chunk if self._left else self._read_trailers
        return True

    def _read_chunk(self) -> bool:
        if self._left:
            self._left -= self._pass(min(self._left, len(self._buffer)))
        if self._left or len(self._buffer) < 2:
            return False
        if self._buffer[:2] != b"\r\n":
            raise Unsayable("HTTP/2 has no chunk that does not end")
        del self._buffer[:2]
        self._read = self._read_size
        return True

    def _read_trailers(self) -> bool:
        raw, end, rest = (b"\r\n" + bytes(self._buffer)).partition(b"\r\n\r\n")
        if not end:
            return False
        self._buffer[:] = rest
        self._finished()
        self._stream.finish([(name.lower(), value) for name, value in Head.parse(b"\r\n" + raw.lstrip()).headers])
        return True

    def _pass(self, size: int) -> int:
        self._stream.body(bytes(self._buffer[:size]))
        del self._buffer[:size]
        return size

    def _finished(self) -> None:
        self.whole = True
        self._read = self._read_excess

    def _read_excess(self) -> bool:
        raise Unsayable(f"HTTP/2 has nothing behind a response: {bytes(self._buffer[:100])!r}")
