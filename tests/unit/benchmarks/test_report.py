"""The table, the JSON and the chart of a sitting."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest

from benchmarks.__main__ import arguments
from benchmarks.chart import Bar, bar, svg
from benchmarks.losses import losses
from benchmarks.peers import PEERS
from benchmarks.report import cell, goals, load_table, markdown
from benchmarks.report_tables import figure, table, title
from benchmarks.rig import Cores, Programs, Session, Sizes
from benchmarks.sitting import Sample, Sitting, command, order, sit
from benchmarks.summary import Quoted

FACTS: dict[str, Any] = {
    "date": "2030-01-02 03:04 UTC",
    "machine": {
        "cpu": "A <fast> one",
        "cores": 2,
        "kernel": "6.1",
        "load_average": [0.25, 0.5, 1.0],
        "nice": 0,
        "real_time": False,
        "pinned": True,
        "shared_core": True,
    },
    "python": "3.11.7",
    "revision": "abc1234",
    "command": "python -m benchmarks",
    "rounds": 1,
    "sizes": {"seconds": 3.0},
    "versions": {"streamproxy": "0.1.0", "envoy": "1.40.0", "recipe": "0.28.1"},
    "labels": {"direct": "no proxy", "streamproxy": "streamproxy", "envoy": "Envoy", "recipe": "recipe & co"},
}


def one(load: str, peer: str, **numbers: float) -> Sample:
    return Sample(1, load, peer, {"errors": 0, "limit": 0.1, **numbers})


SITTING = Sitting(
    FACTS,
    [
        one("tiny", "streamproxy", cpu_us=40.0, per_second=20_000, pss_mb=24.0),
        one("tiny", "envoy", cpu_us=50.0, per_second=18_000, pss_mb=67.0),
        one("tiny", "recipe", cpu_us=2000.0, per_second=450, pss_mb=41.0),
        one("events", "direct", p50_us=20.0, p99_us=60.0, p999_us=90.0, per_second=5000),
        one("events", "streamproxy", cpu_us=25.0, p50_us=90.0, p99_us=170.0, p999_us=400.0, pss_mb=24.0),
    ],
    ["caddy under tiny, round 1: it does not answer"],
)


@pytest.mark.parametrize(
    ("size", "text"), [(1_000_000_000, "1 GB"), (2_500_000_000, "2.5 GB"), (200_000_000, "200 MB")]
)
def test_a_title_says_how_much_was_loaded(size: int, text: str) -> None:
    sitting = Sitting({**FACTS, "sizes": {"download": size}}, [], [])
    assert title(sitting, "download") == f"A download of {text}"
    assert title(sitting, "upload") == f"Uploads of {text} in all"


@pytest.mark.parametrize(
    ("value", "text"),
    [(12345.6, "12,346"), (123.4, "123"), (12.34, "12.3"), (1.234, "1.23"), (0.0333, "0.033"), (0, "0")],
)
def test_figures_have_three_digits_that_count(value: float, text: str) -> None:
    assert figure(value) == text


def test_a_cell_shows_both_numbers_only_where_they_differ() -> None:
    assert cell(Quoted(20.0, 30.0)) == "20.0 / 30.0"
    assert cell(Quoted(20.01, 20.02)) == "20.0"
    assert cell(None) == ""


def test_every_row_of_a_table_has_its_columns() -> None:
    assert table(("", "a", "b"), [("x", "1", "2")]) == "|  | a | b |\n|---|--:|--:|\n| x | 1 | 2 |"


def test_the_goals_show_bounds_measured_ratio_and_verdict() -> None:
    text = goals(SITTING.samples)
    assert "| CPU a request ÷ Envoy's | ≤ 0.9 | ≤ 0.8 | 0.80 / 0.80 | goal |" in text
    assert "| CPU a request ÷ the usual recipe's | ≤ 1/15 | ≤ 1/30 | 0.020 / 0.020 | goal |" in text
    assert "| memory an idle stream | ≤ 15.7 KiB | ≤ 14 KiB |  | not measured |" in text


def test_added_delay_stands_beside_the_delay_itself() -> None:
    text = load_table(SITTING, "events")
    assert "| streamproxy | 25.0 | 90.0 | 170 | 400 | 24.0 | 70.0 | 150 |" in text
    assert "errors" not in text


def test_errors_get_a_column_when_there_are_any() -> None:
    failing = SITTING._replace(samples=[*SITTING.samples, Sample(1, "tiny", "direct", {"limit": 1, "errors": 3})])
    assert load_table(failing, "tiny").splitlines()[2].endswith("| errors |")
    assert "| no proxy |  |  |  | 3.00 |" in load_table(failing, "tiny")


def test_the_report_says_where_when_and_what_failed() -> None:
    text = markdown(SITTING)
    assert "2030-01-02 03:04 UTC, 2 cores of A <fast> one" in text
    assert "streamproxy 0.1.0, Envoy 1.40.0" in text
    assert "- caddy under tiny, round 1: it does not answer" in text
    assert "### `flood`" not in text


def test_the_report_says_when_the_machine_had_much_else_to_do() -> None:
    assert "busy with other work" not in markdown(SITTING)
    machine = {**FACTS["machine"], "load_average": [3.0, 9.0, 12.0]}
    assert "busy with other work" in markdown(SITTING._replace(facts={**FACTS, "machine": machine}))
    machine["real_time"] = True
    assert "(`chrt -r 1`)" in markdown(SITTING._replace(facts={**FACTS, "machine": machine}))


def test_no_loss_is_left_out_and_no_other_is_told() -> None:
    samples = [
        one("tiny", "streamproxy", cpu_us=40.0, per_second=20_000, pss_mb=24.0),
        one("tiny", "envoy", cpu_us=39.5, per_second=30_000, pss_mb=67.0),  # as much CPU as ours, but for its noise
        one("tiny", "recipe", cpu_us=20.0, per_second=25_000, pss_mb=25.0),
        one("tiny", "direct", per_second=90_000),
        one("events", "streamproxy", cpu_us=25.0, streams=100),
        one("events", "recipe", cpu_us=5.0, streams=8),  # less work than ours
    ]
    found = losses(Sitting(FACTS, samples, []))
    assert [(one.head, one.ours, one.better) for one in found] == [
        ("CPU µs a request", 40.0, [("recipe", 20.0)]),
        ("requests a second", 20_000, [("envoy", 30_000), ("recipe", 25_000)]),
    ]
    assert "| CPU µs a request | 40.0 | recipe & co 20.0 |" in markdown(Sitting(FACTS, samples, []))


def test_an_interrupted_sitting_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(load: object, session: Session) -> dict[str, float]:
        if session.peer.name == "envoy":
            raise KeyboardInterrupt
        return {"cpu_us": 1.0}

    monkeypatch.setattr("benchmarks.sitting.measure", interrupted)
    peers = [PEERS["nginx"], PEERS["envoy"], PEERS["caddy"]]
    programs, cores = Programs(Path("upstream"), Path("load"), Path("out")), Cores(set(), set(), set())
    sitting = sit(peers, ["tiny"], 1, Sizes(1.0, 1, 1, 1, 1), programs, cores, lambda line: None)
    assert [sample.peer for sample in sitting.samples] == ["nginx"]
    assert sitting.failures == ["interrupted: the rest was not measured"]


def test_a_sitting_comes_back_from_its_json() -> None:
    assert Sitting.of_json(json.loads(json.dumps(SITTING.as_json()))) == SITTING


def test_the_chart_is_xml_and_cuts_only_the_bar_that_overruns_it() -> None:
    root = ElementTree.fromstring(svg(SITTING))
    space = "{http://www.w3.org/2000/svg}"
    bars = [element for element in root.iter(f"{space}rect") if float(element.attrib["width"]) > 0]
    assert len(bars) == 4
    assert [element.attrib["class"] for element in bars].count("ours") == 2
    assert len(list(root.iter(f"{space}line"))) == 1
    texts = [element.text for element in root.iter(f"{space}text")]
    assert {"recipe & co", "2,000", "40.0", "25.0"} <= set(texts)


def test_a_bar_is_linear_up_to_its_scale() -> None:
    assert bar(25, 50) == Bar(0.5, False)
    assert bar(50, 50) == Bar(1.0, False)
    assert bar(500, 50) == Bar(1.0, True)
    assert bar(5, 0) == Bar(0.0, False)


def test_each_round_begins_with_another_peer_and_leaves_none_out() -> None:
    peers = list(PEERS.values())
    rounds = [list(order(peers, number)) for number in range(3)]
    assert [turn[0].name for turn in rounds] == [peer.name for peer in peers[:3]]
    assert all(sorted(turn, key=peers.index) == peers for turn in rounds)


def test_an_unknown_peer_is_refused_with_those_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        arguments(["--peers", "envoy,squid"])
    assert "no peers called squid; there are direct, streamproxy" in capsys.readouterr().err


def test_a_quick_run_does_not_replace_the_results() -> None:
    assert arguments(["--quick"]).results != arguments([]).results


def test_the_command_is_quoted_without_the_place_that_it_wrote_to() -> None:
    assert command(["--results", "/somewhere", "--rounds", "2"]) == "python -m benchmarks --rounds 2"
    assert command(["--rounds", "2", "--results=/somewhere"]) == "python -m benchmarks --rounds 2"


def test_who_carried_fewer_streams_is_shown_with_how_many() -> None:
    samples = [
        one("events", "streamproxy", cpu_us=25.0, streams=100),
        one("events", "envoy", cpu_us=30.0, streams=100),
        one("events", "recipe", cpu_us=90.0, streams=8),
    ]
    shown = load_table(Sitting(FACTS, samples, []), "events")
    assert "| Envoy | 30.0" in shown
    assert "| recipe & co, 8 streams | 90.0" in shown
