"""The keepalives of a response that is being relayed.

A keepalive is written when the timer calls for one, which is only while a chunk is awaited, and only where the
inspector says that nothing is cut. Where the server has to wait for the client, a task of its own waits, and a chunk
that arrives meanwhile is sent after it. The pending read is never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from time import monotonic
from typing import Any

from streamproxy.dialects.base import Dialect
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.extension import DownstreamConnection
from streamproxy.exchange.timer import Timer
from streamproxy.formats.bom import BomFilter
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.ndjson import KEEPALIVE as SPACE
from streamproxy.formats.sse import KeepaliveShape
from streamproxy.proxy.plan import RelayPlan
from streamproxy.wire.media import EVENT_STREAM


class Keepalives:
    """The part of a relay that writes keepalives. The relay sets the attributes."""

    __slots__ = (
        "_bom",
        "_dialect",
        "_direct",
        "_downstream",
        "_exchange",
        "_inspector",
        "_keepalive_task",
        "_media",
        "_plan",
        "_timer",
    )

    _bom: BomFilter | None  # a keepalive has gone out before the first byte of the body
    _dialect: Dialect
    _direct: DownstreamConnection | None
    _downstream: Downstream
    _exchange: Exchange
    _inspector: Inspector | None
    _keepalive_task: asyncio.Task[None] | None
    _media: bytes  # the bare media type of the response; keepalives of event streams are comments
    _plan: RelayPlan
    _timer: Timer

    def _keepalive(self) -> None:
        """Called by the timer when nothing went downstream for the interval, while a chunk is waited for."""
        if self._exchange.catch_up is not None:
            self._exchange.catch_up()
        inspector, shape = self._inspector, self._plan.keepalive
        self._timer.kept_alive(monotonic())
        if (
            shape is None
            or inspector is None
            or self._keepalive_task is not None
            or self._downstream.gone
            or not inspector.between_events
        ):
            return
        events = self._media == EVENT_STREAM
        if not self._exchange.chunks and self._bom is None:
            self._bom = BomFilter()
        comment = self._comment(shape, inspector) if events else SPACE
        if self._direct is None:
            self._start_keepalive(self._send_keepalive(comment))
            return
        try:
            taken = self._direct.push(comment, b"")
        except OSError:
            return  # the client left; the exchange hears of it by itself
        self._exchange.keepalives += 1
        if not taken:
            self._start_keepalive(self._await_room())

    def _comment(self, shape: KeepaliveShape, inspector: Inspector) -> bytes:
        if shape.auto and (self._dialect.keepalive == "blank" or inspector.provider == "gcp.gemini"):
            return b"\n"
        return shape.render(inspector.saw_id)

    def _start_keepalive(self, work: Coroutine[Any, Any, None]) -> None:
        self._keepalive_task = asyncio.get_running_loop().create_task(work)

    async def _send_keepalive(self, comment: bytes) -> None:
        try:
            waiting = self._downstream.write(comment, True)
            if waiting is not None:
                await waiting
            self._exchange.keepalives += 1
        except OSError:
            pass  # the client left; the exchange hears of it by itself
        finally:
            self._keepalive_task = None

    async def _await_room(self) -> None:
        """No further keepalive is sent to a client that has not taken this one."""
        assert self._direct is not None
        try:
            await self._direct.drained()
        except OSError:
            pass
        finally:
            self._keepalive_task = None

    def _stop_keepalives(self) -> None:
        self._timer.stop_keepalives()
        if self._keepalive_task is not None:
            self._keepalive_task.cancel()
