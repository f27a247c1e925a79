"""How long a first event takes with ``least_load`` and with ``least_streams``: ``python -m benchmarks.balance``.

A simulation by events, without a clock and the same each time. Four engines serve up to `SLOTS` requests at once and
queue the rest. One computes at half the speed. One is also used by others, past this proxy, and has a queue of their
requests, which the proxy cannot see except in what the engine says of itself. Requests come at random times (Poisson)
and take a first event's time and then that of their tokens. The engines are read every half second, as by default.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable
from typing import Final, NamedTuple

from streamproxy.upstream.balance.policies import Balancer, LeastLoad, LeastStreams
from streamproxy.upstream.load import LoadReading

SLOTS: Final = 16
REQUESTS: Final = 4000
RATE: Final = 9.0  # requests a second over the proxy
OTHERS: Final = 5.0  # a second, of the others at their one engine
INTERVAL: Final = 0.5  # seconds between two readings
PREFILL: Final = 0.15  # seconds until a first event, on an engine of full speed
DECODE: Final = 3.0  # seconds for the rest, in the mean


class Engine:
    """One simulated engine, as a balancer sees it and as it serves."""

    def __init__(self, url: str, speed: float) -> None:
        self.url = url
        self.speed = speed
        self.share = 1.0
        self.streams = 0  # of the proxy
        self.load: LoadReading | None = None
        self.running = 0
        self.queue: deque[Request] = deque()


class Request(NamedTuple):
    """What an engine is asked for; ``ours`` came over the proxy."""

    at: float
    prefill: float
    decode: float
    ours: bool


class Simulation:
    """One run with one balancer. ``waits`` are the seconds until the first events of the proxy's requests."""

    def __init__(self, balancer: Callable[[Callable[[], float]], Balancer], seed: int) -> None:
        self.now = 0.0
        self.waits: list[float] = []
        self.engines = [Engine(f"http://e{number}", speed) for number, speed in enumerate((1.0, 1.0, 0.5, 1.0))]
        self._balancer = balancer(lambda: self.now)
        self._random = random.Random(seed)
        self._numbers = itertools.count()
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._left = REQUESTS

    def run(self) -> list[float]:
        """Serve all requests of the proxy."""
        self._at(0.0, self._read)
        self._at(0.0, self._arrive)
        self._at(0.0, self._arrive_past)
        while len(self.waits) < REQUESTS:
            self.now, _, action = heapq.heappop(self._events)
            action()
        return self.waits

    def _at(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._events, (self.now + seconds, next(self._numbers), action))

    def _read(self) -> None:
        for engine in self.engines:
            engine.load = LoadReading(engine.running, len(engine.queue), None, self.now, engine.streams)
        self._at(INTERVAL, self._read)

    def _request(self, ours: bool) -> Request:
        uniform, expovariate = self._random.uniform, self._random.expovariate
        return Request(self.now, PREFILL * uniform(0.5, 1.5), expovariate(1.0 / DECODE), ours)

    def _arrive(self) -> None:
        engine = self._balancer.pick(self.engines, None)
        engine.streams += 1
        self._begin(engine, self._request(ours=True))
        self._left -= 1
        if self._left:
            self._at(self._random.expovariate(RATE), self._arrive)

    def _arrive_past(self) -> None:
        """A request of the others, at the last engine."""
        self._begin(self.engines[-1], self._request(ours=False))
        self._at(self._random.expovariate(OTHERS), self._arrive_past)

    def _begin(self, engine: Engine, request: Request) -> None:
        if engine.running >= SLOTS:
            engine.queue.append(request)
            return
        engine.running += 1
        first = request.prefill / engine.speed
        if request.ours:
            self.waits.append(self.now + first - request.at)
        self._at(first + request.decode / engine.speed, lambda: self._end(engine, request))

    def _end(self, engine: Engine, request: Request) -> None:
        engine.running -= 1
        engine.streams -= request.ours
        if engine.queue:
            self._begin(engine, engine.queue.popleft())


def p95(waits: list[float]) -> float:
    """The 95th percentile."""
    return sorted(waits)[int(len(waits) * 0.95)]


def compare(seed: int) -> tuple[float, float]:
    """The 95th percentiles of the first event, in seconds: with ``least_streams``, and with ``least_load``."""
    streams = Simulation(lambda clock: LeastStreams(), seed).run()
    load = Simulation(lambda clock: LeastLoad(3.0, clock), seed).run()
    return p95(streams), p95(load)


def main() -> None:
    """Print the comparison for a few seeds."""
    print("seed  least_streams  least_load  change")
    for seed in range(5):
        streams, load = compare(seed)
        print(f"{seed:4}  {streams:11.3f} s  {load:8.3f} s  {load / streams - 1:+6.0%}")


if __name__ == "__main__":
    main()
