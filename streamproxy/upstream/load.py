"""What an inference engine says of its load, read from the Prometheus text that it exposes.

`MetricReader` is fed a body in pieces and finds the few metrics that it was told of; it keeps at most `MOST` bytes.
`LoadReading` is what came of one body. Nothing here waits or sends.

The text format is that of prometheus.io, "Exposition formats", 0.0.4. A metric may have several samples, one for each
model or rank of the engine: requests are added up, and of shares of a cache the largest counts.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from streamproxy.config.model import LoadSource

MOST: Final = 1 << 20  # bytes of a body that are looked at

# Possessive quantifiers: a line that does not match is given up after one pass over it.
_LABELS: Final = rb'(?:\{(?:[^"\n}]|"(?:[^"\\\n]|\\.)*+")*+\})?+'
_SAMPLE: Final = rb"^(%b)" + _LABELS + rb"[ \t]++([^ \t\r\n]++)(?:[ \t]++-?[0-9]++)?+[ \t]*+\r?$"
_NUMBER: Final = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Names(NamedTuple):
    """Where an engine exposes its load: a path, and the metrics' names; of ``cache`` the first that is there counts."""

    path: str
    running: bytes
    waiting: bytes
    cache: tuple[bytes, ...] = ()


ENGINES: Final = {
    "vllm": Names(
        "/metrics",
        b"vllm:num_requests_running",
        b"vllm:num_requests_waiting",
        (b"vllm:kv_cache_usage_perc", b"vllm:gpu_cache_usage_perc"),
    ),
    "sglang": Names("/metrics", b"sglang:num_running_reqs", b"sglang:num_queue_reqs", (b"sglang:token_usage",)),
    "trtllm": Names(
        "/prometheus/metrics",
        b"trtllm_num_requests_running",
        b"trtllm_num_requests_waiting",
        (b"trtllm_kv_cache_utilization",),
    ),
    "tgi": Names("/metrics", b"tgi_batch_current_size", b"tgi_queue_size"),
}


def names_of(source: str | LoadSource) -> Names:
    """The names of an engine, or those that a configuration has."""
    if isinstance(source, str):
        return ENGINES[source]
    cache = (source.cache.encode(),) if source.cache is not None else ()
    return Names(source.path, source.running.encode(), source.waiting.encode(), cache)


@dataclass(frozen=True, slots=True)
class LoadReading:
    """The load of an endpoint at one moment.

    ``cache`` is the share of the cache in use, from 0 to 1, None where the engine does not say. ``at`` is when the
    engine was asked, in seconds of the monotonic clock, and ``streams`` how many of its streams were ours then.
    """

    running: float
    waiting: float
    cache: float | None
    at: float
    streams: int


class MetricReader:
    """Reads one body. `feed` it; when it has ended, ask for the `reading`."""

    __slots__ = ("_body", "_names", "_pattern")

    def __init__(self, names: Names) -> None:
        self._names = names
        self._pattern = _pattern((names.running, names.waiting, *names.cache))
        self._body = bytearray()

    def feed(self, chunk: bytes) -> bool:
        """Take a piece of the body. Returns whether more may come; False when the body is too large to be read."""
        if len(self._body) + len(chunk) > MOST:
            self._body.clear()
            return False
        self._body += chunk
        return True

    def reading(self, at: float, streams: int) -> LoadReading | None:
        """What the body says. None if a number of requests is missing, or any number is not finite or negative."""
        samples: dict[bytes, list[float]] = {}
        for match in self._pattern.finditer(self._body):
            number = _number(bytes(match[2]))
            if number is None:
                return None
            samples.setdefault(bytes(match[1]), []).append(number)
        running, waiting = samples.get(self._names.running), samples.get(self._names.waiting)
        if running is None or waiting is None:
            return None
        cache = next((max(samples[name]) for name in self._names.cache if name in samples), None)
        return LoadReading(sum(running), sum(waiting), cache, at, streams)


def _pattern(names: Sequence[bytes]) -> re.Pattern[bytes]:
    return re.compile(_SAMPLE % b"|".join(re.escape(name) for name in names), re.MULTILINE)


def _number(text: bytes) -> float | None:
    """A sample's value; None for NaN, infinities, negative numbers and what is no number."""
    if len(text) > 64 or not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if number >= 0.0 and math.isfinite(number) else None
