"""The sitting as Markdown: goals first, then every load with all its peers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.sitting import Sample, Sitting
from benchmarks.summary import GOALS, Goal, Quoted, added, held_back, quote, values, verdict

_BULK = {"CPU s": "cpu_s", "CPU µs a MB": "cpu_us", "MB a second": "mb_per_second"}

# Of each load: its title, and its numbers by the heads of their columns.
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "tiny": (
        "One-event responses, 32 connections",
        {"CPU µs a request": "cpu_us", "requests a second": "per_second", "MB": "pss_mb"},
    ),
    "ttfb": (
        "Time to the first byte, 200 requests a second",
        {"CPU µs a request": "cpu_us", "TTFB p50 µs": "p50_us", "TTFB p99 µs": "p99_us"},
    ),
    "events": (
        "100 streams, 50 events a second each",
        {
            "CPU µs an event": "cpu_us",
            "delay p50 µs": "p50_us",
            "p99": "p99_us",
            "p99.9": "p999_us",
            "MB": "pss_mb",
        },
    ),
    "flood": ("8 streams as fast as they go", {"CPU µs a MB": "cpu_us", "MB a second": "mb_per_second"}),
    "idle": (
        "Idle streams with keepalives",
        {
            "KiB a stream": "kib_a_stream",
            "CPU µs a stream and second": "cpu_us",
            "MB": "pss_mb",
            "streams": "streams",
        },
    ),
    "streams": (
        "Open streams with one event a second each, by how many there are",
        {
            f"{what}, {count}": number.format(count)
            for count in (10, 100, 1000, 5000, 9800, 10_000)
            for what, number in (("KiB a stream", "kib_{}"), ("CPU µs a stream and second", "cpu_{}_us"))
        },
    ),
    "download": ("A download of {download}", _BULK),
    "upload": ("Uploads of {download} in all", _BULK),
    "abort": (
        "A stream opened and left after its first event",
        {"CPU µs a stream": "cpu_us", "a second": "per_second", "left open": "left_open"},
    ),
    "h2-tiny": (
        "One-event responses over HTTP/2, 4 connections with 8 streams each",
        {"CPU µs a request": "cpu_us", "requests a second": "per_second", "MB": "pss_mb"},
    ),
    "h2-events": (
        "100 streams of one HTTP/2 connection, 50 events a second each",
        {"CPU µs an event": "cpu_us", "delay p50 µs": "p50_us", "p99": "p99_us", "MB": "pss_mb"},
    ),
    "websocket": (
        "100 WebSockets that send 20 messages a second each, echoed",
        {"CPU µs a message": "cpu_us", "KiB a silent socket": "kib_a_socket"},
    ),
    "llm": (
        "100 chat completions of 64 events, one every 20 ms, usage in the last",
        {
            "CPU µs an event": "cpu_us",
            "first event p50 µs": "p50_us",
            "p99": "p99_us",
            "gap p50 µs": "gap_p50_us",
            "gap p99 µs": "gap_p99_us",
            "MB": "pss_mb",
        },
    ),
    "sustained": ("Chat completions that are carried at once", {"chats": "most"}),
    "models": (
        "One-event responses to JSON bodies of 8 KiB, 32 connections",
        {"CPU µs a request": "cpu_us", "requests a second": "per_second"},
    ),
    "resume": (
        "100 streams, 50 events a second each, kept for clients that come back",
        {"CPU µs an event": "cpu_us", "KiB a stream": "kib_a_stream", "MB": "pss_mb"},
    ),
    "share": (
        "One stream with 50 events a second for many clients",
        {"CPU µs an event and client": "cpu_us", "KiB a client": "kib_a_stream", "p99": "p99_us"},
    ),
    "published": (
        "50 messages a second, published for 1,000 clients of one channel",
        {"CPU µs a message and client": "cpu_us", "KiB a client": "kib_a_stream", "p50": "p50_us", "p99": "p99_us"},
    ),
}


def figure(value: float) -> str:
    """A number with three digits that count."""
    if value >= 100:
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.1f}"
    return "0" if value == 0 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def title(sitting: Sitting, load: str) -> str:
    """What a load is, as big as it was in this sitting."""
    size: int = sitting.facts["sizes"].get("download", 0)
    return TABLES[load][0].format(download=f"{size / 1e9:g} GB" if size >= 1e9 else f"{size / 1e6:g} MB")


def cell(found: Quoted | None) -> str:
    """Best and median, or the one number that both are."""
    if found is None:
        return ""
    best, middle = figure(found.best), figure(found.median)
    return best if best == middle else f"{best} / {middle}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)


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
    return f"### {title(sitting, load)}\n\n{table(head, rows)}"


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
        f"{facts['rounds']} rounds, {sizes['seconds']:g} s a measurement, load average {machine['load_average']}.\n\n"
        f"{versions}.\n\n"
        f"Command: `{facts['command']}`"
    )


def markdown(sitting: Sitting) -> str:
    """The whole report."""
    measured = {sample.load for sample in sitting.samples}
    parts = [
        "# Benchmark",
        _circumstances(sitting),
        "CPU is the time of the proxy's whole process tree. Two numbers in a cell are the best and the median of the "
        "rounds; ratios are of the bests, and the median of the rounds' own. Added times are less the median that "
        "a client sees without a proxy.",
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
