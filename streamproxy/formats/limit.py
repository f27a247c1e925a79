"""The most events that a stream may have. No I/O."""

from __future__ import annotations

from streamproxy.formats.inspector import Inspector


def feed_within(inspector: Inspector, most: int, chunk: bytes) -> tuple[bytes, bool]:
    """Feed a chunk of a stream that may have ``most`` events to its inspector.

    Returns what of it may pass, and whether the stream has ended there: the chunk up to the end of the last event, if
    another event has come whole behind it.
    """
    if inspector.events + chunk.count(b"\n") + chunk.count(b"\r") <= most:
        inspector.feed(chunk)
        return chunk, False
    end = passed = 0
    for line in chunk.splitlines(keepends=True):
        inspector.feed(line)
        end += len(line)
        if inspector.events > most:
            inspector.events = most
            return chunk[:passed], True
        if inspector.between_events:
            passed = end
    return chunk, False
