"""Newline-delimited JSON. The oracle splits the whole stream at once."""

from __future__ import annotations

from fuzz.reads import bytes_of, reads_of
from streamproxy.formats.ndjson import LineCounter
from tests.unit.formats.seen import Lines

DICTIONARY = (b'{"a":1}\n', b"\n", b"\r\n", b" ", b"\t")


def check(data: bytes) -> None:
    lines = data.split(b"\n")
    rest = lines[-1]
    heard = [line for line in lines if line and not line.isspace()]
    for reads in ([data], reads_of(data), bytes_of(data)):
        counter, listener = LineCounter(), Lines()
        for read in reads:
            counter.feed(read)
            listener.feed(read)
        for one in (counter, listener):
            assert one.events == data.count(b"\n")
            assert one.between_events == (not rest)
        assert counter.spoke == any(line.strip() for line in lines[:-1])
        counter.finish()
        listener.finish()
        assert counter.events == listener.events == data.count(b"\n") + bool(rest)
        assert listener.seen == heard
