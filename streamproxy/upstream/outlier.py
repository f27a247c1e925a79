"""Passive ejection: endpoints whose requests fail get no requests for a while. Pure: ``now`` is an argument.

Theory of operation. Each endpoint has a count of consecutive failures, which only a success resets. When it reaches
``consecutive_failures``, the endpoint is ejected for ``eject_for`` seconds. Each further ejection lasts twice as long,
up to ten times ``eject_for``. An ejection ends only with time. Its first failure afterwards ejects the endpoint again,
since the count was not reset. Past ejections are forgotten after ten times ``eject_for`` without one.

An ejection is refused if no endpoint would remain up, or if more than ``max_ejected_percent`` would be ejected; the
next failure tries again. `failed_by` and `FAILED_STATUSES` define what counts as a failure. A client that leaves never
does.
"""

from __future__ import annotations

from collections.abc import Sequence

from streamproxy.config.model import Outlier
from streamproxy.errors import (
    ExchangeError,
    HeadTimeout,
    ReadTimeout,
    UpstreamBusy,
    UpstreamError,
    UpstreamReportedError,
)
from streamproxy.exchange.exchange import Exchange
from streamproxy.upstream.endpoint import Endpoint

MOST = 10  # times eject_for: the longest ejection, and when past ejections are forgotten
FAILED_STATUSES = frozenset({502, 503, 504})


class _Record:
    __slots__ = ("ejections", "failures", "returned_at")

    def __init__(self) -> None:
        self.failures = 0
        self.ejections = 0
        self.returned_at = 0.0


class Outliers:
    """Counts the failures of one upstream's endpoints."""

    def __init__(self, settings: Outlier) -> None:
        self._settings = settings
        self._records: dict[Endpoint, _Record] = {}

    def succeeded(self, endpoint: Endpoint) -> None:
        """Records a success of an endpoint."""
        record = self._records.get(endpoint)
        if record is not None:
            record.failures = 0

    def failed(self, endpoint: Endpoint, endpoints: Sequence[Endpoint], now: float) -> float | None:
        """Records a failure of an endpoint among ``endpoints``. Returns the seconds to eject it for, or None."""
        record = self._records.setdefault(endpoint, _Record())
        record.failures += 1
        if endpoint.ejected or record.failures < self._settings.consecutive_failures:
            return None
        if not self._may_eject(endpoint, endpoints):
            return None
        settings = self._settings
        if now - record.returned_at >= MOST * settings.eject_for:
            record.ejections = 0
        seconds = settings.eject_for * min(2.0**record.ejections, MOST)
        record.ejections = min(record.ejections + 1, MOST)
        record.returned_at = now + seconds
        return seconds

    def _may_eject(self, endpoint: Endpoint, endpoints: Sequence[Endpoint]) -> bool:
        ejected = sum(other.ejected for other in endpoints)
        others_up = any(other.up for other in endpoints if other is not endpoint)
        return others_up and (ejected + 1) * 100 <= len(endpoints) * self._settings.max_ejected_percent

    def forget(self, endpoint: Endpoint) -> None:
        """Drops the record of a removed endpoint."""
        self._records.pop(endpoint, None)


def failed_by(error: BaseException, exchange: Exchange) -> bool:
    """Whether an exception of an attempt is the endpoint's fault.

    Connection errors, resets before or after the head, malformed responses and missing heads are its fault. Not its
    fault are a silent stream (a model may think), a stream that reports an error itself (see `Roster.error_events`), a
    full connection pool, and an upstream that asks for fewer requests. A cancellation is judged by its reason: it is
    the endpoint's fault only if the endpoint had the whole request and sent no head.
    """
    reason: ExchangeError | BaseException | None = error
    if not isinstance(error, Exception):
        reason = exchange.interruption
        if isinstance(reason, HeadTimeout):
            return exchange.phase == "head"
    return isinstance(reason, UpstreamError) and not isinstance(
        reason, ReadTimeout | UpstreamBusy | UpstreamReportedError
    )
