"""A short run of the soak: everything at once, a reload, a killed backend, and nothing wrong or left behind."""

from __future__ import annotations

from pathlib import Path

from tests.doubles.parts import require
from tests.soak.run import Plan, judged, soak


async def test_nothing_ends_wrongly_and_nothing_is_left_when_everything_happens_at_once(tmp_path: Path) -> None:
    require("redis-server")
    report = await soak(Plan(seconds=9.0, clients=30, period=6.0, gap=100, events=6, pause=0.5, keep=4), tmp_path)
    assert report.problems == []
    figures = report.figures
    assert figures["kills"] >= 1
    kinds = {"llm", "llm_h2", "events_h2", "leaver", "resume", "share", "download", "upload", "websocket"}
    assert set(figures["exchanges"]) == kinds
    assert figures["delay through the proxy (ms)"].keys() == figures["delay without it (ms)"].keys() >= {"p50", "p99"}


def test_growth_and_a_delay_of_the_proxys_own_are_problems_of_a_long_run() -> None:
    flat = {"memory": {"second third": 100, "last third": 110}, "remembered": {"second third": 1, "last third": 99}}
    assert list(judged(flat, {"p50": 12.0}, {"p50": 1.5})) == []
    (said,) = judged(flat, {"p50": 14.0}, {"p50": 1.5})
    assert said == "half of the events took 14.0 ms, and 1.5 ms without the proxy"
    (said,) = judged({"tasks": {"second third": 100, "last third": 120}}, {"p50": 1.0}, {"p50": 1.0})
    assert said.startswith("tasks grows")
    assert list(judged({}, {}, {"p50": 1.0})) == ["no event was timed"]
