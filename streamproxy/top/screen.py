"""Renders the model as tables that fit the terminal.

Text from clients is put into `Text`, which has no markup, after control characters were removed, so that a path cannot
control the operator's terminal.
"""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from streamproxy.admin.update import EndpointRow, RouteRow, Update
from streamproxy.top.format import (
    age,
    client,
    duration,
    milliseconds,
    model_cells,
    phase,
    rate,
    request,
    size,
    sparkline,
    text,
)
from streamproxy.top.model import Top
from streamproxy.top.plain import summary

_FRAME = 7  # lines: the header, the names of three tables, the footer
_SPARK = 12  # characters
_WIDE = 110  # the least columns that show everything
_KEYS = "q quit  ↑↓ select  x stop  a age  b bytes  e events  r rate (again: turned round)  f route"


def render(top: Top, console: Console) -> RenderableType:
    """Renders the screen, no higher than the terminal."""
    if top.update is None:
        return Text("waiting for the first update")
    update, height = top.update, console.size.height
    routes = update["routes"][: max(1, min(len(update["routes"]), (height - _FRAME) // 4))]
    endpoints = update["endpoints"][: max(1, min(len(update["endpoints"]), (height - _FRAME) // 5))]
    room = max(1, height - len(routes) - len(endpoints) - _FRAME)
    first = max(0, min(top.place - room // 2, len(top.streams) - room))
    return Group(
        _header(top, update),
        _streams(top, first, room, wide=console.size.width >= _WIDE),
        *(Text() for _ in range(room - min(room, len(top.streams)))),
        _routes(routes, wide=console.size.width >= _WIDE),
        _endpoints(update, endpoints),
        _footer(top),
    )


def _header(top: Top, update: Update) -> Text:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append("streamproxy ", style="bold")
    if top.lost:
        line.append("connection lost, trying again; the last was: ", style="bold red")
    line.append(summary(update), style="" if update["ready"] else "yellow")
    line.append("\n")
    shown, matching = len(update["streams"]), update["matching"]
    of_route = f" of route {text(top.route)}" if top.route else ""
    line.append(f"{shown} of {matching} streams{of_route} by {top.sort}{', turned round' if top.ascending else ''}")
    ends = ", ".join(f"{name} {number}" for name, number in sorted(update["ends"].items(), key=lambda pair: -pair[1]))
    line.append(f"   ended: {ends}" if ends else "", style="dim")
    line.append("\n")
    return line


def _table() -> Table:
    return Table(box=None, expand=True, pad_edge=False, padding=(0, 1), header_style="bold reverse")


def _number(table: Table, *names: str) -> None:
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)


def _streams(top: Top, first: int, room: int, *, wide: bool) -> Table:
    table = _table()
    models = wide and any(stream.get("model") for stream in top.streams)
    table.add_column("Route", no_wrap=True, max_width=20)
    table.add_column("Request", no_wrap=True, overflow="ellipsis", ratio=1)
    if models:
        table.add_column("Model", no_wrap=True, max_width=20)
        _number(table, "First", "Tokens", "Tokens/s")
    if wide:
        table.add_column("Client", no_wrap=True, max_width=24)
        table.add_column("Phase", no_wrap=True)
    _number(table, "Age", "TTFB", "Bytes", "Events", "Events/s")
    table.add_column("", no_wrap=True, width=_SPARK if wide else 6)
    for place, stream in enumerate(top.streams[first : first + room], first):
        rates = sparkline(top.histories.get(stream["id"], []), _SPARK if wide else 6)
        table.add_row(
            Text(text(stream["route"])),
            Text(request(stream)),
            *(map(Text, model_cells(stream)) if models else []),
            *([Text(client(stream)), Text(phase(stream))] if wide else []),
            age(stream["duration_ms"] / 1000),
            milliseconds(stream["ttfb_ms"]),
            size(stream["response_bytes"]),
            str(stream["events"]),
            rate(stream["rate"]),
            Text(rates, style="cyan"),
            style="reverse" if place == top.place else "",
        )
    return table


def _routes(rows: list[RouteRow], *, wide: bool) -> Table:
    table = _table()
    table.add_column("Route", no_wrap=True, overflow="ellipsis", ratio=1)
    _number(table, "Live", "Queued", "Req./s", "Events/s", "Bytes/s", "TTFB p50", "p99")
    if wide:
        _number(table, "gap p50", "p99", "duration p50", "p99")
    for row in rows:
        times = [row["start"].get(name) for name in ("ttfb", "chunk_gap", "stream_duration")[: 3 if wide else 1]]
        table.add_row(
            Text(text(row["route"])),
            str(row["live"]),
            str(row["waiting"]),
            rate(row["requests_per_s"]),
            rate(row["events_per_s"]),
            size(row["bytes_per_s"]),
            *(duration(one[q] if one is not None else None) for one in times for q in ("p50", "p99")),
        )
    return table


def _endpoints(update: Update, rows: list[EndpointRow]) -> Table:
    table = _table()
    table.add_column("Upstream", no_wrap=True, max_width=20)
    table.add_column("Endpoint", no_wrap=True, overflow="ellipsis", ratio=1)
    table.add_column("Health", no_wrap=True)
    _number(table, "Streams", "Active", "Idle")
    engines = any(row["load"] is not None for row in rows)
    if engines:
        _number(table, "Running", "Waiting", "Cache")
    held = {row["upstream"]: row for row in update["upstreams"]}
    for row in rows:
        connections = held.get(row["upstream"])
        table.add_row(
            Text(text(row["upstream"])),
            Text(text(row["endpoint"])),
            Text("up", style="green") if row["up"] else Text("down", style="bold red"),
            str(row["streams"]),
            *((str(connections["active"]), str(connections["idle"])) if connections is not None else ("", "")),
            *(_engine(row["load"] or {}) if engines else ()),
        )
    return table


def _engine(load: dict[str, float]) -> tuple[str, str, str]:
    """Returns the load reported by an engine; empty if there is none."""
    running, waiting, cache = (load.get(kind) for kind in ("running", "waiting", "cache"))
    return (
        "" if running is None else f"{running:g}",
        "" if waiting is None else f"{waiting:g}",
        "" if cache is None else f"{cache:.0%}",
    )


def _footer(top: Top) -> Text:
    if top.asking is not None:
        line = Text(f"y stops {text(top.asking)}, whose client sees it break off; any other key lets it run")
        line.stylize("bold yellow")
    elif top.message:
        line = Text(text(top.message), style="bold")
    else:
        line = Text(_KEYS, style="dim")
    line.no_wrap, line.overflow = True, "ellipsis"
    return line
