"""The loggers: where they write, in what form, and what they leave out."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import TextIO
from unittest import mock

import pytest

from streamproxy.errors import ExchangeAborted
from streamproxy.observe import log
from streamproxy.observe.access_log import AccessLog
from streamproxy.observe.log import Format, Level
from tests.unit.observe.exchanges import new_exchange, streaming


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def configure(
    level: Level, format: Format, access: bool, *, stdout: TextIO | None = None, stderr: TextIO | None = None
) -> AccessLog | None:
    """The function under test, as in a process whose root logger has no handler (here it has pytest's)."""
    with mock.patch.object(logging.getLogger(), "handlers", []):
        return log.configure(level, format, access, stdout=stdout, stderr=stderr)


@pytest.mark.parametrize("name", ["streamproxy", "streamproxy.error", "uvicorn.error", "hypercorn.error", "asyncio"])
def test_records_are_one_json_object_a_line_on_stderr(name: str) -> None:
    out, err = io.StringIO(), io.StringIO()
    configure("info", "json", access=True, stdout=out, stderr=err)
    logging.getLogger(name).warning("two\nlines of %s", "text\x1b")
    (line,) = err.getvalue().splitlines()
    entry = json.loads(line)
    assert tuple(entry) == ("time", "level", "logger", "message")
    assert (entry["level"], entry["logger"], entry["message"]) == ("warning", name, "two\nlines of text\x1b")
    assert out.getvalue() == ""


def test_a_traceback_is_part_of_its_record() -> None:
    err = io.StringIO()
    configure("info", "json", access=False, stderr=err)
    try:
        raise RuntimeError("boom")
    except RuntimeError:
        logging.getLogger("streamproxy.error").exception("it failed")
    entry = json.loads(err.getvalue())
    assert entry["message"] == "it failed"
    assert entry["traceback"].endswith("RuntimeError: boom\n")


def test_a_message_cannot_forge_a_line_on_the_console() -> None:
    err = io.StringIO()
    configure("info", "console", access=False, stderr=err)
    logging.getLogger("streamproxy").error("a\n2023 forged\x1b[2J")
    (line,) = err.getvalue().splitlines()
    assert line.endswith(" error streamproxy: a\\n2023 forged\\x1b[2J")


def test_a_traceback_stands_below_its_line_on_the_console() -> None:
    err = io.StringIO()
    configure("info", "console", access=False, stderr=err)
    try:
        raise RuntimeError("boom\x1b[2J")
    except RuntimeError:
        logging.getLogger("streamproxy").exception("it failed")
    lines = err.getvalue().splitlines()
    assert lines[0].endswith("it failed")
    assert lines[-1] == "RuntimeError: boom\\x1b[2J"


def test_the_level_holds() -> None:
    err = io.StringIO()
    configure("error", "json", access=False, stderr=err)
    logging.getLogger("streamproxy.relay").warning("no")
    assert err.getvalue() == ""
    logging.getLogger("streamproxy.relay").error("yes")
    assert json.loads(err.getvalue())["message"] == "yes"


def test_auto_is_console_with_colour_on_a_terminal_only() -> None:
    out, err = io.StringIO(), Terminal()
    configure("info", "auto", access=True, stdout=out, stderr=err)
    logging.getLogger("streamproxy").warning("hello")
    AccessLog().observe(streaming(new_exchange()))
    assert "\x1b[33mwarning\x1b[0m streamproxy: hello" in err.getvalue()
    assert json.loads(out.getvalue())["status"] == 200


def test_access_lines_go_to_stdout_in_colour_on_a_terminal() -> None:
    out, err = Terminal(), io.StringIO()
    configure("info", "auto", access=True, stdout=out, stderr=err)
    AccessLog().observe(streaming(new_exchange()))
    assert " \x1b[32m200\x1b[0m " in out.getvalue()
    assert err.getvalue() == ""


def test_without_access_there_is_no_access_log() -> None:
    out = io.StringIO()
    assert configure("info", "json", access=True, stdout=out, stderr=io.StringIO()) is not None
    assert configure("info", "json", access=False, stdout=out, stderr=io.StringIO()) is None
    AccessLog().observe(streaming(new_exchange()))
    assert out.getvalue() == ""


@pytest.mark.parametrize("name", ["uvicorn.error", "hypercorn.error"])
def test_an_aborted_exchange_is_not_reported_as_a_crash(name: str) -> None:
    err = io.StringIO()
    configure("info", "json", access=False, stderr=err)
    server = logging.getLogger(name)
    for error in (ExchangeAborted(), BaseExceptionGroup("", [ExchangeAborted(), ExchangeAborted()])):
        server.error("Exception in ASGI application\n", exc_info=error)
    assert err.getvalue() == ""
    server.error("Exception in ASGI application\n", exc_info=BaseExceptionGroup("", [ExchangeAborted(), KeyError()]))
    server.error("Exception in ASGI application\n", exc_info=KeyError())
    assert len(err.getvalue().splitlines()) == 2


@pytest.mark.parametrize("name", ["uvicorn.error", "hypercorn.error"])
def test_aborts_are_quiet_in_a_program_that_configures_its_own_logs(name: str) -> None:
    theirs = io.StringIO()
    server = logging.getLogger(name)
    server.addHandler(logging.StreamHandler(theirs))
    log.quiet_aborts()
    log.quiet_aborts()
    server.error("Exception in ASGI application\n", exc_info=ExchangeAborted())
    assert theirs.getvalue() == ""
    server.error("Exception in ASGI application\n", exc_info=KeyError())
    assert "KeyError" in theirs.getvalue()


@pytest.mark.parametrize("name", ["uvicorn.access", "hypercorn.access"])
def test_the_access_logs_of_the_servers_are_silent(name: str) -> None:
    logger = logging.getLogger(name)
    logger.addHandler(logging.StreamHandler(sys.stdout))
    configure("info", "json", access=True, stdout=io.StringIO(), stderr=io.StringIO())
    assert not logger.hasHandlers()
    assert not logger.propagate


def test_configuring_again_replaces_and_never_doubles() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("info", "json", access=False, stderr=first)
    configure("info", "console", access=False, stderr=second)
    for name in ("streamproxy", "uvicorn.error", "asyncio"):
        logging.getLogger(name).error("once")
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 3


def test_a_logger_that_somebody_configured_is_left_alone() -> None:
    theirs, ours = io.StringIO(), io.StringIO()
    logging.getLogger("uvicorn.error").addHandler(logging.StreamHandler(theirs))
    configure("info", "json", access=False, stderr=ours)
    logging.getLogger("uvicorn.error").error("started")
    assert (theirs.getvalue(), ours.getvalue()) == ("started\n", "")
