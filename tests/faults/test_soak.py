"""A short run of the soak: everything at once, a reload, a killed backend, and nothing wrong or left behind."""

from __future__ import annotations

from pathlib import Path

from tests.doubles.parts import require
from tests.soak.run import Plan, soak


async def test_nothing_ends_wrongly_and_nothing_is_left_when_everything_happens_at_once(tmp_path: Path) -> None:
    require("redis-server")
    report = await soak(Plan(seconds=9.0, clients=30, period=6.0, gap=100, events=6, pause=0.5, keep=4), tmp_path)
    assert report.problems == []
    figures = report.figures
    assert figures["kills"] >= 1
    kinds = {"llm", "llm_h2", "events_h2", "leaver", "resume", "share", "download", "upload", "websocket"}
    assert set(figures["exchanges"]) == kinds
