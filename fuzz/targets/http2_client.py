"""A connection of the HTTP/2 client, over ngh2: what an upstream sends, for three requests. The oracle is h2.

The input is everything that the upstream sends. Whatever it is, no exception leaves the connection, each response ends
or fails, and what is written consists of whole frames on streams that are ours. What follows the rules means the same
however it is cut. A response has clean fields. One that we take for complete is the same and complete for h2, or h2
refused the connection before its end.
"""

from __future__ import annotations

import asyncio
import random
import socket
from functools import cache
from typing import Any, NamedTuple

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from fuzz.frames import check_output, frames_of, headers, mutated
from fuzz.reads import reads_of
from streamproxy.client.connection import ClientConnection, Owner
from streamproxy.client.http2.connection import Http2Connection
from streamproxy.client.http2.state import MAX_HEAD, Informational, ResponseState
from streamproxy.client.http2.streams import _CONTINUATIONS as CONTINUATIONS
from streamproxy.errors import BadResponse, ExchangeError
from streamproxy.wire.headers import TOKEN, VALUE, Headers
from streamproxy.wire.http2.frames import PREFACE, FrameGate
from streamproxy.wire.http2.session import SessionFailed
from tests.unit.server.harness import FakeTransport

_FIELDS = (
    (":status", "200"), (":status", "103"), (":status", "100"), (":status", "101"), (":status", "204"),
    (":status", "304"), (":status", "999"), (":status", "20"), (":status", "+20"), (":method", "GET"), (":path", "/"),
    ("content-length", "3"), ("content-length", "0"), ("content-length", "x"), ("transfer-encoding", "chunked"),
    ("connection", "close"), ("upgrade", "h2c"), ("te", "trailers"), ("set-cookie", "a=b"), ("set-cookie", "c=d"),
    ("trailer", "x"), ("X-Upper", "x"), ("x", "a\r\nb: c"), ("x", "a\0b"), ("x:y", "z"), ("", "x"), ("x", " y "),
    ("content-type", "text/event-stream"),
)  # fmt: skip
_OK = [(":status", "200"), ("content-type", "text/plain")]
_EARLY = [(":status", "103"), ("link", "</a>")]
_GET = (1, "GET", b"")
_POST = (3, "POST", None)  # its body has not ended
_HEAD = (5, "HEAD", b"")
OURS = {1, 3, 5}


class Pool(Owner):
    """Counts the ends."""

    def __init__(self) -> None:
        self.ends = 0

    def lost(self, connection: ClientConnection) -> None:
        assert connection.closed

    def closed(self, connection: ClientConnection) -> None:
        self.ends += 1

    def changed(self, connection: ClientConnection) -> None:
        assert connection.capacity >= 0


class Outcome(NamedTuple):
    """What has become of one response. ``fault`` is the kind of failure, or nothing."""

    interim: list[int]
    status: int
    fields: Headers | None
    body: bytes
    trailers: Headers
    fault: str


class Line:
    """The loop and the socket, which are the same for every input."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._socket, self._other = socket.socketpair()

    def run(self, reads: list[bytes]) -> tuple[list[Outcome], bytes]:
        """Makes three requests, reads, and ends; returns what became of them, and what was written."""
        pool, transport = Pool(), FakeTransport()
        connection = Http2Connection(pool, self._loop, self._socket)
        connection.connection_made(transport)
        seen: list[tuple[ResponseState, list[int]]] = []
        for number, method, body in (_GET, _POST, _HEAD):
            interim: list[int] = []
            state = ResponseState(_noting(interim), method == "HEAD")
            assert connection.open(state, _request(method), body, None)
            assert state.number == number
            connection.in_use += 1
            seen.append((state, interim))
        connection.send(seen[1][0], b"half")
        for read in reads:
            connection.data_received(read)
        connection.connection_lost(None)
        assert transport.closed
        assert pool.ends == 1
        assert not connection._streams
        return [_outcome(state, interim) for state, interim in seen], transport.data


def _noting(interim: list[int]) -> Informational:
    return lambda status, fields: interim.append(status)


def _request(method: str) -> Headers:
    fields = ((":method", method), (":scheme", "http"), (":authority", "a"), (":path", "/"))
    return [(name.encode(), value.encode()) for name, value in fields]


def _outcome(state: ResponseState, interim: list[int]) -> Outcome:
    assert state.closed
    assert state.done or state.fault is not None
    assert state.fault is None or not state.done or state.headers is None, "a failure that looks finished"
    assert state.fault is None or isinstance(state.fault, ExchangeError)
    assert state.headers is None or 200 <= state.status <= 999
    for name, value in [*(state.headers or []), *state.trailers]:
        assert TOKEN.fullmatch(name), name
        assert VALUE.fullmatch(value), value
    fault = "" if state.fault is None else type(state.fault).__name__
    return Outcome(interim, state.status, state.headers, b"".join(state.chunks), state.trailers, fault)


class Oracle:
    """What h2 makes of the same frames, one by one. ``refused`` says that it gave the connection up at one of them."""

    def __init__(self, data: bytes) -> None:
        self.bodies: dict[int, bytes] = {}
        self.fields: dict[int, Headers] = {}
        self.trailers: dict[int, Headers] = {}
        self.ended: set[int] = set()
        self.reset: set[int] = set()
        self.refused = False
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self._h2.local_settings = h2.settings.Settings(
            initial_values={
                h2.settings.SettingCodes.ENABLE_PUSH: 0,
                h2.settings.SettingCodes.MAX_HEADER_LIST_SIZE: MAX_HEAD,
            }
        )
        self._h2.initiate_connection()
        for number, method, body in (_GET, _POST, _HEAD):
            self._h2.send_headers(number, _request(method), end_stream=body is not None)
        try:
            for frame in frames_of(data):
                for event in self._h2.receive_data(frame):
                    self._take(event)
        except h2.exceptions.ProtocolError:
            self.refused = True

    def _take(self, event: Any) -> None:
        kind = type(event)
        if kind is h2.events.ResponseReceived:
            self.fields[event.stream_id] = list(event.headers)
        elif kind is h2.events.DataReceived:
            self.bodies[event.stream_id] = self.bodies.get(event.stream_id, b"") + event.data
        elif kind is h2.events.TrailersReceived:
            self.trailers[event.stream_id] = list(event.headers)
        elif kind is h2.events.StreamEnded:
            self.ended.add(event.stream_id)
        elif kind is h2.events.StreamReset:
            self.reset.add(event.stream_id)


@cache
def line() -> Line:
    return Line()


def check(data: bytes) -> None:
    outcomes, out = line().run([data])
    others, other = line().run(reads_of(data))
    for written in (out, other):
        assert written.startswith(PREFACE)
        check_output(written.removeprefix(PREFACE), data, OURS | promised(data))
    for one, another in zip(outcomes, others, strict=True):
        assert one == another or one.fault or another.fault, (one, another)
    # What comes in one read with a frame that the gate refuses is lost, and frames on a stream that we reset because it
    # broke a rule are an error of the connection only if the reset has not been written yet.
    if passes_gate(data) and not any(outcome.fault == BadResponse.__name__ for outcome in (*outcomes, *others)):
        for one, another in zip(outcomes, others, strict=True):
            # Of a body that is longer than was announced, as much comes as was before the frame that is too long.
            assert one.body.startswith(another.body) or another.body.startswith(one.body)
            assert one._replace(body=b"") == another._replace(body=b""), (one, another)
    if all(outcome.fault for outcome in outcomes):
        return
    oracle = Oracle(data)
    for number, outcome in zip((1, 3, 5), outcomes, strict=True):
        if not outcome.fault and number not in oracle.reset and (number in oracle.ended or not oracle.refused):
            if number == _HEAD[0] or outcome.status in (204, 304):  # complete with its head, whatever follows
                assert not outcome.body
            else:
                assert number in oracle.ended, (number, outcome)
                assert outcome.body == oracle.bodies.get(number, b"")
                assert outcome.trailers == oracle.trailers.get(number, [])
            status = [(b":status", b"%d" % outcome.status)]
            assert [*status, *(outcome.fields or [])] == oracle.fields[number]


def passes_gate(data: bytes) -> bool:
    """Whether no frame is refused, even where nothing that we write makes up for those that cost much."""
    gate = FrameGate(MAX_HEAD, CONTINUATIONS, 0.0, preface=False)
    for _ in OURS:
        gate.opened_stream()
    try:
        gate.feed(data, 0.0)
    except SessionFailed:
        return False
    return True


def promised(data: bytes) -> set[int]:
    """The streams of PUSH_PROMISE frames, which we reset where they come before our SETTINGS are acknowledged."""
    return {
        int.from_bytes(frame[9 + padded : 13 + padded], "big") & 0x7FFFFFFF
        for frame in frames_of(data)
        if len(frame) > 9 and frame[3] == 5
        for padded in (frame[4] >> 3 & 1,)
    }


def _head(chance: random.Random, stream: int) -> bytes:
    return headers(chance, stream, chance.choice((_OK, _OK, _EARLY)), _FIELDS)


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    return mutated(data, largest, seed, _head)
