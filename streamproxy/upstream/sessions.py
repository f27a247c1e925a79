"""Sticky sessions: requests of a session go to the endpoint that named it (``sticky``).

Theory of operation. `SessionTable` is a cache in one block of memory that several processes may share: when one process
learns a session, the others know it before the client can send the next request, without a message. The block is
divided into sets of `WAYS` entries. A session's name selects its set; in a full set, the entry that expires first is
replaced. A look-up reads one set only, the table never grows, and a flood of names can only replace entries that were
used earlier.

An entry is a digest of the upstream's and the session's name, a digest of the endpoint's URL, and its expiry in seconds
of the monotonic clock, which all processes of a system share. There are no locks. An entry is written as one copy of 40
bytes, and its last 8 bytes are the exclusive or of the others. An entry that two processes wrote at once, or that is
read half-written, fails this check and counts as empty.

Names are stored as digests, so no session can be read from the memory.
"""

from __future__ import annotations

import mmap
import os
import struct
import tempfile
from collections.abc import Callable, Sequence
from hashlib import blake2b
from time import monotonic
from typing import Final

from streamproxy.upstream.endpoint import Endpoint
from streamproxy.wire.headers import Headers, first

SETS: Final = 1 << 14
WAYS: Final = 8  # entries per set

_ENTRY: Final = struct.Struct("=QQQdQ")  # name, endpoint, expiry, check
_ENTRY_BITS: Final = struct.Struct("=QQQQQ")
_SET: Final = _ENTRY.size * WAYS
SIZE: Final = SETS * _SET  # bytes: 5 MiB of address space; pages take memory when first written
_LONGEST: Final = 4096  # bytes of a session's name; longer names are ignored


def shared_memory() -> int:
    """Returns a descriptor of memory for a table, to be passed to other processes. Raises OSError."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("streamproxy-sessions")
    else:
        with tempfile.TemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, SIZE)
    return descriptor


class SessionTable:
    """Maps sessions to the endpoints that named them.

    ``descriptor`` refers to memory that processes share; -1 means memory of this process alone.
    """

    __slots__ = ("_memory",)

    def __init__(self, descriptor: int = -1) -> None:
        self._memory = mmap.mmap(descriptor, SIZE)

    def find(self, name: tuple[int, int], now: float, until: float) -> int | None:
        """Returns the digest of a session's endpoint, or None. A session that is found is extended to ``until``."""
        start = name[0] % SETS * _SET
        for at in range(start, start + _SET, _ENTRY.size):
            entry = self._read(at)
            if entry is not None and entry[:2] == name:
                if entry[3] <= now:
                    return None
                self._write(at, name, entry[2], until)
                return entry[2]
        return None

    def learn(self, name: tuple[int, int], endpoint: int, until: float) -> None:
        """Stores which endpoint a session belongs to."""
        start = name[0] % SETS * _SET
        place, soonest = start, float("inf")
        for at in range(start, start + _SET, _ENTRY.size):
            entry = self._read(at)
            if entry is not None and entry[:2] == name:
                place = at
                break
            expiry = 0.0 if entry is None else entry[3]
            if expiry < soonest:
                place, soonest = at, expiry
        self._write(place, name, endpoint, until)

    def _read(self, at: int) -> tuple[int, int, int, float] | None:
        data = self._memory[at : at + _ENTRY.size]
        one, two, three, four, check = _ENTRY_BITS.unpack(data)
        if not four or one ^ two ^ three ^ four != check:
            return None
        return one, two, three, _ENTRY.unpack(data)[3]

    def _write(self, at: int, name: tuple[int, int], endpoint: int, until: float) -> None:
        data = _ENTRY.pack(*name, endpoint, until, 0)
        one, two, three, four, _ = _ENTRY_BITS.unpack(data)
        self._memory[at : at + _ENTRY.size] = _ENTRY_BITS.pack(one, two, three, four, one ^ two ^ three ^ four)


class Sessions:
    """The sticky sessions of one upstream.

    ``source`` is ``header:NAME``, the field that carries the session's name in a response and in the requests after it.
    ``ttl`` is how many seconds a session is kept after its last use.
    """

    __slots__ = ("_clock", "_field", "_table", "_ttl", "_upstream")

    def __init__(
        self, table: SessionTable, upstream: str, source: str, ttl: float, clock: Callable[[], float] = monotonic
    ) -> None:
        self._table = table
        self._upstream = upstream.encode()
        self._field = source.removeprefix("header:").lower().encode()
        self._ttl = ttl
        self._clock = clock

    def find(self, headers: Headers, candidates: Sequence[Endpoint]) -> Endpoint | None:
        """Returns the endpoint of the session that a request names, or None if it is unknown or not a candidate."""
        value = first(headers, self._field)
        if not value or len(value) > _LONGEST:
            return None
        now = self._clock()
        wanted = self._table.find(self._name(value), now, now + self._ttl)
        if wanted is None:
            return None
        return next((one for one in candidates if _digest(one.url) == wanted), None)

    def learn(self, headers: Headers, endpoint: Endpoint) -> None:
        """Stores the session that a response of the endpoint names, if any."""
        value = first(headers, self._field)
        if value and len(value) <= _LONGEST:
            self._table.learn(self._name(value), _digest(endpoint.url), self._clock() + self._ttl)

    def _name(self, value: bytes) -> tuple[int, int]:
        digest = blake2b(self._upstream + b"\0" + value, digest_size=16).digest()
        return int.from_bytes(digest[:8]), int.from_bytes(digest[8:])


def _digest(url: str) -> int:
    return int.from_bytes(blake2b(url.encode(), digest_size=8).digest())
