"""What is remembered of heads takes little memory, also where a peer makes them up to take as much as they can."""

from __future__ import annotations

import tracemalloc

from streamproxy.client.http1.known import known_heads
from streamproxy.client.http1.response import ResponseParser
from streamproxy.wire import request
from streamproxy.wire.remembered import LONGEST_HEAD, MOST_HEADS
from streamproxy.wire.request import RequestHead


def test_a_quarter_of_the_heads_that_are_remembered_takes_less_than_3_mb() -> None:
    head, response = RequestHead(LONGEST_HEAD, 100), ResponseParser()
    for table in (request.known_heads, known_heads):
        table.clear()
    tracemalloc.start()
    try:
        for number in range(MOST_HEADS // 4):
            fields = b"".join(b"A%06x:%010d\r\n" % (number * 100 + at, number * 100 + at) for at in range(99))
            for _ in range(3):
                assert head.feed(b"GET / HTTP/1.1\r\nHost:a\r\n" + fields + b"\r\n") == b""
                if head.known is not None:
                    head.known.read(head.headers)
                head.forget()
                response.begin("GET")
                response.feed(b"HTTP/1.1 200 OK\r\nContent-Length:0\r\n" + fields + b"\r\n")
                if response.known is not None:
                    response.known.fields()
        assert len(request.known_heads.known) == len(known_heads.known) == MOST_HEADS // 4
        assert tracemalloc.get_traced_memory()[0] < 3_000_000
    finally:
        tracemalloc.stop()
