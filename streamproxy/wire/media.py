"""Media types: which responses are streams, and what a request accepts.

Few different values occur in practice, and they are short, so results are remembered. The longest values that peers
choose are computed each time.
"""

from __future__ import annotations

from typing import Final

from streamproxy.wire.remembered import remember

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

_MOST: Final = 256  # values that are remembered
_LONGEST: Final = 256  # bytes of such a value; browsers' Accept for a page has about 150
_media_types: Final[dict[bytes, bytes]] = {}
_accepted: Final[dict[bytes, bool]] = {}


def media_type(content_type: bytes) -> bytes:
    """Returns the media type of a Content-Type value in lower case: ``Text/HTML; charset=x`` becomes ``text/html``."""
    known = _media_types.get(content_type)
    if known is not None:
        return known
    media = content_type.partition(b";")[0].strip(b" \t").lower()
    return remember(_media_types, content_type, media, _LONGEST, _MOST)


def is_streaming(content_type: bytes) -> bool:
    """Whether a response of this Content-Type is a stream; case and parameters are ignored."""
    return media_type(content_type) in STREAMING


def accepts_event_stream(accept: bytes) -> bool:
    """Whether an Accept value contains ``text/event-stream`` with a weight other than 0 (RFC 9110 section 12.4.2)."""
    known = _accepted.get(accept)
    if known is not None:
        return known
    return remember(_accepted, accept, _accepts(accept), _LONGEST, _MOST)


def _accepts(accept: bytes) -> bool:
    for member in accept.lower().split(b","):
        media, *parameters = [part.strip(b" \t") for part in member.split(b";")]
        if media == EVENT_STREAM:
            return not any(p[:2] == b"q=" and not p[2:].strip(b"0.") for p in parameters)
    return False
