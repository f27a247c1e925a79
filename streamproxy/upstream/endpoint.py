"""One endpoint of an upstream, and whether it may receive requests.

Two mechanisms judge an endpoint, and it is ``up`` while neither objects: probes set ``healthy``, and failed requests
set ``ejected`` for a while. A recovered endpoint first receives a small share of the requests (`Endpoint.ramp`).
"""

from __future__ import annotations

from streamproxy.client.base import Client
from streamproxy.upstream.load import LoadReading

SLOW_START = 10.0  # seconds until a recovered endpoint has its full share
LEAST_SHARE = 0.1  # of its weight, at the beginning of the slow start


class Endpoint:
    """One endpoint: its URL, the client that connects to it, and the number of its live exchanges.

    ``share`` is the effective weight: ``weight``, or less after a recovery. ``removed`` means that the upstream no
    longer contains it; its live exchanges continue.
    """

    __slots__ = (
        "authority",
        "client",
        "ejected",
        "healthy",
        "load",
        "recovered_at",
        "removed",
        "share",
        "streams",
        "url",
        "weight",
    )

    def __init__(self, url: str, client: Client, *, authority: bytes, weight: int = 1) -> None:
        self.url = url
        self.client = client
        self.authority = authority  # the value of Host
        self.weight = weight
        self.share = float(weight)
        self.streams = 0
        self.healthy = True
        self.ejected = False
        self.removed = False
        self.load: LoadReading | None = None  # the last reading, however old
        self.recovered_at = 0.0  # seconds of the monotonic clock; 0.0 with its full share

    def __repr__(self) -> str:
        state = "removed" if self.removed else "up" if self.up else "ejected" if self.healthy else "unhealthy"
        return f"<Endpoint {self.url} {state}, {self.streams} streams>"

    @property
    def up(self) -> bool:
        """Whether it may receive requests."""
        return self.healthy and not self.ejected

    @property
    def idle(self) -> int:
        """The number of idle connections; 0 if the client does not report it."""
        return int(getattr(self.client, "idle", 0))

    @property
    def active(self) -> int:
        """The number of connections in use; the number of exchanges if the client does not report it."""
        return int(getattr(self.client, "active", self.streams))

    def come_back(self, now: float) -> None:
        """Starts the slow start at ``now``, in seconds of the monotonic clock."""
        self.recovered_at = now
        self.ramp(now)

    def ramp(self, now: float) -> bool:
        """Sets the share for ``now``, which grows linearly during the slow start. Returns whether it still grows."""
        grown = (now - self.recovered_at) / SLOW_START
        if grown >= 1.0:
            self.recovered_at, self.share = 0.0, float(self.weight)
            return False
        self.share = self.weight * max(LEAST_SHARE, grown)
        return True
