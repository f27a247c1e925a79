"""What follows a stream that the store has counted, against what reads it again."""

from __future__ import annotations

import pytest
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


@pytest.mark.parametrize("ids", [True, False])
@given(st.data())
def test_a_kept_stream_is_followed_as_one_that_is_read(ids: bool, data: st.DataObject) -> None:
    store = MemoryStore(StoreSettings())
    stream = begin(store)
    body = stream.read(Cursor(stream.name, 0), ids)
    tracker, reader, writer = KeptTracker(body, ids), SseTracker(), IdWriter(stream.name, 0)
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
    assert b"".join(sent) == b"".join(writer.feed(chunk) if ids else chunk for chunk in chunks)


def test_a_chunk_that_is_pulled_is_read() -> None:
    """Another stands for it only in the turn in which the store has counted it."""
    stream = begin(MemoryStore(StoreSettings()))
    body = stream.read(Cursor(stream.name, 0))
    tracker = KeptTracker(body, marked=False)
    event = b"data: x\n\n"
    assert body.pipe(lambda *_: True)
    stream.append(event * 3)
    tracker.feed(event)
    assert tracker.events == 1
