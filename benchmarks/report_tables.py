"""What the tables of a report have: the loads' titles and columns, and how numbers and rows are written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from benchmarks.sitting import Sitting

_BULK = {"CPU s": "cpu_s", "CPU µs a MB": "cpu_us", "MB a second": "mb_per_second"}

# Of each load: its title, and its numbers by the heads of their columns.
TABLES: dict[str, tuple[str, dict[str, str]]] = {
    "tiny": (
        "One-event responses, 32 connections",
        {"CPU µs a request": "cpu_us", "requests a second": "per_second", "MB": "pss_mb"},
    ),
    "fresh": (
        "The same with heads that are never the same twice",
        {"CPU µs a request": "cpu_us", "requests a second": "per_second"},
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
            for count in (10, 100, 1000, 5000, 8000, 10_000)
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


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    lines = ["| " + " | ".join(head) + " |", "|---" + "|--:" * (len(head) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines)
