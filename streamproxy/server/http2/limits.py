"""What a connection over HTTP/2 may take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamproxy.wire.http1 import MAX_FIELDS

MAX_STREAMS: Final = 256  # of one connection, at once
HEAD_FACTOR: Final = 4  # a head so many times too large is refused; a larger one ends the connection
_FRAME_OF_HEAD: Final = 1024  # bytes that a CONTINUATION frame may be expected to have, on average
_FEWEST_CONTINUATIONS: Final = 64


@dataclass(frozen=True)
class Http2Limits:
    """``max_header_size`` in bytes, times in seconds.

    ``linger`` is how long an ended connection waits for the client to hear of it, and how long a stream that is to be
    reset may take to send what is queued. ``on_rejected`` hears of each request that is refused before the application
    sees it, with the status and the reason. ``is_trusted`` says of an address whether it is a proxy of ours, which may
    reset as many streams as it likes.
    """

    max_header_size: int = 64 * 1024
    max_fields: int = MAX_FIELDS
    head_timeout: float = 30.0
    linger: float = 5.0
    on_rejected: Callable[[int, str], None] | None = None
    is_trusted: Callable[[str], bool] | None = None

    @property
    def largest_head(self) -> int:
        """Bytes of a head beyond which the connection ends."""
        return self.max_header_size * HEAD_FACTOR

    @property
    def most_continuations(self) -> int:
        """In how many CONTINUATION frames such a head may come."""
        return max(_FEWEST_CONTINUATIONS, self.largest_head // _FRAME_OF_HEAD)
