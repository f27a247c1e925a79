"""Decides whether and when a failed attempt is retried. Pure: times and random numbers are arguments.

An attempt may be repeated as long as nothing of a response was sent to the client. A repetition must not perform an
action twice: either nothing of the request was sent, or its method is idempotent (RFC 9110 section 9.2.2), or the
client sent an Idempotency-Key, or the operator set ``non_idempotent``. The whole body must still be available
(`streamproxy.exchange.body`). `Budget` keeps retries from multiplying the load when many requests fail.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final

from streamproxy.config.model import Retry
from streamproxy.errors import (
    ConnectionRefused,
    ConnectionTerminated,
    ConnectTimeout,
    DestinationUnavailable,
    DnsFailed,
    ExchangeError,
    TlsCertificateRefused,
    TlsFailed,
)
from streamproxy.wire.headers import Headers, first
from streamproxy.wire.methods import IDEMPOTENT

CONNECT: Final = "connect"
RESET: Final = "reset"
FIRST_EVENT: Final = "first_event"
ERROR_EVENT: Final = "error_event"
BOUND: Final = 10  # times the backoff: the longest pause between two attempts

_CONNECT_ERRORS = (
    ConnectionRefused,
    ConnectTimeout,
    DestinationUnavailable,
    DnsFailed,
    TlsCertificateRefused,
    TlsFailed,
)


def kind_of(error: ExchangeError) -> str | None:
    """Returns the member of ``retry.on`` that an error belongs to, or None."""
    if isinstance(error, _CONNECT_ERRORS):
        return CONNECT
    return RESET if isinstance(error, ConnectionTerminated) else None


def repeatable(method: str, headers: Headers, settings: Retry) -> bool:
    """Whether a request may be sent to its upstream twice."""
    return method in IDEMPOTENT or settings.non_idempotent or first(headers, b"idempotency-key") is not None


def decide(settings: Retry, *, failure: str, sent: bool, repeatable: bool) -> bool:
    """Whether the rules allow another attempt after one that failed; the caller counts the attempts.

    ``failure`` is a member of ``retry.on``, or any other status. ``sent`` means that the upstream may have received the
    request's head.
    """
    return failure in settings.on and (repeatable or not sent)


def pause(settings: Retry, attempt: int, retry_after: float | None, uniform: Callable[[], float]) -> float:
    """Returns the seconds to wait after attempt number ``attempt``.

    Full jitter: a random time from 0 to the backoff, which doubles with each attempt. ``retry_after`` is what the same
    endpoint asked for; it is respected up to ten times the first backoff.
    """
    bound = BOUND * settings.backoff
    wait = uniform() * min(settings.backoff * 2.0 ** (attempt - 1), bound)
    return wait if retry_after is None else min(max(wait, retry_after), bound)


def retry_after(headers: Headers, now: datetime) -> float | None:
    """Returns the seconds of a response's Retry-After (RFC 9110 section 10.2.3), or None.

    Names may have any case. ``now`` is compared with a date and must have a time zone.
    """
    for name, value in headers:
        if name.lower() == b"retry-after":
            text = value.decode("latin-1").strip()
            if text.isascii() and text.isdigit() and len(text) < 10:
                return float(text)
            try:
                date = parsedate_to_datetime(text)
            except (ValueError, OverflowError):  # OverflowError: a year or zone out of range
                return None
            return max(0.0, (date.replace(tzinfo=date.tzinfo or UTC) - now).total_seconds())
    return None


class Budget:
    """Limits the retries of an upstream relative to its requests.

    Over the last ``window`` whole seconds, retries are limited to ``ratio`` of the first attempts, or to ``floor`` per
    second if that is more. The counts are kept per second in a ring.
    """

    __slots__ = ("_floor", "_ratio", "_requests", "_retries", "_second", "_window")

    def __init__(self, *, ratio: float = 0.2, floor: float = 3.0, window: int = 10) -> None:
        self._ratio = ratio
        self._floor = floor
        self._window = window
        self._requests = [0] * window
        self._retries = [0] * window
        self._second = 0

    def request(self, now: float) -> None:
        """Counts a first attempt at ``now``, in seconds of the monotonic clock."""
        self._requests[self._turn(now)] += 1

    def spend(self, now: float) -> bool:
        """Takes one retry from the budget. Returns False if the budget is exhausted."""
        place = self._turn(now)
        allowed = max(self._ratio * sum(self._requests), self._floor * self._window)
        if sum(self._retries) + 1 > allowed:
            return False
        self._retries[place] += 1
        return True

    def _turn(self, now: float) -> int:
        second = int(now)
        for passed in range(max(self._second + 1, second - self._window + 1), second + 1):
            self._requests[passed % self._window] = self._retries[passed % self._window] = 0
        self._second = max(self._second, second)
        return self._second % self._window
