"""Recently ended exchanges, so that the operator can see why they ended.

`Ended` observes the ledger. Failed exchanges are kept as plain values: an exchange would keep its error alive, and the
error's traceback every frame it passed through. Successful exchanges are kept separately, so that they cannot displace
the failed ones.
"""

from __future__ import annotations

import heapq
import time
from collections import Counter, deque
from collections.abc import Iterable
from typing import Any, NamedTuple, Protocol

from streamproxy.exchange.exchange import Exchange
from streamproxy.formats.inspector import Usage
from streamproxy.observe.json_line import hide_values, timestamp

KEPT_COMPLETE = 20
KEPT_OTHERS = 60


class Ending(NamedTuple):
    """An ended exchange; ``number`` counts the ends. Times are in seconds, ``ended_at`` of the monotonic clock."""

    number: int
    ended_at: float
    started_wall: float
    duration: float
    ttfb: float | None
    id: str
    client: str
    principal: str
    method: str
    path: str
    query: bytes
    route: str
    endpoint: str
    status: int
    response_bytes: int
    events: int
    end: str
    phase: str
    error: str
    model: str
    first_event: float | None
    usage: Usage | None


class Endings(Protocol):
    """The view of ended exchanges; ``counts`` is by the ``end`` field of the access log."""

    @property
    def counts(self) -> Counter[str]: ...

    def newest(self, now: float) -> list[dict[str, Any]]:
        """Returns the newest ones as `rows`."""
        ...


class Ended:
    """The last ended exchanges, and the number of exchanges by how they ended."""

    def __init__(self) -> None:
        self._number = 0
        self._failed: Counter[str] = Counter()
        # Successful exchanges hold no traceback: they are kept unchanged, and converted when shown.
        self._complete: deque[tuple[int, float, Exchange]] = deque(maxlen=KEPT_COMPLETE)
        self._others: deque[Ending] = deque(maxlen=KEPT_OTHERS)

    def observe(self, exchange: Exchange) -> None:
        """Keeps the shown facts of an ended exchange; an observer of the ledger."""
        now = exchange.ended_at or time.monotonic()
        self._number = number = self._number + 1
        if exchange.error is None:
            self._complete.append((number, now, exchange))
        else:
            self._failed[exchange.end] += 1
            self._others.append(_ending(number, now, exchange))

    @property
    def counts(self) -> Counter[str]:
        """Returns the number of exchanges by how they ended."""
        counts = self._failed.copy()
        if complete := self._number - counts.total():
            counts["complete"] = complete
        return counts

    def kept(self) -> Iterable[Ending]:
        """Returns the kept exchanges, newest first."""
        complete = (_ending(*one) for one in reversed(self._complete))
        return heapq.merge(complete, reversed(self._others), key=lambda one: -one.number)

    def newest(self, now: float) -> list[dict[str, Any]]:
        """Returns the kept exchanges as `rows`, newest first."""
        return rows(self.kept(), now)


def rows(endings: Iterable[Ending], now: float) -> list[dict[str, Any]]:
    """Returns access-log fields, with ``number``, which counts the ends, and ``ago``, the seconds since the end."""
    return [_row(one, now) for one in endings]


def _ending(number: int, now: float, exchange: Exchange) -> Ending:
    error = exchange.error
    return Ending(
        number,
        now,
        exchange.started_wall,
        now - exchange.started_at,
        exchange.ttfb(),
        exchange.id,
        exchange.client,
        exchange.principal,
        exchange.method,
        exchange.path,
        exchange.query,
        exchange.route,
        exchange.endpoint,
        exchange.final_status,
        exchange.response_bytes,
        exchange.events,
        exchange.end,
        exchange.phase,
        error.error if error is not None else "",
        exchange.model,
        exchange.first_event(),
        exchange.usage,
    )


def _row(one: Ending, now: float) -> dict[str, Any]:
    return {
        "number": one.number,
        "id": one.id,
        "time": timestamp(one.started_wall),
        "ago": round(max(0.0, now - one.ended_at), 1),
        "client": one.client or None,
        "principal": one.principal or None,
        "method": one.method,
        "path": f"{one.path}?{hide_values(one.query)}" if one.query else one.path,
        "route": one.route,
        "endpoint": one.endpoint or None,
        "status": one.status,
        "ttfb_ms": None if one.ttfb is None else round(one.ttfb * 1000, 3),
        "duration_ms": round(one.duration * 1000, 3),
        "response_bytes": one.response_bytes,
        "events": one.events,
        "end": one.end,
        "phase": one.phase,
        "error": one.error or None,
        "model": one.model or None,
        "first_event_ms": None if one.first_event is None else round(one.first_event * 1000, 3),
        "input_tokens": one.usage.input if one.usage is not None else None,
        "output_tokens": one.usage.output if one.usage is not None else None,
    }
