"""The boundary tracker against a plain interpretation of the whole stream."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.formats.bom import BomFilter
from streamproxy.formats.ndjson import LineCounter
from streamproxy.formats.sse import KeepaliveShape, SseTracker, count_whole

LINES = st.sampled_from(
    [b"data: x", b"data", b"data:y", b"id: 7", b"id", b"event: e", b": note", b"retry: 5", b"other"]
)
ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])
KEEPALIVES = [b": keepalive\n\n", b": keepalive\n", b"\n"]


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Events of any lines and line ends, a byte order mark perhaps, and perhaps an unfinished rest."""
    out = draw(st.sampled_from([b"", b"\xef\xbb\xbf"]))
    for line in draw(st.lists(st.one_of(LINES, st.just(b"")), max_size=12)):
        out += line + draw(ENDS)
    return out + draw(st.sampled_from([b"", b"data: unfinis", b"d", b":"]))


@st.composite
def split_streams(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    whole = draw(streams())
    cuts = sorted(draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return whole, [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]


def dispatched(stream: bytes) -> list[list[bytes]]:
    """The events of a stream as a client sees them: the fields of every block that has data."""
    text = stream.removeprefix(b"\xef\xbb\xbf")
    lines = re.split(rb"\r\n|\n|\r", text)[:-1]
    events, block = [], []
    for line in lines:
        if not line:
            if any(field.partition(b":")[0] == b"data" for field in block):
                events.append(block)
            block = []
        elif not line.startswith(b":"):
            block.append(line)
    return events


@given(split_streams())
def test_counts_the_events_that_a_client_dispatches_under_any_split(case: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = case
    tracker = SseTracker()
    for chunk in chunks:
        tracker.feed(chunk)
    assert tracker.events == len(dispatched(whole))


@given(streams())
def test_a_whole_body_has_as_many_events_as_a_client_dispatches_or_is_left_to_a_tracker(whole: bytes) -> None:
    assert count_whole(whole) in (0, len(dispatched(whole)))
    assert count_whole(b"id: 1\ndata: x\n\nevent: e\ndata: y\n\n") == 2


@given(streams())
def test_only_what_ends_with_an_event_is_counted_whole(whole: bytes) -> None:
    assert not count_whole(whole + b"data: unfinished\n")


@given(split_streams())
def test_notices_an_id_under_any_split(case: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = case
    tracker = SseTracker()
    for chunk in chunks:
        tracker.feed(chunk)
    lines = re.split(rb"\r\n|\n|\r", whole.removeprefix(b"\xef\xbb\xbf"))[:-1]
    assert tracker.saw_id == any(line.partition(b":")[0] == b"id" for line in lines)


@given(split_streams(), st.sampled_from(KEEPALIVES))
def test_a_keepalive_wherever_it_is_allowed_changes_no_event(case: tuple[bytes, list[bytes]], keepalive: bytes) -> None:
    whole, chunks = case
    tracker = SseTracker()
    # A byte order mark counts only at the very start, so the first keepalive here comes after the first chunk.
    sent = b""
    for chunk in chunks:
        sent += chunk
        tracker.feed(chunk)
        if sent and tracker.between_events:
            sent += keepalive
    assert dispatched(sent) == dispatched(whole)
    assert sent.replace(keepalive, b"") == whole or keepalive == b"\n"


@given(split_streams())
def test_never_between_events_inside_a_line_an_event_or_a_line_end(case: tuple[bytes, list[bytes]]) -> None:
    _, chunks = case
    tracker, seen = SseTracker(), b""
    for chunk in chunks:
        seen += chunk
        tracker.feed(chunk)
        if tracker.between_events and seen:
            assert seen.endswith(b"\n")
            block = re.split(rb"(?:\r\n|\n|\r)(?:\r\n|\n|\r)", seen.removeprefix(b"\xef\xbb\xbf"))[-1]
            fields = [line for line in re.split(rb"\r\n|\n|\r", block) if line and not line.startswith(b":")]
            assert not fields or seen.endswith((b"\n\n", b"\r\n\r\n", b"\r\r\n", b"\n\r\n"))


def test_after_a_lone_carriage_return_nothing_may_be_inserted() -> None:
    tracker = SseTracker()
    tracker.feed(b"data: x\r\n\r")
    assert not tracker.between_events
    tracker.feed(b"\n")
    assert tracker.between_events
    assert tracker.events == 1


def test_before_the_first_byte_a_keepalive_may_be_sent() -> None:
    assert SseTracker().between_events


def test_a_comment_alone_begins_no_event() -> None:
    tracker = SseTracker()
    tracker.feed(b": connected\n")
    assert tracker.between_events
    assert tracker.events == 0


def test_whole_events_take_the_short_way_and_count_the_same() -> None:
    tracker = SseTracker()
    tracker.feed(b"event: a\ndata: 1\n\n")
    tracker.feed(b"data: 2\n\nevent: b\ndata: 3\n\n")
    tracker.feed(b": only a comment\n\n")
    tracker.feed(b"data: 4\nid: 9\n\n")
    assert (tracker.events, tracker.saw_id) == (4, True)
    tracker.feed(b"data: 5\nid: 10\n\nid: 11\ndata: 6\n\n")
    tracker.feed(b"id: 12\n\nid\ndata: 7\n\n")
    assert (tracker.events, tracker.between_events) == (7, True)


@given(st.lists(st.sampled_from([b"{}", b"\n", b'{"a":', b"1}\n"]), max_size=20))
def test_lines_count_the_same_under_any_split(chunks: list[bytes]) -> None:
    counter = LineCounter()
    for chunk in chunks:
        counter.feed(chunk)
    counter.finish()
    assert counter.events == len(b"".join(chunks).splitlines())


def test_auto_sends_a_block_before_an_id_and_a_line_after() -> None:
    auto = KeepaliveShape("keepalive", "auto")
    assert auto.render(saw_id=False) == b": keepalive\n\n"
    assert auto.render(saw_id=True) == b": keepalive\n"


def test_named_shapes_stay_what_they_are() -> None:
    for shape, wire in (("block", b": hi\n\n"), ("line", b": hi\n"), ("blank", b"\n")):
        made = KeepaliveShape("hi", shape)  # type: ignore[arg-type]
        assert made.render(saw_id=False) == made.render(saw_id=True) == wire


@given(split_streams(), st.booleans())
def test_the_filter_takes_off_a_byte_order_mark_and_nothing_else(
    case: tuple[bytes, list[bytes]], doubled: bool
) -> None:
    whole, chunks = case
    if doubled:
        whole, chunks = whole + b"\xef\xbb", [*chunks, b"\xef\xbb"]
    taken = BomFilter()
    passed = b"".join(taken.feed(chunk) for chunk in chunks) + taken.finish()
    assert passed == whole.removeprefix(b"\xef\xbb\xbf")


@given(split_streams(), st.sampled_from(KEEPALIVES))
def test_a_keepalive_before_a_byte_order_mark_changes_no_event(
    case: tuple[bytes, list[bytes]], keepalive: bytes
) -> None:
    whole, chunks = case
    taken = BomFilter()
    sent = keepalive + b"".join(taken.feed(chunk) for chunk in chunks) + taken.finish()
    assert dispatched(sent) == dispatched(whole)


def test_the_filter_holds_two_bytes_at_most_and_says_when_it_is_done() -> None:
    taken = BomFilter()
    assert taken.feed(b"\xef") == b""
    assert taken.feed(b"\xbb") == b""
    assert not taken.done
    assert taken.feed(b"data") == b"\xef\xbbdata"
    assert taken.done


@given(st.lists(st.sampled_from([b"{}", b"\n", b" ", b"1}\n"]), max_size=20))
def test_in_lines_a_keepalive_may_stand_at_the_start_of_a_line_only(chunks: list[bytes]) -> None:
    counter, seen = LineCounter(), b""
    for chunk in chunks:
        assert counter.between_events == (not seen or seen.endswith(b"\n"))
        counter.feed(chunk)
        seen += chunk
        assert counter.spoke == any(line.strip() for line in seen.split(b"\n")[:-1])


@given(split_streams())
def test_a_stream_speaks_with_its_first_event(case: tuple[bytes, list[bytes]]) -> None:
    tracker, seen = SseTracker(), b""
    for chunk in case[1]:
        tracker.feed(chunk)
        seen += chunk
        assert tracker.spoke == bool(dispatched(seen))
