"""The access log: one line for each exchange, written at its end.

`record` returns the fields. The log writes them as JSON or for a console, and the admin listener shows those of live
exchanges. Whatever a request contains, a line stays a single line without control characters: both forms escape
everything outside printable ASCII. Values of queries are hidden, since they may be tokens.

Lines go directly to the handler's `LineWriter`, because a `logging` record would cost more than the line.
"""

from __future__ import annotations

import logging
import time
from typing import Literal, TextIO

from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.json_line import hide_values, json_line, optional_fields, timestamp
from streamproxy.observe.lines import LineWriter

ACCESS_LOGGER = logging.getLogger("streamproxy.access")

Record = dict[str, object]
LineFormat = Literal["console", "json"]

FIELDS = (
    "time",
    "request_id",
    "client",
    "method",
    "path",
    "route",
    "upstream",
    "endpoint",
    "status",
    "ttfb_ms",
    "upstream_ttfb_ms",
    "duration_ms",
    "request_bytes",
    "response_bytes",
    "chunks",
    "events",
    "keepalives",
    "end",
    "phase",
    "error",
    "trace_id",
)
EXIT_PATIENCE = 1.0  # seconds for the reader of the log to read the last lines of a process
_BARE = frozenset({"time", "request_id", "client", "method", "path", "status", "end"})  # shown without their names
_RED, _YELLOW, _GREEN, _RESET = "\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"


def record(exchange: Exchange, now: float, *, live: bool = False) -> Record:
    """Returns the access-log fields of an exchange, in order.

    ``now`` is the time of its end, or the present time for a ``live`` exchange, in seconds of the monotonic clock.
    ``time`` is when the request arrived, in UTC. Fields that do not apply are None, and fields of `OPTIONAL_FIELDS` are
    then left out; a live exchange has no ``end``, and its ``error`` is the failure that its stream has reported. An
    exchange that ended before a status was sent has status 499.
    """
    error = exchange.error or (exchange.failure if live else None)
    fields: Record = {
        "time": timestamp(exchange.started_wall),
        "request_id": exchange.request_id,
        "client": exchange.client or None,
        "method": exchange.method,
        "path": f"{exchange.path}?{hide_values(exchange.query)}" if exchange.query else exchange.path,
        "route": exchange.route,
        "upstream": exchange.upstream or None,
        "endpoint": exchange.endpoint or None,
        "status": (exchange.status or None) if live else exchange.final_status,
        "ttfb_ms": _milliseconds(exchange.ttfb()),
        "upstream_ttfb_ms": _milliseconds(exchange.upstream_ttfb()),
        "duration_ms": _milliseconds(now - exchange.started_at),
        "request_bytes": exchange.request_bytes,
        "response_bytes": exchange.response_bytes,
        "chunks": exchange.chunks,
        "events": exchange.events,
        "keepalives": exchange.keepalives,
        "end": None if live else exchange.end,
        "phase": exchange.phase,
        "error": error.error if error is not None else None,
        "trace_id": exchange.trace_id or None,
    }
    fields.update(optional_fields(exchange))
    return fields


def printable(text: str) -> str:
    """Returns ``text`` as one line of printable ASCII; other characters are escaped as in Python strings."""
    if text.isascii() and text.isprintable():
        return text
    return text.encode("unicode_escape", "surrogatepass").decode("ascii")


def _milliseconds(seconds: float | None) -> float | None:
    return round(seconds * 1000, 3) if seconds is not None else None


def console_line(fields: Record, *, colour: bool) -> str:
    """Returns the `record` of an exchange for a console, in order; fields that are None or zero are left out."""
    words = []
    for name, value in fields.items():
        if value is None or value == 0:
            continue
        text = f"{value:.1f}" if isinstance(value, float) else printable(str(value)).replace(" ", "\\x20")
        if colour and name == "status":
            text = _paint(fields) + text + _RESET
        words.append(text if name in _BARE else f"{name}={text}")
    return " ".join(words)


def _paint(fields: Record) -> str:
    status = fields["status"]
    assert isinstance(status, int)
    if status >= 500 or fields["end"] != "complete":
        return _RED
    return _YELLOW if status >= 400 else _GREEN


class AccessHandler(logging.StreamHandler[TextIO]):
    """The handler of access lines, on the logger ``streamproxy.access``; it also writes other records of that logger.

    ``writer`` is an existing writer for this stream, if there is one.
    """

    def __init__(
        self, stream: TextIO, line_format: LineFormat, *, colour: bool = False, writer: LineWriter | None = None
    ) -> None:
        super().__init__(stream)
        self.writer = writer or LineWriter(stream)
        self._json = line_format == "json"
        self._colour = colour

    def write(self, exchange: Exchange) -> None:
        """Writes the line of an ended exchange. A write error does not affect the exchange."""
        now = exchange.ended_at or time.monotonic()
        line = json_line(exchange, now) if self._json else console_line(record(exchange, now), colour=self._colour)
        self.writer.write(line, now)

    def emit(self, entry: logging.LogRecord) -> None:
        """Writes a record of `logging`."""
        try:
            self.writer.write(printable(self.format(entry)), time.monotonic())
        except Exception:
            self.handleError(entry)

    def flush(self) -> None:
        """Writes the buffered lines; `logging` calls this at the end of the process."""
        self.writer.flush(EXIT_PATIENCE)


class AccessLog:
    """Writes a line for each exchange that ends; `observe` is an observer of the ledger.

    An `AccessHandler` installed by `streamproxy.observe.log.configure` receives the exchange itself. A program that
    embeds the proxy without this configuration receives the JSON lines as records of ``streamproxy.access`` at level
    info.
    """

    def observe(self, exchange: Exchange) -> None:
        for handler in ACCESS_LOGGER.handlers:
            if isinstance(handler, AccessHandler):
                handler.write(exchange)
                return
        if ACCESS_LOGGER.isEnabledFor(logging.INFO):
            ACCESS_LOGGER.info("%s", json_line(exchange, exchange.ended_at or time.monotonic()))
