"""Media types: which responses are streams, and what a request accepts.

Few different values occur in practice, so results are cached. The cache is bounded, and so are the values, by the size
of a head.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

STREAMING: Final = frozenset(
    {
        b"text/event-stream",
        b"application/x-ndjson",
        b"application/ndjson",
        b"application/jsonl",
        b"application/json-seq",
        b"application/stream+json",
        b"application/vnd.amazon.eventstream",
        b"multipart/x-mixed-replace",
    }
)
NDJSON: Final = frozenset({b"application/x-ndjson", b"application/ndjson", b"application/jsonl"})
EVENT_STREAM: Final = b"text/event-stream"


@lru_cache(maxsize=256)
def media_type(content_type: bytes) -> bytes:
    """Returns the media type of a Content-Type value in lower case: ``Text/HTML; charset=x`` becomes ``text/html``."""
    return content_type.partition(b";")[0].strip(b" \t").lower()


def is_streaming(content_type: bytes) -> bool:
    """Whether a response of this Content-Type is a stream; case and parameters are ignored."""
    return media_type(content_type) in STREAMING


@lru_cache(maxsize=256)
def accepts_event_stream(accept: bytes) -> bool:
    """Whether an Accept value contains ``text/event-stream`` with a weight other than 0 (RFC 9110 section 12.4.2)."""
    for member in accept.lower().split(b","):
        media, *parameters = [part.strip(b" \t") for part in member.split(b";")]
        if media == EVENT_STREAM:
            return not any(p[:2] == b"q=" and not p[2:].strip(b"0.") for p in parameters)
    return False
