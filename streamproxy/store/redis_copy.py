"""Copies the streams of this process to Redis.

Theory of operation. Streams are kept in memory as without Redis. Ten times a second, or twice as often while another
process reads one of them, what is new in them is copied from there, in whole events. The log in memory is the queue:
nothing is held twice, and a Redis that is slow or away costs neither memory nor any client's time. At most one entry of
each stream is being sent at any time, so that no entry can be missing between two others.

A copy is *broken* if Redis refused an entry or was away. As soon as Redis takes writes again, it is asked for the last
entry of the stream, and the copy continues from there. If Redis has lost the stream, it is copied again from the
beginning. If the next bytes are no longer in memory, the copy continues after them; a reader sees the gap and is cut
there.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any, Final

from streamproxy.errors import ExchangeError
from streamproxy.store.base import REMEMBERED, Stop, StreamHead
from streamproxy.store.cursor import new_stream, storage_key
from streamproxy.store.memory import MemoryStore, MemoryStream
from streamproxy.store.redis_layout import (
    BEAT_TTL,
    COMPLETE,
    CUT,
    WAKE_TTL,
    Meta,
    beat_key,
    data_key,
    entry_id,
    meta_key,
    read_entry,
    wake_key,
)
from streamproxy.store.redis_link import Link
from streamproxy.store.segments import PlaceGone

FLUSH: Final = 0.1  # seconds between two rounds of copying
PROMPT: Final = 0.05  # the same while clients of another process wait for what is copied
LIVE_TTL: Final = 120.0  # seconds beyond `window` after which the keys of a live stream expire unless renewed
_MARKS: Final = 8  # a copy is trimmed in steps of `max_bytes` divided by this


class RedisStream(MemoryStream):
    """A stream of this process, with the state of its copy."""

    __slots__ = (
        *("_copies", "_elsewhere", "data_key", "head", "ids_sent", "key"),
        *("marks", "sent", "sent_events", "under_way"),
    )

    def __init__(self, store: MemoryStore, copies: Copies, head: StreamHead, stop: Stop) -> None:
        super().__init__(store, new_stream(), head, stop)
        self._copies = copies
        self._elsewhere: dict[bytes, float] = {}  # processes that read it, and the time until which they are known to
        self.key = storage_key(self.name)
        self.data_key = data_key(self.key).encode()
        self.head = head
        self.sent = 0  # bytes that Redis has
        self.sent_events = 0
        self.ids_sent = False
        self.reported = False
        self.under_way = False
        self.marks: list[tuple[int, str]] = [(0, entry_id(0, 0))]  # positions at which the copy can be trimmed

    @property
    def window(self) -> float:
        """How long it is kept after its end, in seconds."""
        return self._store.settings.window

    @property
    def max_bytes(self) -> int:
        return self._store.settings.max_bytes

    def read_elsewhere(self, process: bytes, until: float) -> None:
        """Notes that clients of another process read it, at least until this time."""
        self._elsewhere[process] = until
        self.remote_until = max(self._elsewhere.values())

    def presume_elsewhere(self, now: float, until: float) -> None:
        """Presumes, while no process can be heard, that those which read it now do so at least until this time."""
        for process, known in self._elsewhere.items():
            if known >= now:
                self.read_elsewhere(process, max(known, until))

    def left_elsewhere(self, process: bytes) -> None:
        """Handles that the last client of another process has left."""
        self._elsewhere.pop(process, None)
        self.remote_until = max(self._elsewhere.values(), default=0.0)
        if not self.read_by_someone:
            self._store.idle(self)

    def changed(self) -> None:
        self._copies.touch(self)

    def end(self, fault: ExchangeError | None) -> None:
        super().end(fault)
        self._copies.touch(self)


class Copies:
    """The copies of all streams of this process. ``writable`` says whether Redis takes writes."""

    def __init__(self, link: Link, process: str) -> None:
        self.writable = False
        self.writable_since = 0.0  # in the loop's time
        self.live: dict[str, RedisStream] = {}  # by storage key, including ended ones whose end Redis does not have yet
        self._link = link
        self._process = process
        self._dirty: list[RedisStream] = []
        self._broken: dict[RedisStream, None] = {}
        self._beats = False  # whether Redis accepted the last heartbeat
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when it fires, in the loop's time

    def begin(self, stream: RedisStream) -> None:
        """Copies a stream from now on."""
        self.live[stream.key] = stream
        self._introduce(stream)

    def touch(self, stream: RedisStream) -> None:
        """Schedules a copy of what is new in a stream."""
        if stream.reported or stream.key not in self.live:
            return
        stream.reported = True
        self._dirty.append(stream)
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = now + (PROMPT if stream.remote_until > now else FLUSH)
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._due = due
        self._timer = loop.call_later(due - now, self.flush)

    def flush(self) -> None:
        """Copies what is new."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        dirty, self._dirty = self._dirty, []
        for stream in dirty:
            stream.reported = False
            if not stream.under_way and stream not in self._broken:
                self._copy(stream)

    def beat(self) -> None:
        """Reports that this process is alive, and finds out whether Redis takes writes of keys and of entries."""
        key, wakes = beat_key(self._process), wake_key(self._process)
        self._link.send("SET", key, "1", "PX", BEAT_TTL, done=self._beaten)
        self._link.send("PEXPIRE", key, BEAT_TTL)  # accepted even when memory is short
        self._link.send("XADD", wakes, "MAXLEN", 1, "*", "w", 1, done=self._tried)
        self._link.send("PEXPIRE", wakes, WAKE_TTL)

    def renew(self) -> None:
        """Postpones the expiry of all live streams."""
        for stream in self.live.values():
            self._expire(stream, stream.window + LIVE_TTL)

    async def aclose(self) -> None:
        """Copies the rest, as long as Redis takes it, and reports that this process is gone."""
        for stream in tuple(self.live.values()):
            self.touch(stream)
        while self._link.up and (self._dirty or any(stream.under_way for stream in self.live.values())):
            self.flush()
            await asyncio.sleep(0.005)
        if self._timer is not None:
            self._timer.cancel()
        self._link.send("DEL", beat_key(self._process))

    def _beaten(self, reply: Any) -> None:
        if isinstance(reply, Exception):
            self.writable = False
        self._beats = not isinstance(reply, Exception)

    def _tried(self, reply: Any) -> None:
        works = self._beats and not isinstance(reply, Exception)
        if works and not self.writable:
            self.writable_since = asyncio.get_running_loop().time()
        self.writable = works
        if works:
            for stream in self._broken:
                self._link.send("XREVRANGE", stream.data_key, "+", "-", "COUNT", 1, done=partial(self._go_on, stream))

    def _introduce(self, stream: RedisStream) -> None:
        fields = Meta.fields(stream.name, stream.head, self._process)
        self._link.send("HSET", meta_key(stream.key), *fields, done=partial(self._introduced, stream))
        stream.ids_sent = False
        self._expire(stream, stream.window + LIVE_TTL)

    def _introduced(self, stream: RedisStream, reply: Any) -> None:
        if isinstance(reply, Exception) and stream.key in self.live:
            self._broken[stream] = None

    def _expire(self, stream: RedisStream, seconds: float) -> None:
        self._link.send("PEXPIRE", stream.data_key, int(seconds * 1000))
        self._link.send("PEXPIRE", meta_key(stream.key), int((seconds + REMEMBERED) * 1000))

    def _copy(self, stream: RedisStream) -> None:
        log = stream.log
        try:
            # Whole events only, except at the end.
            until = log.end if stream.ended or log.counter.clean else log.place(log.events)
            data = log.read_range(stream.sent, until) if until > stream.sent else b""
        except PlaceGone:
            self._skip(stream)
            return
        if data:
            name = entry_id(stream.sent_events, stream.sent)
            done = partial(self._copied, stream, until, log.events)
            stream.under_way = True
            if log.counter.ids_from is not None and not stream.ids_sent:  # a process that serves a cursor must know it
                stream.ids_sent = True
                self._link.send("HSET", meta_key(stream.key), "i", log.counter.ids_from)
            self._link.send("XADD", stream.data_key, name, "b", data, "n", log.events, done=done)
            if stream.sent == 0:
                self._expire(stream, stream.window + LIVE_TTL)
            self._trim(stream, until, name)
        elif stream.ended:
            self._end(stream, CUT if stream.fault is not None else COMPLETE)

    def _copied(self, stream: RedisStream, until: int, events: int, reply: Any) -> None:
        stream.under_way = False
        if isinstance(reply, Exception):
            self._broken[stream] = None
            return
        stream.sent, stream.sent_events = until, events
        if stream.ended:
            self._copy(stream)
        elif stream.log.end > until:
            self.touch(stream)

    def _trim(self, stream: RedisStream, until: int, name: str) -> None:
        marks, most = stream.marks, stream.max_bytes
        if stream.sent - marks[-1][0] >= most // _MARKS:
            marks.append((stream.sent, name))
        if until - marks[0][0] > most and len(marks) > 1:
            while len(marks) > 1 and until - marks[0][0] > most:
                del marks[0]
            self._link.send("XTRIM", stream.data_key, "MINID", marks[0][1])

    def _end(self, stream: RedisStream, how: bytes) -> None:
        log = stream.log
        stream.under_way = True
        name = entry_id(log.events, log.end)
        done = partial(self._ended, stream)
        more = ("u", 1) if log.counter.unfinished else ()
        self._link.send("XADD", stream.data_key, name, "n", log.events, "e", how, *more, done=done)

    def _ended(self, stream: RedisStream, reply: Any) -> None:
        stream.under_way = False
        if isinstance(reply, Exception):
            self._broken[stream] = None
            return
        self.live.pop(stream.key, None)
        self._link.send("HSET", meta_key(stream.key), "e", "1")
        self._expire(stream, stream.window)

    def _skip(self, stream: RedisStream) -> None:
        """Continues the copy with the oldest kept bytes, after the next ones were dropped."""
        first = stream.log.first_place()
        if first is None and stream.ended:
            first = stream.log.end, stream.log.events
        if first is not None and first[0] > stream.sent:
            self._link.on_error()
            stream.sent, stream.sent_events = first
            self._copy(stream)

    def _go_on(self, stream: RedisStream, reply: Any) -> None:
        """Continues a broken copy after the last entry that Redis has."""
        if isinstance(reply, Exception) or stream not in self._broken:
            return
        del self._broken[stream]
        self._introduce(stream)
        if reply:
            last = read_entry(reply[0])
            if last.end:
                self._ended(stream, b"")
                return
            stream.sent, stream.sent_events = last.offset + len(last.data), last.events
            self._copy(stream)
        else:
            self._copy_again(stream)

    def _copy_again(self, stream: RedisStream) -> None:
        """Copies again what Redis had and lost, as one entry, so that readers who had received it can continue."""
        until, events = stream.sent, stream.sent_events
        stream.sent = stream.sent_events = 0
        stream.marks = [(0, entry_id(0, 0))]
        if until == 0:
            self._copy(stream)
            return
        try:
            data = stream.log.read_range(0, until)
        except PlaceGone:
            self._skip(stream)
            return
        stream.under_way = True
        done = partial(self._copied, stream, until, events)
        self._link.send("XADD", stream.data_key, entry_id(0, 0), "b", data, "n", events, done=done)
        self._expire(stream, stream.window + LIVE_TTL)
