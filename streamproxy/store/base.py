"""The interface of a store of streams, which keeps what an upstream sends so that it can be read again from a cursor.

The process that reads a stream from its upstream *creates* it in the store, appends each chunk and ends it. Appending
neither waits nor fails, whatever state the store is in. Every client, including the first, reads the stream as a
`StoredBody`, from the position of its cursor to the end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal, NamedTuple

from streamproxy.errors import ExchangeError, LimitReached
from streamproxy.store.body import StoredBody
from streamproxy.store.cursor import Cursor
from streamproxy.store.segments import Format
from streamproxy.subclassing import mypyc_attr

REMEMBERED = 3600.0  # seconds for which the name of a dropped stream is remembered
READERS = 1000  # clients that may read one stream by its cursors at the same time, in each process
PATIENCE = 2.0  # seconds to wait for a position that a live stream has not reached yet

# Why a stream is stopped: its owner sent DELETE, or it had no client for `grace`.
StopReason = Literal["owner", "grace"]
Stop = Callable[[StopReason], None]

# The result of an owner's DELETE: the stream was stopped (or had ended), is no longer kept, or never existed.
StopResult = Literal["stopped", "gone", "unknown"]
# Stops a stream that another process keeps in its memory. Takes the stream's name and its `owner_digest`.
StopElsewhere = Callable[[str, bytes], Awaitable[StopResult]]


class StoreSettings(NamedTuple):
    """The keys of ``resume`` that concern a store, in seconds and bytes."""

    window: float = 300.0
    max_bytes: int = 4 << 20
    max_total: int = 256 << 20
    grace: float = 30.0


def check_readers(count: int) -> None:
    """Raises LimitReached if a stream that has ``count`` readers may not have another."""
    if count >= READERS:
        raise LimitReached("Too many clients read this stream", retry_after=5.0)


class StreamHead(NamedTuple):
    """What is kept of a response besides its body. ``owner`` holds the parts of `owner_digest`."""

    owner: Sequence[bytes]
    content_type: bytes
    format: Format


@mypyc_attr(allow_interpreted_subclasses=True)
class Recipient:
    """Takes the bytes of an upstream, for one or more clients and for the store. Only `room` waits.

    Subclasses set ``ended`` and ``_room`` to False and None.
    """

    __slots__ = ("_room", "ended")

    ended: bool
    _room: asyncio.Future[None] | None

    def append(self, chunk: bytes, framed: bytes = b"") -> None:
        """Takes a chunk and hands it to the clients. Never raises.

        ``framed`` is the chunk in the chunked framing of HTTP/1.1 if it arrived that way, otherwise empty.
        """
        raise NotImplementedError

    def end(self, fault: ExchangeError | None) -> None:
        """Ends the stream: complete if ``fault`` is None, otherwise cut. Only the first call counts."""
        raise NotImplementedError

    def has_room(self, limit: int) -> bool:
        """Whether to read on from the upstream: a client is less than ``limit`` bytes behind, or there is no client."""
        raise NotImplementedError

    async def room(self, limit: int) -> None:
        """Waits until `has_room` is true, or the stream has ended."""
        while not self.ended and not self.has_room(limit):
            if self._room is None:
                self._room = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._room)

    def make_room(self) -> None:
        """Lets the upstream be read on, after a client has read something or left."""
        room, self._room = self._room, None
        if room is not None:
            room.set_result(None)


@mypyc_attr(allow_interpreted_subclasses=True)
class KeptStream(Recipient):
    """A stream that this process reads from its upstream. ``name`` is the STREAM part of its cursors."""

    __slots__ = ()

    name: str

    @property
    def events(self) -> int:
        """The number of events received so far."""
        raise NotImplementedError

    def read(self, cursor: Cursor, ids: bool = False) -> StoredBody:
        """Returns the body from a cursor on, for one client; ``ids`` adds an id to each event that has none.

        Raises StreamGone if that position is no longer kept.
        """
        raise NotImplementedError


class Replay(NamedTuple):
    """The answer to a cursor. ``body`` is None if the stream is complete and nothing follows the cursor."""

    content_type: bytes
    body: StoredBody | None
    live: bool


@mypyc_attr(allow_interpreted_subclasses=True)
class StreamStore:
    """Keeps the streams of a route."""

    __slots__ = ()

    def configure(self, settings: StoreSettings) -> None:
        """Applies other settings from now on. Streams that are already kept stay."""
        raise NotImplementedError

    def create(self, head: StreamHead, stop: Stop) -> KeptStream | None:
        """Begins a stream. Returns None while the store can't keep one; the response then carries no cursor.

        ``stop`` is called when the stream should end, and must lead to a call of `KeptStream.end`.
        """
        raise NotImplementedError

    async def find(self, cursor: Cursor, owner: Sequence[bytes], ids: bool = False) -> Replay:
        """Returns the answer to a client that comes back. Waits up to PATIENCE for a position not yet reached.

        Raises StreamUnknown for a stream that never existed or belongs to somebody else, StreamGone for a position
        that is not kept, and LimitReached if READERS clients read the stream already.
        """
        raise NotImplementedError

    async def own(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        """Checks that ``owner`` owns the stream. Raises StreamUnknown if not, StreamGone if it is no longer kept."""
        raise NotImplementedError

    async def stop(self, cursor: Cursor, owner: Sequence[bytes]) -> None:
        """Stops the owner's stream, in whichever process it runs. An ended one stays as it is. Raises as `own`."""
        raise NotImplementedError

    async def aclose(self) -> None:
        """Forgets everything. Live streams go on without being kept."""
