"""What a store of streams offers: keep what an upstream sends, and read it again from a cursor.

The process that reads a stream from its upstream *creates* it, appends each chunk and ends it. Appending takes no time
that depends on the store: it neither waits nor fails. Every client, the first one too, reads the stream as a
`StoredBody`, from the place of its cursor to the end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

from streamproxy.errors import ExchangeError, LimitReached
from streamproxy.store.body import StoredBody
from streamproxy.store.cursor import Cursor
from streamproxy.store.segments import Format
from streamproxy.subclassing import mypyc_attr

REMEMBERED = 3600.0  # seconds for which the name of a stream is known after the stream is gone
READERS = 1000  # how many clients may read one stream by a cursor at once, in each process
PATIENCE = 2.0  # seconds for which a place is waited for that a live stream has not reached

# Why a stream is to end: its owner's DELETE, or no client for as long as `grace`.
StopReason = Literal["owner", "grace"]
Stop = Callable[[StopReason], None]

# What became of an owner's DELETE: the stream is stopped (or had ended), it is kept no more, or it never was.
StopResult = Literal["stopped", "gone", "unknown"]
# Ends a stream that is not kept here, if another process keeps it in its memory: by its name and its `owner_digest`.
StopElsewhere = Callable[[str, bytes], Awaitable[StopResult]]


class StoreSettings(NamedTuple):
    """The keys of ``resume`` that concern a store: seconds and bytes."""

    window: float = 300.0
    max_bytes: int = 4 << 20
    max_total: int = 256 << 20
    grace: float = 30.0


def check_readers(count: int) -> None:
    """Raise LimitReached if so many clients of one stream are all that may be."""
    if count >= READERS:
        raise LimitReached("Too many clients read this stream", retry_after=5.0)


class StreamHead(NamedTuple):
    """What is kept of the response beside its body. ``owner`` are the parts of `owner_digest`."""

    owner: Sequence[bytes]
    content_type: bytes
    format: Format


@mypyc_attr(allow_interpreted_subclasses=True)
class Recipient:
    """What the bytes of an upstream are for: one or more clients, and what is kept. Nothing but `room` waits."""

    __slots__ = ()

    def append(self, chunk: bytes, framed: bytes = b"") -> None:
        """Take a chunk, and hand it to the clients. Never raises.

        ``framed`` is the same in HTTP/1.1's chunked framing, where it came like that.
        """
        raise NotImplementedError

    def end(self, fault: ExchangeError | None) -> None:
        """The upstream has ended: in good order (None), or cut. Only the first call counts."""
        raise NotImplementedError

    def has_room(self, limit: int) -> bool:
        """Whether the upstream is to be read on: some client is less than ``limit`` bytes behind, or none is there."""
        raise NotImplementedError

    async def room(self, limit: int) -> None:
        """Wait until it has room."""
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class KeptStream(Recipient):
    """A stream that this process reads from its upstream. ``name`` is the STREAM of its cursors."""

    __slots__ = ()

    name: str

    @property
    def events(self) -> int:
        """How many events have come so far."""
        raise NotImplementedError

    def read(self, cursor: Cursor, ids: bool = False) -> StoredBody:
        """The body from a place on, for one client; with ``ids`` written into it. Raises StreamGone."""
        raise NotImplementedError


class Replay(NamedTuple):
    """The answer to a cursor. ``body`` is None when the stream is complete and nothing comes after the cursor."""

    content_type: bytes
    body: StoredBody | None
    live: bool


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamStore:
    """Where a route's streams are kept."""

    __slots__ = ()

    def configure(self, settings: StoreSettings) -> None:
        """Go by other settings from now on; streams that are kept stay."""
        raise NotImplementedError

    def create(self, head: StreamHead, stop: Stop) -> KeptStream | None:
        """Begin a stream. None while the store can't keep one: its response then has no cursor.

        ``stop`` is called when the stream should end; it has to lead to `KeptStream.end`.
        """
        raise NotImplementedError

    async def find(self, cursor: Cursor, owner: Sequence[bytes], ids: bool = False) -> Replay:
        """What a client gets that comes back. Waits for a place that a live stream has not reached, PATIENCE at most.

        Raises StreamUnknown for a stream that never was or is another's, StreamGone for a place that is not kept,
        LimitReached when READERS clients read it.
        """
        raise NotImplementedError

    async def own(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        """Return if the stream is the owner's. Raises StreamUnknown if it is not, StreamGone if it is not kept."""
        raise NotImplementedError

    async def stop(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        """End the owner's stream, wherever it runs; nothing happens to one that has ended. Raises as `find`."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Forget everything. Streams that live go on without being kept."""
