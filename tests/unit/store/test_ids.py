"""The ids that are written into events, and only there."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.formats.sse import SseTracker
from streamproxy.store.ids import IdWriter
from tests.unit.store.bodies import blocks, cuts, event_streams

NAME = "abcdefghijklmnopqrstuv-_"
OURS = re.compile(rb"id: " + NAME.encode() + rb"/([0-9]+)\n")


@st.composite
def cases(draw: st.DrawFn, ids: bool = True) -> tuple[bytes, list[bytes]]:
    whole = draw(event_streams(ids))
    return whole, draw(cuts(whole))


def written(chunks: list[bytes], events: int = 0) -> bytes:
    writer = IdWriter(NAME, events)
    return b"".join([writer.feed(chunk) for chunk in chunks])


@given(cases())
def test_without_the_ids_the_bytes_are_the_upstreams(case: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = case
    assert OURS.sub(b"", written(chunks)) == whole


@given(cases())
def test_the_split_of_the_reads_changes_nothing(case: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = case
    assert written(chunks) == written([whole]) == written([bytes([byte]) for byte in whole])


@given(cases(ids=False))
def test_each_event_gets_the_number_of_events_with_it(case: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = case
    seen = blocks(written(chunks))
    assert [block[-1] for block in seen] == [b"id: %b/%d" % (NAME.encode(), n + 1) for n in range(len(seen))]
    assert [block[:-1] for block in seen] == blocks(whole)


@given(cases())
def test_events_are_counted_as_everywhere_else_while_ids_are_written(case: tuple[bytes, list[bytes]]) -> None:
    writer, tracker = IdWriter(NAME, 0), SseTracker()
    for chunk in case[1]:
        writer.feed(chunk)
        tracker.feed(chunk)
        if tracker.saw_id:
            return
        assert writer.events == tracker.events


@given(cases())
def test_none_is_written_once_the_upstream_has_written_one(case: tuple[bytes, list[bytes]]) -> None:
    out = written(case[1])
    own = re.search(rb"(?:^|[\r\n])(?:\xef\xbb\xbf)?id(?:: 7)?[\r\n]", case[0])
    if own is not None:
        foreign = re.search(rb"(?:^|[\r\n])(?:\xef\xbb\xbf)?id(?:: 7)?[\r\n]", out)
        assert foreign is not None
        assert OURS.search(out, foreign.start()) is None


def test_whole_events_and_split_ones_are_marked_alike() -> None:
    body = b"event: a\ndata: 1\n\ndata: 2\n\n: note\n\ndata: 3\n\n"
    marked = b"event: a\ndata: 1\nid: S/8\n\ndata: 2\nid: S/9\n\n: note\n\ndata: 3\nid: S/10\n\n".replace(
        b"S", NAME.encode()
    )
    assert written([body], 7) == written([body[:12], body[12:13], body[13:]], 7) == marked
