"""The program's own log, and which records of the ASGI server it includes.

Loggers are named ``streamproxy`` and ``streamproxy.*`` and write to stderr; access lines go to stdout. The servers' own
access logs are disabled. An exchange aborted on purpose is not logged as a crash of the application, although uvicorn
and hypercorn treat it as one.
"""

from __future__ import annotations

import logging
import sys
import traceback
from typing import Literal, TextIO

from streamproxy.errors import ExchangeAborted
from streamproxy.observe.access_log import (
    ACCESS_LOGGER,
    AccessHandler,
    AccessLog,
    LineFormat,
    Record,
    printable,
)
from streamproxy.observe.json_line import encode, timestamp
from streamproxy.observe.lines import LineWriter

Format = Literal["auto", "console", "json"]
Level = Literal["debug", "info", "warning", "error", "critical"]

_ACCESS_LOGGERS = ("uvicorn.access", "hypercorn.access")
_ERROR_LOGGERS = ("uvicorn.error", "hypercorn.error")
_COLOURS = {"DEBUG": "\x1b[2m", "WARNING": "\x1b[33m", "ERROR": "\x1b[31m", "CRITICAL": "\x1b[31;1m"}
_RESET = "\x1b[0m"


def configure(
    level: Level,
    format: Format,
    access: bool,
    *,
    stdout: TextIO | None = None,
    stderr: TextIO | None = None,
) -> AccessLog | None:
    """Sets up the loggers. Returns the access log, an observer for the ledger, or None if ``access`` is off.

    May be called again for another configuration. Loggers of a server, of asyncio and of OpenTelemetry that have no
    handler also write here. Loggers that are already configured are unchanged, except for the two rules above. ``auto``
    is console for a terminal, otherwise json. The streams default to those of ``sys``.
    """
    out, err = stdout or sys.stdout, stderr or sys.stderr
    handler = _Handler(err)
    handler.setFormatter(JsonFormatter() if _resolve(format, err) == "json" else ConsoleFormatter(err.isatty()))
    logging.getLogger("streamproxy").setLevel(level.upper())
    _take_over(handler)
    quiet_aborts()
    writer = next((one.writer for one in ACCESS_LOGGER.handlers if isinstance(one, AccessHandler)), None)
    ACCESS_LOGGER.handlers.clear()
    ACCESS_LOGGER.propagate = False
    ACCESS_LOGGER.setLevel(logging.INFO if access else logging.CRITICAL)
    if not access:
        return None
    if writer is None or writer.stream is not out:
        writer = LineWriter(out)
    ACCESS_LOGGER.addHandler(AccessHandler(out, _resolve(format, out), colour=out.isatty(), writer=writer))
    return AccessLog()


def flush() -> None:
    """Writes the buffered access lines, as far as their reader accepts them now."""
    for handler in ACCESS_LOGGER.handlers:
        if isinstance(handler, AccessHandler):
            handler.writer.flush()


def quiet_aborts() -> None:
    """Keeps the ASGI servers from logging an exchange aborted on purpose as a crash."""
    for name in _ERROR_LOGGERS:
        logging.getLogger(name).addFilter(_not_an_abort)  # adding the same filter again has no effect


def _take_over(handler: logging.Handler) -> None:
    ours = logging.getLogger("streamproxy")
    ours.propagate = False
    _replace_handler(ours, handler)
    for name in (*_ERROR_LOGGERS, "asyncio", "opentelemetry"):
        logger = logging.getLogger(name)
        if any(isinstance(present, _Handler) for present in logger.handlers) or not logger.hasHandlers():
            _replace_handler(logger, handler)
    for name in _ACCESS_LOGGERS:
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = False  # uvicorn checks hasHandlers() before it formats the line


class _Handler(logging.StreamHandler[TextIO]):
    """Marks a handler added by an earlier call."""


def _replace_handler(logger: logging.Logger, handler: logging.Handler) -> None:
    logger.handlers = [present for present in logger.handlers if not isinstance(present, _Handler)] + [handler]


def _resolve(line_format: Format, stream: TextIO) -> LineFormat:
    if line_format == "auto":
        return "console" if stream.isatty() else "json"
    return line_format


def _not_an_abort(entry: logging.LogRecord) -> bool:
    error = entry.exc_info[1] if entry.exc_info else None
    if isinstance(error, BaseExceptionGroup):
        return error.split(ExchangeAborted)[1] is not None
    return not isinstance(error, ExchangeAborted)


def _traceback(entry: logging.LogRecord) -> str:
    return "".join(traceback.format_exception(entry.exc_info[1])) if entry.exc_info and entry.exc_info[1] else ""


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, message, and traceback if there is one."""

    def format(self, record: logging.LogRecord) -> str:
        fields: Record = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if trace := _traceback(record):
            fields["traceback"] = trace
        return encode(fields)


class ConsoleFormatter(logging.Formatter):
    """One line per record, followed by its traceback; a message cannot break out of its line."""

    def __init__(self, colour: bool) -> None:
        super().__init__()
        self._colours = _COLOURS if colour else {}

    def format(self, record: logging.LogRecord) -> str:
        colour = self._colours.get(record.levelname, "")
        level = f"{colour}{record.levelname.lower()}{_RESET if colour else ''}"
        line = f"{timestamp(record.created)} {level} {record.name}: {printable(record.getMessage())}"
        if trace := _traceback(record):
            line += "\n" + "\n".join(printable(part) for part in trace.rstrip("\n").split("\n"))
        return line
