"""Active probes: what they say of an endpoint, and when the next is due. Nothing here waits or sends.

An endpoint counts as healthy before its first probe, so that a start needs no probe to serve. The first result counts
alone, good or bad: nothing is known that it could contradict. After it, ``unhealthy_after`` bad probes in a row make
an endpoint unhealthy, and ``healthy_after`` good ones healthy again. Running streams are not touched by either.
"""

from __future__ import annotations

from collections.abc import Callable

from streamproxy.config.model import Health

JITTER = 0.1  # of the interval, either way, so that many proxies don't probe in step


class ProbeHistory:
    """The health of one endpoint by its probes."""

    __slots__ = ("_probed", "_settings", "_streak", "healthy")

    def __init__(self, settings: Health) -> None:
        self._settings = settings
        self._probed = False
        self._streak = 0  # results in a row that contradict `healthy`
        self.healthy = True

    def result(self, good: bool) -> bool:
        """Take note of a probe. Gives whether `healthy` has changed by it."""
        first, self._probed = not self._probed, True
        if good == self.healthy:
            self._streak = 0
            return False
        self._streak += 1
        needed = self._settings.healthy_after if good else self._settings.unhealthy_after
        if self._streak < needed and not first:
            return False
        self.healthy, self._streak = good, 0
        return True


def first_delay(interval: float, uniform: Callable[[], float]) -> float:
    """Seconds until an endpoint's first probe: soon, but not all endpoints in the same moment."""
    return interval * JITTER * uniform()


def next_delay(interval: float, uniform: Callable[[], float]) -> float:
    """Seconds from the end of a probe to the next. ``uniform`` gives random numbers in [0, 1)."""
    return interval * (1.0 - JITTER + 2.0 * JITTER * uniform())
