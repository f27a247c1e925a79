"""The rules of active health checks, without I/O: the state of an endpoint, and when the next probe is due.

An endpoint is healthy before its first probe, so the proxy can serve at once. The first result decides alone. After it,
``unhealthy_after`` failed probes in a row make an endpoint unhealthy, and ``healthy_after`` successful ones make it
healthy again. Neither change affects running streams.
"""

from __future__ import annotations

from collections.abc import Callable

from streamproxy.config.model import Health

JITTER = 0.1  # of the interval, in both directions, so that many proxies do not probe in step


class ProbeHistory:
    """The health of one endpoint according to its probes."""

    __slots__ = ("_probed", "_settings", "_streak", "healthy")

    def __init__(self, settings: Health) -> None:
        self._settings = settings
        self._probed = False
        self._streak = 0  # results in a row that contradict `healthy`
        self.healthy = True

    def result(self, good: bool) -> bool:
        """Records the result of a probe. Returns whether it changed `healthy`."""
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
    """Returns the seconds until an endpoint's first probe: soon, but not at the same moment for all endpoints."""
    return interval * JITTER * uniform()


def next_delay(interval: float, uniform: Callable[[], float]) -> float:
    """Returns the seconds from the end of a probe to the next. ``uniform`` returns random numbers in [0, 1)."""
    return interval * (1.0 - JITTER + 2.0 * JITTER * uniform())
