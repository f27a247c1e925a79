"""A plain table, for scripts and outputs other than terminals."""

from __future__ import annotations

from streamproxy.admin.update import Update
from streamproxy.top.format import age, client, milliseconds, model_cells, phase, rate, request, size, text

_HEAD = ("ROUTE", "CLIENT", "PHASE", "AGE", "TTFB", "BYTES", "EVENTS", "EVENTS/S")
_MODEL = ("MODEL", "FIRST", "TOKENS", "TOKENS/S")  # where any stream names one
_LAST = ("ID", "REQUEST")
_RIGHT = frozenset({"AGE", "TTFB", "BYTES", "EVENTS", "EVENTS/S", "FIRST", "TOKENS", "TOKENS/S"})


def summary(update: Update) -> str:
    """Returns the state and the sums of all routes in one line; rates only if they are known."""
    sums = update["totals"]
    state = "ready" if update["ready"] else f"not ready ({text('; '.join(update['reasons']))})"
    line = f"{state}, {sums['live']} live, {sums['active']} streaming, {sums['waiting']} queued"
    if sums["bytes_per_s"] is None:
        return line
    requests, events = rate(sums["requests_per_s"]), rate(sums["events_per_s"])
    return f"{line}, {requests} requests/s, {events} events/s, {size(sums['bytes_per_s'])}/s"


def table(update: Update) -> str:
    """Returns the streams of an update as a table in columns, with a line of names."""
    models = any(stream.get("model") for stream in update["streams"])
    head = (*_HEAD, *(_MODEL if models else ()), *_LAST)
    rows = [
        (
            text(stream["route"]),
            client(stream),
            phase(stream),
            age(stream["duration_ms"] / 1000),
            milliseconds(stream["ttfb_ms"]),
            size(stream["response_bytes"]),
            str(stream["events"]),
            rate(stream["rate"]),
            *(model_cells(stream) if models else ()),
            text(stream["id"]),
            request(stream),
        )
        for stream in update["streams"]
    ]
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(_line(row, widths, head) for row in (head, *rows))


def _line(row: tuple[str, ...], widths: list[int], head: tuple[str, ...]) -> str:
    cells = (
        cell.rjust(width) if name in _RIGHT else cell.ljust(width)
        for cell, width, name in zip(row, widths, head, strict=True)
    )
    return "  ".join(cells).rstrip()
