"""The sitting as Markdown: goals first, then every load with all its peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.losses import losses_table
from benchmarks.report_tables import TABLES, figure, table, title
from benchmarks.sitting import Sample, Sitting
from benchmarks.summary import GOALS, Goal, Quoted, added, held_back, quote, values, verdict


def cell(found: Quoted | None) -> str:
    """Best and median, or the one number that both are."""
    if found is None:
        return ""
    best, middle = figure(found.best), figure(found.median)
    return best if best == middle else f"{best} / {middle}"


def _bound(goal: Goal, value: float) -> str:
    text = f"1/{round(1 / value)}" if value < 0.1 else f"{value:g}"
    return f"≤ {text} {goal.unit}".rstrip()


def goals(samples: Sequence[Sample]) -> str:
    """What must be reached, beside what was."""
    rows = []
    for goal in GOALS:
        found = goal.measure(samples)
        measured = "" if found is None else f"{figure(found.best)} / {figure(found.median)} {goal.unit}".rstrip()
        rows.append((goal.what, _bound(goal, goal.must), _bound(goal, goal.goal), measured, verdict(goal, found)))
    return table(("", "must", "goal", "measured", ""), rows)


def _added(samples: Sequence[Sample], load: str, peer: str, number: str) -> Quoted | None:
    found = sorted(added(samples, load, number, peer).values())
    return Quoted(found[0], found[len(found) // 2]) if found else None


def _label(sitting: Sitting, load: str, peer: str) -> str:
    """A peer's, and of how many streams it was, if others carried more."""
    label: str = sitting.facts["labels"][peer]
    streams = quote(sitting.samples, load, peer, "streams")
    most = max((one.numbers.get("streams", 0.0) for one in sitting.samples if one.load == load), default=0.0)
    return label if streams is None or streams.median >= most else f"{label}, {streams.median:g} streams"


def load_table(sitting: Sitting, load: str) -> str:
    """One load, every peer that carried it."""
    samples = sitting.samples
    there = {number for sample in samples if sample.load == load for number in sample.numbers}
    columns = {head: number for head, number in TABLES[load][1].items() if number in there}
    timed = load in ("ttfb", "events", "llm") and bool(values(samples, load, "direct", "p50_us"))
    rows = []
    for peer in sitting.facts["labels"]:
        if quote(samples, load, peer, "limit") is None:
            continue
        row = [_label(sitting, load, peer), *(cell(quote(samples, load, peer, number)) for number in columns.values())]
        if timed:
            row += [cell(_added(samples, load, peer, "p50_us")), cell(_added(samples, load, peer, "p99_us"))]
        wrong = quote(samples, load, peer, "errors")
        rows.append([*row, "" if wrong is None or wrong.median == 0 else figure(wrong.median)])
    head = ["", *columns, *(["added p50", "added p99"] if timed else []), "errors"]
    if not any(row[-1] for row in rows):
        head, rows = head[:-1], [row[:-1] for row in rows]
    return f"### `{load}`: {title(sitting, load)}\n\n{table(head, rows)}"


_METHOD = """\
## Method

Each peer is started anew for each measurement, and rounds alternate, so that what else the machine does affects all of
them. Upstream and load generator are C programs of one thread each. CPU is the user and kernel time of the proxy's
whole process tree. Two numbers in a cell are the best and the median of the rounds; ratios are of the bests, and the
median of the rounds' own. Compare within the page only. Added times are less the median that a client sees without a
proxy; on a busy machine they say more of its scheduler than of a proxy.

Every sample is in [`sitting.json`](sitting.json). [What each load is, and how each peer is set up](../README.md)."""


def _busy(machine: dict[str, Any]) -> list[str]:
    """What a reader has to know of a machine that had much else to do."""
    load = machine["load_average"][1]
    if load <= 2 * machine["cores"]:
        return []
    if machine["real_time"]:
        return [
            f"The machine had much else to do (load average {load:g} on {machine['cores']} cores), but proxies, "
            "upstream and load generator ran with real-time priority (`chrt -r 1`), and so before all of it."
        ]
    return [
        f"**The machine was busy with other work** (load average {load:g} on {machine['cores']} cores). Delays, rates "
        "and `sustained` say how its scheduler shared it. CPU and memory are the proxies' own; proxies that wait for "
        "their turn find more work at once, which makes a request cheaper for some."
    ]


def _load(average: list[float]) -> str:
    least, middle, most = average
    return f"{middle:g} ({least:g} to {most:g})"


def _circumstances(sitting: Sitting) -> str:
    facts = sitting.facts
    machine, sizes = facts["machine"], facts["sizes"]
    versions = ", ".join(
        f"{facts['labels'][name]} {version}"
        for name, version in facts["versions"].items()
        if version and not name.startswith("streamproxy-")
    )
    place = "the proxy on a core of its own" if machine["pinned"] else "not pinned"
    if machine["pinned"] and machine["shared_core"]:
        place += ", upstream and load generator on another"
    return (
        f"{facts['date']}, {machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {facts['python']}, revision {facts['revision']}; {place}; "
        f"{facts['rounds']} rounds, {sizes['seconds']:g} s a measurement, "
        f"load average of the machine {_load(machine['load_average'])}, niceness {machine['nice']}.\n\n"
        f"{versions}.\n\n"
        f"Command: `{facts['command']}`"
    )


def markdown(sitting: Sitting) -> str:
    """The whole report."""
    measured = {sample.load for sample in sitting.samples}
    parts = [
        "# Benchmark",
        _circumstances(sitting),
        _METHOD,
        *_busy(sitting.facts["machine"]),
        "## Where others are better\n\n" + losses_table(sitting),
        "## Goals\n\n" + goals(sitting.samples),
        "## Loads",
        *(load_table(sitting, load) for load in TABLES if load in measured),
    ]
    busy = held_back(sitting.samples)
    if busy:
        parts.append(
            "Upstream and load generator took their core whole, so that rates (not CPU) say nothing of: "
            + "; ".join(busy)
            + "."
        )
    if sitting.failures:
        parts.append("Failed:\n\n" + "\n".join(f"- {failure}" for failure in sitting.failures))
    return "\n\n".join(parts) + "\n"
