"""Reads a response to its end for several clients, in a task of its own."""

from __future__ import annotations

import asyncio
import logging

from streamproxy.client.base import ChunkSource
from streamproxy.dialects.base import Dialect
from streamproxy.errors import EventLimitReached, ExchangeError, InternalError, ResponseIncomplete, UpstreamError
from streamproxy.exchange.exchange import Exchange
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.limit import feed_within
from streamproxy.origins.base import OriginResponse
from streamproxy.store.base import Recipient
from streamproxy.wire.media import media_type

logger = logging.getLogger("streamproxy.origins")


class Reader:
    """Hands what a source has to a recipient, in the read itself where it can.

    A ``judge`` follows the bytes, and decides whether a stream that its upstream has closed in good order is complete.
    With a judge, a stream that has ``most`` events is cut before the next.
    """

    __slots__ = ("_exchange", "_judge", "_limit", "_most", "_over", "_recipient", "_source", "_task")

    def __init__(
        self,
        source: ChunkSource,
        recipient: Recipient,
        limit: int,
        exchange: Exchange,
        judge: Inspector | None = None,
        most: int | None = None,
    ) -> None:
        self._source = source
        self._recipient = recipient
        self._limit = limit
        self._exchange = exchange
        self._judge = judge
        self._most = most
        self._over = False
        self._task = asyncio.get_running_loop().create_task(self._read())

    async def stop(self, fault: BaseException | None) -> None:
        """Read no more, and end what has not ended; ``fault`` is why."""
        try:
            if not self._task.done():  # a complete response must not wait: its client may be gone then
                self._task.cancel()
                await asyncio.wait([self._task])
        finally:
            self._source.pipe(None)
            self._recipient.end(self._reason(fault))

    def _reason(self, fault: BaseException | None) -> ExchangeError:
        """What the other clients are told when the exchange ends before its stream does."""
        reason = fault if isinstance(fault, ExchangeError) else self._exchange.interruption
        return reason if isinstance(reason, UpstreamError) else ResponseIncomplete(note=f"the stream ended: {reason!r}")

    async def _read(self) -> None:
        fault: ExchangeError | None = None
        try:
            await self._read_to_end()
            fault = self._verdict()
        except ExchangeError as error:
            fault = error
        except Exception:
            logger.exception("exchange %s failed while its stream was read", self._exchange.request_id)
            fault = InternalError()
        self._recipient.end(fault)

    async def _read_to_end(self) -> None:
        source, recipient, limit = self._source, self._recipient, self._limit
        while True:
            chunk = source.ready()
            if chunk is not None:
                recipient.append(self._follow(chunk))
            elif source.ended:
                return
            elif source.pipe(self._take):
                await source.change()
                source.pipe(None)
            else:
                await source.change()
            if self._over:
                raise EventLimitReached()
            if not recipient.has_room(limit):
                await recipient.room(limit)

    def _follow(self, chunk: bytes) -> bytes:
        """Show a chunk to the judge, whose own faults must not break the stream. Returns what of it may pass."""
        judge = self._judge
        if judge is None:
            return chunk
        try:
            if self._most is None:
                judge.feed(chunk)
                return chunk
            chunk, self._over = feed_within(judge, self._most, chunk)
        except Exception:
            logger.exception("exchange %s: its stream is not judged any further", self._exchange.request_id)
            self._judge = None
        return chunk

    def _verdict(self) -> ExchangeError | None:
        """Why a stream that its upstream has closed in good order is incomplete all the same."""
        return self._judge.finish() if self._judge is not None else None

    def _take(self, chunk: bytes, framed: bytes) -> bool:
        if self._judge is None and not self._over:
            recipient = self._recipient
            recipient.append(chunk, framed)
            return recipient.has_room(self._limit)
        passed = self._follow(chunk)
        self._recipient.append(passed, b"" if self._over else framed)
        return not self._over and self._recipient.has_room(self._limit)


def judge_of(response: OriginResponse, dialect: Dialect, counts: bool = False) -> Inspector | None:
    """What judges a response: it knows the end marker of the route's API, and ``counts`` events; None for neither."""
    if not dialect.reads_answers and not counts:
        return None
    fields = response.fields
    return dialect.inspector(response.status, media_type(fields.noted.get(b"content-type", b"")), fields.told_length)
