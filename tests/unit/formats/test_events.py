"""The inspectors that read events, against a plain interpretation of the whole stream."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.formats.events import LIMIT
from tests.unit.formats.seen import Events, Lines
from tests.unit.formats.splits import splits
from tests.unit.formats.test_sse import split_streams


def data_of(stream: bytes) -> list[bytes]:
    """The data of each event, an unfinished last one too (WHATWG HTML, section 9.2.6, but for that)."""
    events, data = [], []
    for line in [*re.split(rb"\r\n|\n|\r", stream.removeprefix(b"\xef\xbb\xbf")), b""]:
        name, _, value = line.partition(b":")
        if name == b"data":
            data.append(value.removeprefix(b" "))
        elif not line and data:
            events.append(b"\n".join(data))
            data = []
    return [*events, b"\n".join(data)] if data else events


@given(split_streams())
def test_gives_the_data_of_each_event_under_any_split(case: tuple[bytes, list[bytes]]) -> None:
    whole, chunks = case
    inspector = Events()
    for chunk in chunks:
        inspector.feed(chunk)
    inspector.finish()
    assert inspector.seen == data_of(whole)


@given(split_streams())
def test_follows_boundaries_as_the_tracker_does(case: tuple[bytes, list[bytes]]) -> None:
    from streamproxy.formats.sse import SseTracker

    inspector, deaf, tracker = Events(), Events(), SseTracker()
    deaf.deafen()
    for chunk in case[1]:
        for one in (inspector, deaf, tracker):
            one.feed(chunk)
        state = (tracker.between_events, tracker.events, tracker.saw_id)
        assert (inspector.between_events, inspector.events, inspector.saw_id) == state
        assert (deaf.between_events, deaf.events, deaf.saw_id) == state


def test_whole_events_that_cannot_matter_are_passed_over_and_counted() -> None:
    inspector = Events(lazy=True)
    inspector.feed(b"data: a\n\ndata: b\n\n")
    inspector.feed(b"data: c\n\nevent: x\ndata: d!\n\n")
    assert inspector.seen == [b"c", b"d!"]
    assert inspector.events == 4


@pytest.mark.parametrize("size", [LIMIT - 1, LIMIT, LIMIT + 1, LIMIT + 2, 2 * LIMIT])
@pytest.mark.parametrize("step", [1 << 16, 1 << 22])
@pytest.mark.parametrize("start", [b"data: ", b"\xef\xbb\xbfdata:"])
def test_an_event_over_the_limit_goes_by_unread(size: int, step: int, start: bytes) -> None:
    inspector = Events()
    stream = start + b"x" * size + b"\n\ndata: next\n\n"
    for at in range(0, len(stream), step):
        inspector.feed(stream[at : at + step])
    assert [len(data) for data in inspector.seen] == ([size, 4] if size <= LIMIT else [4])
    assert inspector.unread == (size > LIMIT)
    assert inspector.events == 2


def test_many_lines_of_one_event_are_not_held_beyond_the_limit() -> None:
    inspector = Events()
    for _ in range(22):  # lines enough for the limit, and a few more
        inspector.feed(b"data:\n" * 50_000)
    assert len(inspector._data) <= LIMIT + 2
    inspector.feed(b"\n")
    assert inspector.unread
    assert inspector.seen == []


def test_a_line_that_comes_byte_by_byte_is_read() -> None:
    inspector = Events()
    for byte in b"data: " + b"x" * 5_000 + b"\n\n":
        inspector.feed(bytes([byte]))
    assert inspector.seen == [b"x" * 5_000]


LINES = st.lists(st.sampled_from([b"{}", b"\n", b'{"a":', b"1}\n", b" ", b"\r\n", b"\n\n"]), max_size=20).map(b"".join)


@given(st.data(), LINES)
def test_gives_each_line_that_is_not_blank_under_any_split(data: st.DataObject, whole: bytes) -> None:
    inspector = Lines()
    for chunk in data.draw(splits(whole)):
        inspector.feed(chunk)
    inspector.finish()
    assert inspector.seen == [line for line in whole.split(b"\n") if line.strip()]
    assert inspector.events == len(whole.split(b"\n")) - (not whole or whole.endswith(b"\n"))


def test_only_the_first_of_two_marks_is_one() -> None:
    inspector = Events()
    inspector.feed(b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n")  # the first line's field is unknown
    assert (inspector.seen, inspector.events) == ([b"b"], 1)


@pytest.mark.parametrize("size", [LIMIT, LIMIT + 1])
@pytest.mark.parametrize("step", [1 << 16, 1 << 22])
def test_a_line_over_the_limit_goes_by_unread(size: int, step: int) -> None:
    inspector = Lines()
    stream = b"x" * size + b"\nnext\n"
    for at in range(0, len(stream), step):
        inspector.feed(stream[at : at + step])
    assert inspector.seen[-1] == b"next"
    assert inspector.unread == (size > LIMIT) == (len(inspector.seen) == 1)
