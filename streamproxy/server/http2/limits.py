"""What a connection over HTTP/2 may take, and the streams that still have to be reset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NamedTuple

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


class _Ending(NamedTuple):
    code: int
    end_alone: bool
    until: float


class EndingStreams:
    """Streams that are reset once what was queued of them has gone, or their time is up.

    A reset that overtakes what was queued before it would take an error event, or a whole early answer, from the
    client. ``end_alone`` of a stream says that its end of body is a frame for itself, which nothing in the queue shows.
    """

    __slots__ = ("_endings",)

    def __init__(self) -> None:
        self._endings: dict[int, _Ending] = {}

    def __len__(self) -> int:
        return len(self._endings)

    def add(self, stream: int, code: int, end_alone: bool, until: float) -> None:
        """Reset a stream with this code, at the latest then."""
        self._endings[stream] = _Ending(code, end_alone, until)

    def discard(self, stream: int) -> None:
        """The stream is closed."""
        self._endings.pop(stream, None)

    def clear(self) -> None:
        """The connection is gone."""
        self._endings.clear()

    def ready(self, queued: Callable[[int], int], can_send: Callable[[int], bool]) -> list[tuple[int, int]]:
        """Take out those whose queue has gone, now that everything was sent that could be; with their codes."""
        found = [
            (stream, ending.code)
            for stream, ending in self._endings.items()
            if not queued(stream) and (not ending.end_alone or can_send(stream))
        ]
        return self._take(found)

    def expired(self, now: float) -> list[tuple[int, int]]:
        """Take out those whose time is up, with their codes."""
        return self._take([(stream, ending.code) for stream, ending in self._endings.items() if ending.until <= now])

    def _take(self, found: list[tuple[int, int]]) -> list[tuple[int, int]]:
        for stream, _ in found:
            del self._endings[stream]
        return found
