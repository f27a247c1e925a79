"""What is read of the response that a relay passes on: its chunks are counted, and followed by an inspector.

Until a stream of an LLM API has spoken, each of its events is decoded, which takes longer than all else that is done
with a chunk. So these chunks are written first, and read in the loop's next turn, or before anything that depends on
what they said. The exchange's ``catch_up`` is set meanwhile, for those who ask its inspector.

What is counted per chunk is counted in the exchange's own slots.
"""

from __future__ import annotations

import asyncio
import logging
from time import monotonic

from streamproxy.errors import ExchangeError
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.limit import feed_within
from streamproxy.proxy.keepalives import Keepalives

logger = logging.getLogger("streamproxy.proxy")


class Reading(Keepalives):
    """The part of a relay that reads what passes. The relay sets the attributes."""

    __slots__ = ("_noted", "_over", "_reads", "_unread")

    _noted: int  # the inspector's ``changes`` that the exchange knows
    _over: bool  # the next event would be more than the route lets through
    _reads: bool  # the inspector reads what the stream says of itself
    _unread: bytes  # a chunk that has passed, and that the inspector has yet to read; no other has come since

    def _count(self, chunk: bytes, now: float) -> bytes:
        """Add a chunk up, and inspect it, now or once it is written. Returns what of it may pass."""
        if self._unread:
            self._catch_up()
        self._add_up(chunk, now)
        inspector = self._inspector
        if inspector is None:
            return chunk
        if self._reads and not inspector.spoke and self._exchange.streaming and self._plan.max_events is None:
            self._unread = chunk
            self._exchange.catch_up = catch_up = self._catch_up
            asyncio.get_running_loop().call_soon(catch_up)
            return chunk
        return self._read(inspector, chunk, now)

    def _catch_up(self) -> None:
        """Read the chunk that was written before it was read; does nothing when that has been done."""
        chunk, self._unread = self._unread, b""
        self._exchange.catch_up = None
        if chunk and self._inspector is not None:
            self._read(self._inspector, chunk, self._exchange.last_read_at)

    def _add_up(self, chunk: bytes, now: float) -> None:
        exchange = self._exchange
        if exchange.streaming and exchange.last_read_at:
            exchange.count_gap(now - exchange.last_read_at)
        exchange.last_read_at = now
        exchange.chunks += 1
        exchange.response_bytes += len(chunk)

    def _read(self, inspector: Inspector, chunk: bytes, now: float) -> bytes:
        """Inspect a chunk that came at ``now``. Returns what of it may pass."""
        try:
            most = self._plan.max_events
            if most is None:
                inspector.feed(chunk)
            else:
                chunk = self._feed_within(inspector, most, chunk)
        except Exception:
            self._go_on_blind()
            return chunk
        self._exchange.events = inspector.events
        if self._reads and inspector.changes != self._noted:
            self._noted = inspector.changes
            self._exchange.note(inspector, now)
        return chunk

    def _go_on_blind(self) -> None:
        """An inspector has failed. It must not break the stream, which passes on without one."""
        logger.exception("exchange %s: its response is not read any further", self._exchange.request_id)
        self._inspector = self._exchange.inspector = None
        self._timer.stop_keepalives()

    def _feed_within(self, inspector: Inspector, most: int, chunk: bytes) -> bytes:
        """Inspect a chunk of a stream that may have ``most`` events. Returns it, or its part before one too many."""
        passed, self._over = feed_within(inspector, most, chunk)
        if self._over and self._plan.throttled is not None:
            self._plan.throttled.add()
        return passed

    def _finish(self, inspector: Inspector) -> ExchangeError | None:
        """The error of a body that is incomplete although its upstream ended it."""
        missing: ExchangeError | None = None
        try:
            missing = inspector.finish()
        except Exception:
            self._go_on_blind()
        self._exchange.events = inspector.events
        if self._reads:
            self._exchange.note(inspector, monotonic())
        return missing
