"""How streams lie in Redis. No I/O.

Of a stream with the storage key K there are two keys, which a cluster keeps on one node:

- ``streamproxy:{K}:meta``, a hash: the owner's digest, the media type, the format, the process that writes it. It stays
  for an hour after the stream is gone, and so tells a cursor that is too old from a guess.
- ``streamproxy:{K}:data``, a Redis stream. An entry has bytes of the upstream that begin and end between two events,
  and the number of events with it. Its id is ``EVENTS+1-OFFSET``: how many events, and how many bytes, come before it.
  So the entry in which an event ends is found by its id, an entry that is sent twice is refused by Redis, and a reader
  sees by the offsets when entries are missing between two that it gets. The last entry has no bytes and says how the
  stream ended, and whether it did so inside of an event.

Beside them there are two keys for each process: ``streamproxy:beat:ID``, which expires when the process does not renew
it, and the stream ``streamproxy:wake:ID``, to which it adds an entry when its own reading task has to look at
something, and to see whether entries are taken. And there is one stream for all, ``streamproxy:control``, over which
processes tell each other which streams are to stop and which are being read.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from streamproxy.store.base import StreamHead
from streamproxy.store.cursor import owner_digest

CONTROL: Final = "streamproxy:control"
BEAT_TTL: Final = 3000  # ms
WAKE_TTL: Final = 60_000  # ms
COMPLETE: Final = b"complete"
CUT: Final = b"cut"

EntryId = tuple[int, int]
Entry = tuple[bytes, list[bytes]]


def data_key(key: str) -> str:
    return f"streamproxy:{{{key}}}:data"


def stream_of(name: bytes) -> str:
    """The storage key of the stream that a key belongs to; empty for another key."""
    return name.partition(b"{")[2].partition(b"}")[0].decode("latin-1") if name.startswith(b"streamproxy:{") else ""


def meta_key(key: str) -> str:
    return f"streamproxy:{{{key}}}:meta"


def beat_key(process: str) -> str:
    return f"streamproxy:beat:{process}"


def wake_key(process: str) -> str:
    return f"streamproxy:wake:{process}"


def entry_id(events: int, offset: int) -> str:
    """The id of the entry that begins behind so many events, at this offset."""
    return f"{events + 1}-{offset}"


def read_id(text: bytes) -> EntryId:
    first, _, second = text.partition(b"-")
    return int(first), int(second)


class Piece(NamedTuple):
    """An entry: bytes at an offset, or the end of the stream (``end`` is not empty)."""

    id: EntryId
    data: bytes
    events: int  # with this entry
    end: bytes
    unfinished: bool = False  # of the end: the last event is not whole

    @property
    def events_before(self) -> int:
        return self.id[0] - 1

    @property
    def offset(self) -> int:
        return self.id[1]


def read_entry(entry: Entry) -> Piece:
    """An entry as Redis replies it. Raises ValueError for one that is none of ours."""
    name, fields = entry
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    number, end = int(pairs.get(b"n", b"0")), pairs.get(b"e", b"")
    return Piece(read_id(name), pairs.get(b"b", b""), number, end, b"u" in pairs)


class Meta(NamedTuple):
    """What is known of a stream beside its bytes."""

    owner: bytes
    content_type: bytes
    format: bytes
    writer: bytes
    ids_from: int  # the number of events from which on the upstream has ids of its own; -1 for none
    ended: bool

    @classmethod
    def fields(cls, name: str, head: StreamHead, writer: str) -> tuple[Any, ...]:
        """Of a stream that begins: the pairs of its hash."""
        owner = owner_digest(name, head.owner)
        return ("o", owner, "c", head.content_type, "f", head.format, "w", writer)

    @classmethod
    def read(cls, reply: list[bytes | None]) -> Meta | None:
        """The reply to an HMGET of META_NAMES; None for a stream that is not there."""
        owner, content_type, format, writer, ids, end = reply
        if owner is None or content_type is None or format is None or writer is None:
            return None
        return cls(owner, content_type, format, writer, -1 if ids is None else int(ids), end is not None)


META_NAMES: Final = ("o", "c", "f", "w", "i", "e")
