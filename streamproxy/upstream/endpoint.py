"""One address of an upstream, and whether it may be given requests.

Two parties judge an endpoint, and it is ``up`` while neither objects: probes set ``healthy``, failed requests make it
``ejected`` for a while. An endpoint that comes back is given a small share of the requests first (`Endpoint.ramp`).
"""

from __future__ import annotations

from streamproxy.client.base import Client
from streamproxy.upstream.load import LoadReading

SLOW_START = 10.0  # seconds until an endpoint that came back has its whole share again
LEAST_SHARE = 0.1  # of its weight, at the beginning of these


class Endpoint:
    """One address of an upstream: its URL, the client that reaches it, and how many exchanges it has now.

    ``share`` is its effective weight: ``weight``, or less after a recovery. ``removed`` says that its upstream has it
    no more; it only ends what it has begun.
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
        self.authority = authority  # what Host says to it
        self.weight = weight
        self.share = float(weight)
        self.streams = 0
        self.healthy = True
        self.ejected = False
        self.removed = False
        self.load: LoadReading | None = None  # the last that its engine gave, however old
        self.recovered_at = 0.0  # seconds of the monotonic clock; 0.0 when it has its whole share

    def __repr__(self) -> str:
        state = "removed" if self.removed else "up" if self.up else "ejected" if self.healthy else "unhealthy"
        return f"<Endpoint {self.url} {state}, {self.streams} streams>"

    @property
    def up(self) -> bool:
        """Whether it is given requests."""
        return self.healthy and not self.ejected

    @property
    def idle(self) -> int:
        """Connections that wait for a request; 0 where the client does not tell."""
        return int(getattr(self.client, "idle", 0))

    @property
    def active(self) -> int:
        """Connections with a request on them; the exchanges where the client does not tell."""
        return int(getattr(self.client, "active", self.streams))

    def come_back(self, now: float) -> None:
        """Begin the slow start, at ``now`` in seconds of the monotonic clock."""
        self.recovered_at = now
        self.ramp(now)

    def ramp(self, now: float) -> bool:
        """Set the share for ``now``: it grows evenly over the slow start. Gives whether it is still growing."""
        grown = (now - self.recovered_at) / SLOW_START
        if grown >= 1.0:
            self.recovered_at, self.share = 0.0, float(self.weight)
            return False
        self.share = self.weight * max(LEAST_SHARE, grown)
        return True
