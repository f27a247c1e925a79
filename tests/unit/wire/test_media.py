"""Media types."""

from __future__ import annotations

import pytest

from streamproxy.wire.media import STREAMING, accepts_event_stream, is_streaming


@pytest.mark.parametrize("media", sorted(STREAMING))
def test_streaming_types_count_in_any_case_and_with_parameters(media: bytes) -> None:
    assert is_streaming(media)
    assert is_streaming(media.upper() + b" ; charset=UTF-8")


@pytest.mark.parametrize(
    "media", [b"", b"text/html", b"application/json", b"text/event-streams", b"x; text/event-stream"]
)
def test_other_types_do_not(media: bytes) -> None:
    assert not is_streaming(media)


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (b"text/event-stream", True),
        (b"application/json, Text/Event-Stream;q=0.5", True),
        (b"text/event-stream;q=0", False),
        (b"text/event-stream; q=0.0", False),
        (b"*/*", False),
        (b"", False),
    ],
)
def test_a_request_asks_for_events_by_naming_them(accept: bytes, wanted: bool) -> None:
    assert accepts_event_stream(accept) is wanted
