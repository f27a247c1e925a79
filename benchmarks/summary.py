"""From samples to the numbers that are quoted: least, median, and ratios within a sitting.

Other work on the machine only ever adds time, so the least of several rounds is nearest to the truth, and the median
says how far the rounds agree. A ratio is taken round by round, between measurements that are minutes apart at most,
and the median of the rounds is quoted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.sitting import Sample

US = "streamproxy"
CHATS = "streamproxy-openai"  # which understands the chats that it carries
MORE_IS_BETTER = frozenset({"per_second", "mb_per_second", "most"})
BUSY = 0.9  # share of a core; above it, upstream and generator held the load back


class Quoted(NamedTuple):
    """The best and the median of several rounds."""

    best: float
    median: float


def values(samples: Iterable[Sample], load: str, peer: str, number: str) -> dict[int, float]:
    """What each round gave for a number."""
    return {
        sample.round: sample.numbers[number]
        for sample in samples
        if sample.load == load and sample.peer == peer and number in sample.numbers
    }


def quote(samples: Iterable[Sample], load: str, peer: str, number: str) -> Quoted | None:
    """A number's best and median; None when it was never measured."""
    found = list(values(samples, load, peer, number).values())
    if not found:
        return None
    return Quoted(max(found) if number in MORE_IS_BETTER else min(found), median(found))


def added(samples: Sequence[Sample], load: str, number: str, peer: str) -> dict[int, float]:
    """What a proxy adds to a time, round by round: its number less the median that a client sees without a proxy."""
    floor = values(samples, load, "direct", "p50_us")
    return {
        turn: max(value - floor[turn], 0.0)
        for turn, value in values(samples, load, peer, number).items()
        if turn in floor
    }


def ratio(ours: dict[int, float], theirs: dict[int, float]) -> Quoted | None:
    """Ours over theirs: of the bests, and the median of the rounds' own ratios. None without a common round."""
    common = [turn for turn in ours if theirs.get(turn, 0.0) > 0.0]
    if not common:
        return None
    best = min(ours[turn] for turn in common) / min(theirs[turn] for turn in common)
    return Quoted(best, median(ours[turn] / theirs[turn] for turn in common))


_Measure = Callable[[Sequence[Sample]], Quoted | None]


class Goal(NamedTuple):
    """What streamproxy must reach, and the goal beyond; both are upper bounds."""

    what: str
    must: float
    goal: float
    measure: _Measure
    unit: str = ""


def _cost(load: str, other: str, us: str = US, number: str = "cpu_us", of: str = "") -> _Measure:
    """Our cost under a load over another peer's, under the load ``of`` if it is not the same."""
    return lambda samples: ratio(values(samples, load, us, number), values(samples, of or load, other, number))


def _added(load: str, number: str, other: str, us: str = US) -> _Measure:
    return lambda samples: ratio(added(samples, load, number, us), added(samples, load, number, other))


def _over_http1(load: str, http1: str) -> _Measure:
    return _cost(load, US, of=http1)


GOALS: tuple[Goal, ...] = (
    Goal("CPU a request ÷ Envoy's", 0.9, 0.8, _cost("tiny", "envoy")),
    Goal("CPU a request ÷ Envoy's, not compiled", 1.25, 1.1, _cost("tiny", "envoy", "streamproxy-pure")),
    Goal("CPU an event (100 streams, 50/s) ÷ Envoy's", 0.95, 0.8, _cost("events", "envoy")),
    Goal("CPU an event ÷ nginx's", 1.6, 1.4, _cost("events", "nginx")),
    Goal("CPU a request ÷ the usual recipe's", 1 / 15, 1 / 30, _cost("tiny", "recipe")),
    Goal("delay added to an event, p99 ÷ Envoy's", 1.0, 0.8, _added("events", "p99_us", "envoy")),
    Goal("memory an idle stream", 15.7, 14.0, lambda samples: quote(samples, "idle", US, "kib_a_stream"), "KiB"),
    Goal("1 GB download: CPU ÷ Envoy's", 2.0, 1.0, _cost("download", "envoy")),
    Goal("CPU a request over HTTP/2 ÷ ours over HTTP/1.1", 1.1, 0.9, _over_http1("h2-tiny", "tiny")),
    Goal("CPU an event over HTTP/2 ÷ ours over HTTP/1.1", 1.2, 1.0, _over_http1("h2-events", "events")),
    Goal("CPU an event over HTTP/2 ÷ Envoy's over HTTP/2", 1.8, 1.2, _cost("h2-events", "envoy")),
    Goal("CPU a WebSocket message ÷ nginx's", 1.3, 1.1, _cost("websocket", "nginx")),
    Goal("CPU a WebSocket message ÷ Envoy's", 0.9, 0.7, _cost("websocket", "envoy")),
    Goal("CPU an event with protocol: openai ÷ http", 1.1, 1.05, _cost("llm", US, CHATS)),
    Goal("CPU a request with models, 8 KiB body ÷ without", 1.25, 1.1, _cost("models", US, "streamproxy-models")),
    Goal("added to a chat's first event, p50 ÷ Envoy's", 1.0, 0.8, _added("llm", "p50_us", "envoy", CHATS)),
    Goal("added to a chat's first event, p99 ÷ Envoy's", 1.0, 0.8, _added("llm", "p99_us", "envoy", CHATS)),
    Goal("CPU a request ÷ LiteLLM's", 1 / 50, 1 / 150, _cost("tiny", "litellm")),
    Goal("CPU an event of a chat ÷ LiteLLM's", 1 / 10, 1 / 20, _cost("llm", "litellm", CHATS)),
    Goal("CPU an event with resume in memory ÷ without", 1.15, 1.05, _cost("resume", US, "streamproxy-resume")),
    Goal("CPU an event with resume in Redis ÷ without", 1.6, 1.3, _cost("resume", US, "streamproxy-resume-redis")),
    Goal("share: CPU an event and client ÷ not shared", 0.6, 0.4, _cost("share", US, "streamproxy-share")),
    Goal(
        "share: memory a client",
        14.0,
        10.0,
        lambda samples: quote(samples, "share", "streamproxy-share", "kib_a_stream"),
        "KiB",
    ),
)


def verdict(goal: Goal, found: Quoted | None) -> str:
    """How the median stands to the goal."""
    if found is None:
        return "not measured"
    if found.median <= goal.goal:
        return "goal"
    return "must" if found.median <= goal.must else "missed"


def held_back(samples: Iterable[Sample]) -> list[str]:
    """Loads whose rates say nothing, because upstream and generator took their core whole."""
    found = {
        f"{sample.load}, {sample.peer}"
        for sample in samples
        if sample.numbers.get("limit", 0.0) >= BUSY and sample.peer != "direct"
    }
    return sorted(found)
