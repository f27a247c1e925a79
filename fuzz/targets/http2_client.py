"""Our HTTP/2 connection to an upstream: frames in, responses out. The oracle is hyper-h2.

The input is what an upstream sends to a connection with a GET on stream 1, a POST on stream 3 and a HEAD on stream 5.
Whatever it is, no exception leaves the connection, every stream ends once the connection is lost, and a response that
is complete is the same however the reads are cut. What we take for a complete response, hyper-h2 takes for the same
one, or refuses.
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import Any, NamedTuple, cast

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, ResponseReceived, StreamEnded, TrailersReceived
from h2.exceptions import ProtocolError
from hyperframe.frame import Frame, RstStreamFrame

from fuzz.reads import reads_of
from fuzz.targets.http2_server import Words, frames_of, mutate_frames
from streamproxy.client.connection import ClientConnection, Owner
from streamproxy.client.http2.connection import Http2Connection
from streamproxy.client.http2.state import ResponseState
from streamproxy.errors import ExchangeError
from streamproxy.wire.headers import TOKEN, Headers
from streamproxy.wire.http2.frames import PREFACE
from streamproxy.wire.http2.head import request_fields
from tests.unit.server.harness import FakeTransport

_METHODS = ("GET", "POST", "HEAD")
_OK = [(":status", "200")]
_HINTS = [(":status", "103"), ("link", "</a>")]
_TRAILERS = [("grpc-status", "0")]
_FIELDS = (
    (":status", "200"), (":status", "204"), (":status", "304"), (":status", "100"), (":status", "101"),
    (":status", "2x0"), (":path", "/"), ("content-length", "3"), ("content-length", "0"), ("content-length", "x"),
    ("transfer-encoding", "chunked"), ("connection", "close"), ("te", "trailers"), ("upgrade", "websocket"),
    ("X-Upper", "x"), ("x", "a\r\nb: c"), ("x", "a\0b"), ("x:y", "z"), ("", "x"), ("x", " y "), ("set-cookie", "a=b"),
)  # fmt: skip


class Response(NamedTuple):
    """What one stream has brought. ``fault`` is the class of its error."""

    status: int
    headers: Headers | None
    body: bytes
    trailers: Headers
    done: bool
    fault: type[BaseException] | None


class _Pool(Owner):
    def __init__(self) -> None:
        self.ends = 0

    def lost(self, connection: ClientConnection) -> None:
        assert connection.closed

    def closed(self, connection: ClientConnection) -> None:
        self.ends += 1

    def changed(self, connection: ClientConnection) -> None:
        assert connection.capacity >= 0


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def run(reads: list[bytes]) -> list[Response]:
    """Returns what our connection makes of the reads, in the order of `_METHODS`."""
    return _loop().run_until_complete(_run(reads))


async def _run(reads: list[bytes]) -> list[Response]:
    pool, transport = _Pool(), FakeTransport()
    connection = Http2Connection(pool, asyncio.get_running_loop(), cast("Any", None))
    connection.in_use = len(_METHODS)  # the pool's count
    connection.connection_made(transport)
    states = [ResponseState(lambda status, fields: None) for _ in _METHODS]
    for method, state in zip(_METHODS, states, strict=True):
        body = None if method == "POST" else b""
        assert connection.open(state, request_fields(method, b"http", b"/", [(b"host", b"a")]), body, None)
    for read in reads:
        if transport.closed:
            break
        connection.data_received(read)
    connection.eof_received()
    connection.connection_lost(None)
    assert pool.ends == 1
    assert connection.broken
    check_output(transport.data)
    for state in states:
        assert state.done != (state.fault is not None), state.fault
        assert state.closed
        connection.leave(state)
    return [_response(state) for state in states]


def _response(state: ResponseState) -> Response:
    if state.fault is not None:
        assert isinstance(state.fault, ExchangeError), state.fault
    for name, value in [*(state.headers or []), *state.trailers]:
        assert TOKEN.fullmatch(name), name
        assert not set(b"\r\n\0") & set(value), value
    assert state.headers is None or 200 <= state.status <= 999
    fault = type(state.fault) if state.fault is not None else None
    return Response(state.status, state.headers, b"".join(state.chunks), state.trailers, state.done, fault)


def check_output(out: bytes) -> None:
    """The preface, and whole frames on streams that we opened. What is pushed all the same is refused."""
    assert out.startswith(PREFACE)
    out = out[len(PREFACE) :]
    while out:
        found, size = Frame.parse_frame_header(memoryview(out[:9]))
        assert len(out) >= 9 + size
        found.parse_body(memoryview(out[9 : 9 + size]))
        pushed = isinstance(found, RstStreamFrame) and not found.stream_id % 2
        assert found.stream_id in (0, 1, 3, 5) or pushed, found
        out = out[9 + size :]


def check(data: bytes) -> None:
    whole = run([data] if data else [])
    cut = run(reads_of(data) if data else [])
    for ours, other in zip(whole, cut, strict=True):
        # What is at fault first, the stream or the connection, may depend on the cuts.
        assert ours[:5] == other[:5] or not (ours.done or other.done), (ours, other)
    reference = hyper_h2(data)
    for ours, theirs in zip(whole, reference, strict=True):
        if ours.done and theirs is not None:
            assert ours[:4] == theirs, (ours, theirs)


def hyper_h2(data: bytes) -> list[tuple[int, Headers, bytes, Headers] | None]:
    """Returns the complete responses that hyper-h2 reads before it refuses anything; None for any other."""
    client = H2Connection(H2Configuration(header_encoding=None))
    client.initiate_connection()
    for number, method in zip((1, 3, 5), _METHODS, strict=True):
        fields = [(":method", method), (":scheme", "http"), (":path", "/"), (":authority", "a")]
        client.send_headers(number, fields, end_stream=method != "POST")
    statuses, heads, bodies, trailers, ended = {}, {}, dict.fromkeys((1, 3, 5), b""), {}, set()
    try:
        for one in frames_of(data):
            for event in client.receive_data(one):
                if isinstance(event, ResponseReceived):
                    (_, status), *fields = event.headers
                    statuses[event.stream_id], heads[event.stream_id] = int(status), fields
                elif isinstance(event, DataReceived):
                    bodies[event.stream_id] += event.data
                elif isinstance(event, TrailersReceived):
                    trailers[event.stream_id] = list(event.headers)
                elif isinstance(event, StreamEnded):
                    ended.add(event.stream_id)
    except (ProtocolError, UnicodeError, ValueError):
        pass
    return [
        (statuses[one], [tuple(pair) for pair in heads[one]], bodies[one], [tuple(t) for t in trailers.get(one, [])])
        if one in ended
        else None
        for one in (1, 3, 5)
    ]


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    """Adds, drops, repeats, swaps or changes one frame of an upstream."""
    return mutate_frames(Words((_OK, _HINTS, _TRAILERS), _FIELDS), data, largest, seed)
