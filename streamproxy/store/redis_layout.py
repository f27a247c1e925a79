"""The layout of streams in Redis. No I/O.

A stream with the storage key K has two keys, which a cluster keeps on one node:

- ``streamproxy:{K}:meta`` is a hash: the owner's digest, the media type, the format, and the process that writes the
  stream. It stays for an hour after the stream is gone, so that an expired cursor can be told from a guess.
- ``streamproxy:{K}:data`` is a Redis stream. An entry holds bytes of the upstream that begin and end between two
  events, and the number of events up to its end. Its id is ``EVENTS+1-OFFSET``: the numbers of events and of bytes
  before it. So the entry in which an event ends is found by its id, Redis refuses an entry that is sent twice, and a
  reader can see from the offsets whether entries are missing between two. The last entry has no bytes. It states how
  the stream ended, and whether it ended inside an event.

Each process has two keys. ``streamproxy:beat:ID`` expires unless the process renews it. To the stream
``streamproxy:wake:ID`` the process adds an entry when its own reading task must look at something, and to see whether
Redis accepts entries. All processes share the stream ``streamproxy:control``, in which they tell each other which
streams to stop and which are being read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from streamproxy.store.base import StreamHead
from streamproxy.store.cursor import owner_digest

CONTROL: Final = "streamproxy:control"
BEAT_TTL: Final = 3000  # ms
WAKE_TTL: Final = 60_000  # ms
COMPLETE: Final = b"complete"
CUT: Final = b"cut"

EntryId = tuple[int, int]
Entry = Sequence[Any]  # its id, and a list of names and values; replies are lists


def data_key(key: str) -> str:
    return f"streamproxy:{{{key}}}:data"


def stream_of(name: bytes) -> str:
    """Returns the storage key of the stream that a key belongs to; empty if the key is another one."""
    return name.partition(b"{")[2].partition(b"}")[0].decode("latin-1") if name.startswith(b"streamproxy:{") else ""


def meta_key(key: str) -> str:
    return f"streamproxy:{{{key}}}:meta"


def beat_key(process: str) -> str:
    return f"streamproxy:beat:{process}"


def wake_key(process: str) -> str:
    return f"streamproxy:wake:{process}"


def entry_id(events: int, offset: int) -> str:
    """Returns the id of the entry that begins after this many events, at this offset."""
    return f"{events + 1}-{offset}"


def read_id(text: bytes) -> EntryId:
    first, _, second = text.partition(b"-")
    return int(first), int(second)


class Piece(NamedTuple):
    """An entry: bytes at an offset, or, if ``end`` is not empty, the end of the stream."""

    id: EntryId
    data: bytes
    events: int  # up to the end of this entry
    end: bytes
    unfinished: bool = False  # the stream ended inside an event

    @property
    def events_before(self) -> int:
        return self.id[0] - 1

    @property
    def offset(self) -> int:
        return self.id[1]


def read_entry(entry: Entry) -> Piece:
    """Parses an entry as Redis returns it. Raises ValueError for an entry that is not ours."""
    name, fields = entry
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    number, end = int(pairs.get(b"n", b"0")), pairs.get(b"e", b"")
    return Piece(read_id(name), pairs.get(b"b", b""), number, end, b"u" in pairs)


class Meta(NamedTuple):
    """What Redis has of a stream besides its bytes."""

    owner: bytes
    content_type: bytes
    format: bytes
    writer: bytes
    ids_from: int  # the number of events after which the upstream writes ids of its own; -1 if it writes none
    ended: bool

    @classmethod
    def fields(cls, name: str, head: StreamHead, writer: str) -> tuple[Any, ...]:
        """Returns the names and values of the hash of a stream that begins."""
        owner = owner_digest(name, head.owner)
        return ("o", owner, "c", head.content_type, "f", head.format, "w", writer)

    @classmethod
    def read(cls, reply: list[bytes | None]) -> Meta | None:
        """Parses the reply to an HMGET of META_NAMES. Returns None if there is no such stream."""
        owner, content_type, format, writer, ids, end = reply
        if owner is None or content_type is None or format is None or writer is None:
            return None
        return cls(owner, content_type, format, writer, -1 if ids is None else int(ids), end is not None)


META_NAMES: Final = ("o", "c", "f", "w", "i", "e")
