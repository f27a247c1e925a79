"""The HTTP/2 protocol of the server, over ngh2: frames in, frames out. The oracle is hyperframe.

The input is what follows the preface. Whatever it is, no exception leaves the protocol. What is written consists of
whole frames of a legal size on streams that the client opened, nothing follows the end of a stream, and there is no
more of it than the input accounts for. The application sees only requests whose parts are clean.
"""

from __future__ import annotations

import random
from functools import cache

from fuzz.frames import check_output, frames_of, headers, mutated
from fuzz.reads import reads_of
from fuzz.rig import Rig
from streamproxy.server.http2.limits import Http2Limits
from streamproxy.server.http2.protocol import http2_protocol
from streamproxy.wire.headers import TOKEN
from streamproxy.wire.http2.frames import PREFACE
from tests.unit.server.harness import Receive, Scope, Send, body_message, start_message

_FIELDS = (
    (":method", "GET"), (":method", "POST"), (":method", "HEAD"), (":method", "CONNECT"), (":scheme", "http"),
    (":scheme", "https"), (":path", "/"), (":path", "/a?b=c"), (":path", "*"), (":path", ""), (":path", "http://a/"),
    (":path", "/a b"), (":authority", "a"), (":authority", "b@c"), (":protocol", "websocket"), (":status", "200"),
    ("host", "a"), ("host", "b"), ("content-length", "3"), ("content-length", "0"), ("te", "trailers"), ("te", "gzip"),
    ("transfer-encoding", "chunked"), ("connection", "close"), ("upgrade", "h2c"), ("cookie", "a=b"),
    ("cookie", "c=d"), ("expect", "100-continue"), ("X-Upper", "x"), ("x", "a\r\nb: c"), ("x", "a\0b"), ("x:y", "z"),
    ("", "x"), ("x", " y "),
)  # fmt: skip
_GET = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "a")]
_POST = [(":method", "POST"), (":scheme", "http"), (":path", "/p"), (":authority", "a")]


class Application:
    """Reads each request to its end, and answers with the size of its body."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        assert TOKEN.fullmatch(scope["method"].encode())
        assert not set(b" \r\n\0") & set(scope["raw_path"] + scope["query_string"])
        hosts = 0
        for name, value in scope["headers"]:
            assert TOKEN.fullmatch(name), name
            assert name == name.lower()
            assert not set(b"\r\n\0") & set(value), value
            assert name not in (b"transfer-encoding", b"connection", b"upgrade"), name
            hosts += name == b"host"
        assert hosts == 1
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            if not message["more_body"]:
                break
        await send(start_message(200, (b"content-type", b"text/plain")))
        await send(body_message(b"%d" % size))


@cache
def rig() -> Rig:
    return Rig(Application(), http2_protocol(Http2Limits(max_header_size=4096)))


def check(data: bytes) -> None:
    for reads in ([PREFACE + data], [PREFACE, *reads_of(data)]):
        out, protocol = rig().run([read for read in reads if read])
        assert not protocol.blocked
        assert not protocol._streams
        opened = {int.from_bytes(frame[5:9], "big") & 0x7FFFFFFF for frame in frames_of(data)}
        check_output(out, data, opened)


def _head(chance: random.Random, stream: int) -> bytes:
    return headers(chance, stream, chance.choice((_GET, _POST)), _FIELDS)


def mutate(data: bytes, largest: int, seed: int) -> bytes:
    return mutated(data, largest, seed, _head)
