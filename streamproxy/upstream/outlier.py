"""Passive ejection: endpoints whose requests fail get none for a while. Pure: ``now`` is always an argument.

Theory of operation. Each endpoint has a count of failures in a row, which only a success sets back. At
``consecutive_failures`` it is ejected for ``eject_for`` seconds, the next time for twice as long, and so on up to ten
times. Nothing but the time brings it back; it then has one chance, since its failures are still in a row. How often it
was ejected is forgotten when it has been in for ten times ``eject_for``.

An ejection is refused when it would leave no endpoint that is up, or more than ``max_ejected_percent`` ejected; the
next failure asks again. What counts as a failure is said in `failed_by` and `FAILED_STATUSES`: it is never the
client's leaving.
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

MOST = 10  # times eject_for is the longest ejection, and the time after which earlier ones are forgotten
FAILED_STATUSES = frozenset({502, 503, 504})


class _Record:
    __slots__ = ("ejections", "failures", "returned_at")

    def __init__(self) -> None:
        self.failures = 0
        self.ejections = 0
        self.returned_at = 0.0


class Outliers:
    """The failures of one upstream's endpoints."""

    def __init__(self, settings: Outlier) -> None:
        self._settings = settings
        self._records: dict[Endpoint, _Record] = {}

    def succeeded(self, endpoint: Endpoint) -> None:
        """The endpoint answered."""
        record = self._records.get(endpoint)
        if record is not None:
            record.failures = 0

    def failed(self, endpoint: Endpoint, endpoints: Sequence[Endpoint], now: float) -> float | None:
        """The endpoint, one of ``endpoints``, failed. Gives for how many seconds to eject it, or None."""
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
        """The endpoint is gone."""
        self._records.pop(endpoint, None)


def failed_by(error: BaseException, exchange: Exchange) -> bool:
    """Whether an exception that came out of an attempt is the endpoint's fault.

    Errors of connecting, a reset before or after the head, a malformed answer, and no head in time are. A stream that
    went silent is not (a model may think), nor is one that reports an error of its own (`Roster.error_events`), nor a
    pool without room, nor an upstream that asks for fewer requests. A cancellation is looked at by its reason: it is
    the endpoint's fault only when the whole request was with it and no head came.
    """
    reason: ExchangeError | BaseException | None = error
    if not isinstance(error, Exception):
        reason = exchange.interruption
        if isinstance(reason, HeadTimeout):
            return exchange.phase == "head"
    return isinstance(reason, UpstreamError) and not isinstance(
        reason, ReadTimeout | UpstreamBusy | UpstreamReportedError
    )
