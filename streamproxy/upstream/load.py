"""Reads the load of an inference engine from its Prometheus metrics.

`MetricReader` is fed a body in pieces, extracts the few metrics it needs, and keeps at most `MOST` bytes. `LoadReading`
is the result of one body. Neither does I/O.

The text format is "Exposition formats" 0.0.4 of prometheus.io. A metric may have several samples, one for each model or
rank of the engine: numbers of requests are added up, and the largest cache usage counts. Samples that are a part of
another one do not count: SGLang, if it schedules by priority, reports each number with ``priority=""`` and again for
each priority.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from streamproxy.config.model import LoadSource

MOST: Final = 1 << 20  # bytes of a body that are read

# Possessive quantifiers: a line that does not match is rejected in one pass.
_LABELS: Final = rb'(?:\{(?:[^"\n}]|"(?:[^"\\\n]|\\.)*+")*+\})?+'
_SAMPLE: Final = rb"^(%b)(" + _LABELS + rb")[ \t]++([^ \t\r\n]++)(?:[ \t]++-?[0-9]++)?+[ \t]*+\r?$"
_PART: Final = re.compile(rb'[{,]priority="[^"]')
_NUMBER: Final = re.compile(rb"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")


class Names(NamedTuple):
    """The path and names of an engine's metrics. ``cache`` lists alternatives; the first one present counts."""

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
    """Returns the names of a built-in engine, or those of the configuration."""
    if isinstance(source, str):
        return ENGINES[source]
    cache = (source.cache.encode(),) if source.cache is not None else ()
    return Names(source.path, source.running.encode(), source.waiting.encode(), cache)


@dataclass(frozen=True, slots=True)
class LoadReading:
    """The load of an endpoint at one time.

    ``cache`` is the share of the cache in use from 0 to 1, or None if the engine does not report it. ``at`` is the time
    of the request for the metrics in seconds of the monotonic clock, and ``streams`` the number of our streams at that
    time.
    """

    running: float
    waiting: float
    cache: float | None
    at: float
    streams: int


class MetricReader:
    """Parses one body. Call `feed` for each piece, then `reading`."""

    __slots__ = ("_body", "_names", "_pattern")

    def __init__(self, names: Names) -> None:
        self._names = names
        self._pattern = _pattern((names.running, names.waiting, *names.cache))
        self._body = bytearray()

    def feed(self, chunk: bytes) -> bool:
        """Takes a piece of the body. Returns False if the body is too large."""
        if len(self._body) + len(chunk) > MOST:
            self._body.clear()
            return False
        self._body += chunk
        return True

    def reading(self, at: float, streams: int) -> LoadReading | None:
        """Returns the load, or None if a number of requests is missing, or any number is negative or not finite."""
        samples: dict[bytes, list[float]] = {}
        for match in self._pattern.finditer(self._body):
            if _PART.search(match[2]):
                continue
            number = _number(bytes(match[3]))
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
    """Returns a sample's value, or None for NaN, infinities, negative and malformed numbers."""
    if len(text) > 64 or not _NUMBER.fullmatch(text):
        return None
    number = float(text)
    return number if number >= 0.0 and math.isfinite(number) else None
