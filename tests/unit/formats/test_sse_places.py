"""Where events begin and end in a stream, however it is cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.formats.sse import SseTracker, blocks_of
from tests.unit.store.bodies import cuts, event_streams


@given(event_streams(), st.data())
def test_the_first_boundary_is_the_beginning_of_an_event(body: bytes, data: st.DataObject) -> None:
    tracker, plain, at = SseTracker(), SseTracker(), 0
    for chunk in data.draw(cuts(body)):
        was_between = plain.between_events or (chunk[:1] not in (b"", b"\n") and plain.counted)
        place = tracker.feed_to_boundary(chunk)
        tracker.feed(chunk[place:] if place >= 0 else b"")
        plain.feed(chunk)
        assert (tracker.events, tracker.between_events, tracker.saw_id) == (
            plain.events,
            plain.between_events,
            plain.saw_id,
        )
        assert (place == 0) == was_between or not chunk
        if place > 0:
            before = SseTracker()
            before.feed(body[: at + place])
            # A CR there may have an LF to come, but only if nothing of the chunk follows.
            assert before.between_events or body[at + place - 1 : at + place] == b"\r"
            assert not (body[at + place - 1 : at + place] == b"\r" and body[at + place : at + place + 1] == b"\n")
        at += len(chunk)


@given(event_streams())
def test_blocks_follow_each_other_and_each_ends_with_a_blank_line(body: bytes) -> None:
    end = 0
    for begin, after in blocks_of(body):
        assert begin == end < after
        assert body[begin:after].endswith((b"\n", b"\r"))
        end = after
    tracker = SseTracker()
    tracker.feed(body[:end])
    whole = SseTracker()
    whole.feed(body)
    assert tracker.events == whole.events
