"""What is measured meanwhile: the proxy's memory, descriptors and tasks, Redis's keys, and the delay of events."""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from redis.exceptions import RedisError

from tests.doubles.client import RawClient, connect
from tests.doubles.connection import PeerEnded
from tests.integration.proxy import RunningProxy
from tests.integration.redis import RedisServer
from tests.soak.content import parse_event
from tests.soak.proxy import COUNT

_AGAIN = 0.5  # seconds before a stream that was cut is opened again


@dataclass(frozen=True)
class Sample:
    """One look; ``memory`` in bytes, ``cpu`` in seconds since the start.

    ``keys`` are those of Redis, but for what it remembers of streams that are gone: those keys stay for an hour by
    design, and are counted in ``remembered``. ``lasting`` are keys that never expire.
    """

    at: float
    streams: int
    memory: int
    descriptors: int
    tasks: int
    keys: int
    remembered: int
    lasting: int
    cpu: float


_COUNT_KEYS = """
local other, remembered, lasting = 0, 0, 0
for _, key in ipairs(redis.call('KEYS', '*')) do
    if key:sub(-5) == ':meta' then remembered = remembered + 1 else other = other + 1 end
    if redis.call('PTTL', key) == -1 then lasting = lasting + 1 end
end
return {other, remembered, lasting}
"""


class Watch:
    """Looks at the proxy and at Redis. ``file`` is where the proxy writes the number of its tasks."""

    def __init__(self, proxy: RunningProxy, redis: RedisServer, file: Path) -> None:
        self._proxy = proxy
        self._redis = redis
        self._file = file
        self.samples: list[Sample] = []

    async def look(self) -> Sample:
        streams = len(await self._proxy.streams())
        counts = await self._count_keys()
        other, remembered, lasting = (int(count) for count in counts)
        pid = self._proxy.process.pid
        sample = Sample(
            time.monotonic(), streams, self._proxy.process.memory("VmRSS"), len(os.listdir(f"/proc/{pid}/fd")),
            await self._tasks(), other, remembered, lasting, _cpu(pid),
        )  # fmt: skip
        self.samples.append(sample)
        return sample

    async def _count_keys(self) -> list[Any]:
        """Asks again where the machine is too slow for Redis's client."""
        for _ in range(5):
            with contextlib.suppress(RedisError):
                counts = await self._redis.command("EVAL", _COUNT_KEYS, 0)
                assert isinstance(counts, list)
                return counts
        raise AssertionError("Redis does not answer")

    async def _tasks(self) -> int:
        self._file.unlink(missing_ok=True)
        os.kill(self._proxy.process.pid, COUNT)
        for _ in range(500):
            if self._file.exists():
                return int(self._file.read_text())
            await asyncio.sleep(0.01)
        raise AssertionError("the proxy does not count its tasks")

    async def every(self, seconds: float) -> None:
        """Look every so many seconds, until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(seconds)


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@dataclass
class Delays:
    """How long events took to come, in milliseconds."""

    values: list[float] = field(default_factory=list)

    def percentiles(self) -> dict[str, float]:
        """The median, the 99th and 99.9th percentile, and the largest."""
        ordered = sorted(self.values)
        if not ordered:
            return {}
        at = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999, "max": 1.0}
        return {name: round(ordered[min(len(ordered) - 1, int(len(ordered) * part))], 2) for name, part in at.items()}


async def probe(url: str, delays: Delays) -> None:
    """Reads an endless stream and notes how late each event is, until cancelled. A cut stream is opened again."""
    while True:
        with contextlib.suppress(PeerEnded, OSError):
            async with await connect(url) as client:
                await client.request("/probe/endless?seed=0&gap=50")
                await client.read_head()
                await _follow(client, delays)
        await asyncio.sleep(_AGAIN)


async def _follow(client: RawClient, delays: Delays) -> None:
    while True:
        event = await client.read_body_until(b"\n\n")
        if event.startswith(b"data: "):
            sent = parse_event(event[6:-2])[3]
            delays.values.append((time.monotonic_ns() - sent) / 1e6)


def growth(samples: Sequence[Sample], name: str) -> tuple[float, float]:
    """The mean of a value in the second and in the last third of the samples."""
    third = len(samples) // 3
    values: list[float] = [asdict(sample)[name] for sample in samples]
    if not third:
        return 0.0, 0.0
    return statistics.fmean(values[third : 2 * third]), statistics.fmean(values[-third:])


def table(samples: Sequence[Sample], idle: Sample, after: Sample) -> dict[str, Any]:
    """What was used before, in the second and the last third, and after all clients had gone."""
    names = ("memory", "descriptors", "tasks", "keys", "remembered", "streams")
    made: dict[str, Any] = {}
    for name in names:
        middle, last = growth(samples, name)
        made[name] = {
            "before": asdict(idle)[name], "second third": round(middle), "last third": round(last),
            "after": asdict(after)[name],
        }  # fmt: skip
    return made
