"""Media types."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from streamproxy.wire.media import STREAMING, accepts_event_stream, is_streaming, media_type
from streamproxy.wire.response_fields import streaming_cache_control


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


@pytest.mark.parametrize("find", [media_type, accepts_event_stream, streaming_cache_control])
def test_peers_who_make_up_long_values_take_no_memory(find: Callable[[bytes], object]) -> None:
    """300 values of 60 KB are 18 MB; of short ones 256 may be kept."""
    tracemalloc.start()
    try:
        results = {find(b"text/event-stream; x=%d" % number + b"y" * 60_000) for number in range(300)}
        results.clear()
        assert tracemalloc.get_traced_memory()[0] < 500_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("padding", [0, 60_000])
def test_a_value_means_the_same_when_it_comes_again(padding: int) -> None:
    value = b"Text/Event-Stream;x=" + b"y" * padding
    for _ in range(2):
        assert media_type(value) == b"text/event-stream"
        assert accepts_event_stream(value)
        assert streaming_cache_control(value) == value + b", no-cache, no-transform"
