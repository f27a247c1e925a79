"""The log of a stream, against the stream itself."""

from __future__ import annotations

import re
import sys
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.store.segments import SEGMENT, Format, PlaceGone, SegmentLog, find_place
from tests.unit.store.bodies import blocks, cuts, event_streams, line_streams

FORMATS: tuple[Format, ...] = get_args(Format)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Format, bytes, list[bytes]]:
    format = draw(st.sampled_from(FORMATS))
    whole = draw(event_streams() if format == "sse" else line_streams)
    return format, whole, draw(cuts(whole))


def events_of(format: Format, body: bytes, first: bool = True) -> int:
    return len(blocks(body, first)) if format == "sse" else body.count(b"\n")


def has_id(body: bytes) -> bool:
    lines = re.split(rb"\r\n|\n|\r", body.removeprefix(b"\xef\xbb\xbf"))
    return any(line.partition(b":")[0] == b"id" for line in lines)


def read_all(log: SegmentLog, offset: int) -> bytes:
    out = b""
    while piece := log.read(offset + len(out)):
        out += piece
    return out


@given(cases(), st.integers(1, 2000))
def test_every_place_that_is_kept_is_read_from_byte_for_byte(
    case: tuple[Format, bytes, list[bytes]], max_bytes: int
) -> None:
    format, whole, chunks = case
    log = SegmentLog(format, max_bytes)
    for chunk in chunks:
        log.append(chunk)
        assert log.size <= max_bytes
    assert log.events == events_of(format, whole)
    for events in range(log.events + 1):
        kept = log.first_place()
        try:
            offset = log.place(events)
        except PlaceGone:
            assert log.start > 0
            assert kept is None or kept[1] > events  # nothing is gone whose events are all there
        else:
            exact = find_place(format, whole, events)
            assert kept is not None
            assert offset == max(exact, kept[0])
            assert read_all(log, offset) == whole[offset:]
            # What comes before the place has exactly that many events, and none is cut in two by it.
            assert events_of(format, whole[:offset]) == events
            assert events_of(format, whole[offset:], offset == 0) == log.events - events


@given(cases())
def test_nothing_is_gone_of_a_stream_that_fits(case: tuple[Format, bytes, list[bytes]]) -> None:
    format, whole, chunks = case
    log = SegmentLog(format, 1 << 20)
    for chunk in chunks:
        log.append(chunk)
    assert read_all(log, log.place(0)) == whole
    log.finish()
    assert [read_all(log, log.place(n)) for n in range(log.events + 1)] == [
        whole[find_place(format, whole, n) :] for n in range(log.events + 1)
    ]


@given(event_streams(), st.data(), st.booleans())
def test_it_is_known_before_which_places_the_upstream_has_written_ids(
    whole: bytes, data: st.DataObject, asked: bool
) -> None:
    log = SegmentLog("sse", 1 << 20)
    for chunk in data.draw(cuts(whole)):
        log.append(chunk)
        assert not asked or log.events <= events_of("sse", whole)
    since = log.counter.ids_from
    for events in range(log.events + 1):
        before = whole[: log.place(events)]
        assert (since is not None and events >= since) == has_id(before)


@given(cases(), st.integers(0, 8))
def test_after_a_clear_only_what_came_since_is_there(case: tuple[Format, bytes, list[bytes]], at: int) -> None:
    format, whole, chunks = case
    log = SegmentLog(format, 1 << 20)
    for number, chunk in enumerate(chunks):
        if number == at:
            log.clear()
            assert log.size == 0
        log.append(chunk)
    assert read_all(log, log.start) == whole[log.start :]
    for events in range(log.events + 1):
        try:
            offset = log.place(events)
        except PlaceGone:
            continue
        kept = log.first_place()
        assert kept is not None
        assert offset == max(find_place(format, whole, events), kept[0])


def test_a_long_stream_loses_its_oldest_events_and_keeps_its_bound() -> None:
    log = SegmentLog("sse", 256 * 1024)
    event = b"data: " + b"x" * 93 + b"\n\n"
    for _ in range(10_000):
        log.append(event)
        assert log.size <= 256 * 1024
    with pytest.raises(PlaceGone):
        log.place(0)
    with pytest.raises(PlaceGone):
        log.place(7000)
    assert read_all(log, log.place(7700)) == event * 2300
    assert log.size > 200 * 1024


@pytest.mark.parametrize(("format", "event"), [("sse", b"data: %04d\n\n"), ("ndjson", b"%04d\n")])
def test_the_place_before_the_oldest_kept_event_is_kept(format: Format, event: bytes) -> None:
    log = SegmentLog(format, 1000)
    whole = b"".join(event % number for number in range(500))
    for number in range(500):
        log.append(event % number)
    oldest = events_of(format, whole[: log.start])
    assert oldest > 0
    assert read_all(log, log.place(oldest)) == whole[log.start :]
    with pytest.raises(PlaceGone):
        log.place(oldest - 1)


def test_a_place_is_kept_when_all_that_was_dropped_is_no_event() -> None:
    log = SegmentLog("sse", 1000)
    log.append(b": " + b"x" * 990 + b"\n\n")
    log.append(b"data: 1\n\n")
    assert log.start > 0
    assert read_all(log, log.place(0)) == b"data: 1\n\n"
    log.clear()
    assert read_all(log, log.place(1)) == b""
    log.append(b"data: 2\n\n")
    assert read_all(log, log.place(1)) == b"data: 2\n\n"
    with pytest.raises(PlaceGone):
        log.place(0)


def test_a_place_inside_an_event_longer_than_a_segment_is_found() -> None:
    log = SegmentLog("sse", 1 << 20)
    log.append(b"data: 1\n\n")
    for _ in range(20):
        log.append(b"data: " + b"x" * 9000 + b"\n")
    log.append(b"\ndata: 3\n\n")
    assert log.read(log.place(2)) == b"data: 3\n\n"


def test_an_event_larger_than_all_that_may_be_kept_is_not_kept_and_the_next_one_is() -> None:
    log = SegmentLog("sse", 1000)
    log.append(b"data: " + b"x" * 5000)
    log.append(b"\n\n")
    log.append(b"data: 2\n\ndata: 3\n\n")
    with pytest.raises(PlaceGone):
        log.place(0)
    log.append(b"data: 4\n\n")
    assert log.size <= 1000
    assert read_all(log, log.place(3)) == b"data: 4\n\n"


@pytest.mark.parametrize("read", [b"\n\ndata: %05d", b"data: %05d\r\r", b"%05d\n\ndata: 0\ndata:"])
def test_a_stream_whose_reads_never_end_between_two_events_keeps_its_places(read: bytes) -> None:
    log, whole = SegmentLog("sse", 8000), b""
    for number in range(4000):
        log.append(read % number)
        whole += read % number
    for events in range(log.events - 300, log.events + 1):
        assert read_all(log, log.place(events)) == whole[find_place("sse", whole, events) :]


def test_a_byte_order_mark_counts_for_nothing_at_the_very_beginning_only() -> None:
    log = SegmentLog("sse", 80)  # with segments of ten bytes
    log.append(b"\xef\xbb\xbfdata: 1\n\n")
    log.append(b"\xef\xbb\xbfdata: no event\n\ndata: 2\n\n")
    assert log.events == 2
    assert read_all(log, log.place(1)) == b"\xef\xbb\xbfdata: no event\n\ndata: 2\n\n"
    assert read_all(log, log.place(2)) == b""


def test_a_place_that_the_stream_has_not_reached_is_not_there() -> None:
    log = SegmentLog("ndjson", 1000)
    log.append(b"{}\n{")
    assert log.place(1) == 3
    with pytest.raises(PlaceGone):
        log.place(2)


def test_a_last_line_without_its_end_counts_when_the_stream_is_over() -> None:
    log = SegmentLog("ndjson", 1000)
    log.append(b"{}\n{}")
    assert log.events == 1
    log.finish()
    assert log.events == 2
    assert log.read(log.place(2)) == b""


def test_sealed_bytes_are_shared_by_all_who_read_them() -> None:
    log = SegmentLog("sse", 1 << 20)
    for _ in range(1000):
        log.append(b"data: " + b"x" * 93 + b"\n\n")
    assert log.read(0) is log.read(0)


def test_a_log_takes_little_memory_beyond_its_bytes() -> None:
    log = SegmentLog("sse", 4 << 20)
    for _ in range(400):
        log.append(b"data: " + b"x" * 93 + b"\n\n")
    log.finish()
    parts = [log, log.counter, log.counter._tracker, log._offsets, log._counts, log._segments, log._tail]
    parts += log._segments
    assert sum(map(sys.getsizeof, parts)) - log.size < 1024


def test_a_live_log_that_is_followed_has_no_object_for_each_chunk() -> None:
    log = SegmentLog("sse", 4 << 20)
    for _ in range(1000):
        log.append(b"data: 1\n\n")
        assert log.read(log.end - 9) == b"data: 1\n\n"
    pieces = [log._tail, log._loose, *log._tail]
    assert sum(map(sys.getsizeof, pieces)) - log.size < 1536


def test_segments_end_where_an_event_does_though_no_read_ends_there() -> None:
    log = SegmentLog("sse", 4 << 20)
    for number in range(4000):
        log.append(b"%05d\n\ndata: 0\ndata:" % number)
    assert len(log._segments) >= 4000 * 20 // (SEGMENT + 4096 + 64)
    assert all(segment.endswith(b"\n\n") for segment in log._segments)
