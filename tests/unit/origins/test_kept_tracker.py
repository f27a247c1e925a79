"""What follows a kept stream whose ids are of ours, against what reads it again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.formats.sse import SseTracker
from streamproxy.origins.resume import KeptTracker
from streamproxy.store.base import StoreSettings
from streamproxy.store.cursor import Cursor
from streamproxy.store.ids import IdWriter
from streamproxy.store.memory import MemoryStore
from tests.unit.store.bodies import cuts, event_streams
from tests.unit.store.streams import begin

WHOLE = st.lists(
    st.sampled_from([b"data: x\n\n", b"data: x\n\ndata: y\n\n", b"event: e\ndata: x\n\n", b": note\n\n", b"id: 7\n\n"])
)


def seen(tracker: SseTracker) -> tuple[int, bool, bool, bool]:
    return tracker.events, tracker.between_events, tracker.saw_id, tracker.spoke


@given(st.data())
def test_a_kept_stream_is_followed_as_one_that_is_read(data: st.DataObject) -> None:
    store = MemoryStore(StoreSettings())
    stream = begin(store)
    body = stream.read(Cursor(stream.name, 0), True)
    tracker, reader, writer = KeptTracker(body), SseTracker(), IdWriter(stream.name, 0)
    sent = []

    def sink(chunk: bytes, framed: bytes) -> bool:
        tracker.feed(chunk)
        reader.feed(chunk)
        sent.append(chunk)
        assert seen(tracker) == seen(reader)
        return True

    assert body.pipe(sink)
    chunks = data.draw(st.one_of(WHOLE, event_streams().flatmap(cuts)))
    for chunk in chunks:
        stream.append(chunk)
    assert b"".join(sent) == b"".join(map(writer.feed, chunks))


def test_a_chunk_that_is_pulled_is_read() -> None:
    """Another stands for it only in the turn in which the ids were written."""
    stream = begin(MemoryStore(StoreSettings()))
    body = stream.read(Cursor(stream.name, 0), True)
    tracker = KeptTracker(body)
    passed: list[bytes] = []

    def sink(chunk: bytes, framed: bytes) -> bool:
        passed.append(chunk)
        return True

    assert body.pipe(sink)
    for _ in range(2):
        stream.append(b"data: x\n\n")
    tracker.feed(passed[0])
    assert tracker.saw_id
    stream.append(b"data: x\n\n" * 3)
    tracker.feed(passed[1])
    assert tracker.events == 2
