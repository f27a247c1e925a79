"""What is printed and painted: numbers, columns, and that nobody else's text gets at the terminal."""

from __future__ import annotations

import errno
import io
import socket

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from streamproxy.errors import UpstreamReportedError
from streamproxy.formats.inspector import Usage
from streamproxy.top.format import age, duration, milliseconds, rate, size, sparkline, text
from streamproxy.top.keys import SEQUENCES, split
from streamproxy.top.model import Top
from streamproxy.top.plain import summary, table
from streamproxy.top.screen import render
from streamproxy.top.source import Admin, _reason, parse_admin, parse_interval
from tests.unit.admin.proxy import Before, SeenProxy
from tests.unit.top.updates import a_proxy, update_of

EVIL = "/\x1b]0;owned\x07\x1b[2J\r\n[bold red]x[/]\x9b31m"


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (duration(None), "-"),
        (duration(0.0004), "0.40 ms"),
        (duration(0.0123), "12.3 ms"),
        (duration(0.9994), "999 ms"),
        (duration(0.9996), "1.00 s"),
        (duration(59.96), "60.0 s"),
        (duration(61), "1 min 1 s"),
        (milliseconds(1500.0), "1.50 s"),
        (age(59.9), "59 s"),
        (age(3600), "1 h 0 min"),
        (age(90061), "1 d 1 h"),
        (size(None), "-"),
        (size(0), "0 B"),
        (size(1023), "1023 B"),
        (size(1024), "1.0 KiB"),
        (size(1023.7 * 1024), "1.0 MiB"),
        (size(150 * 1024), "150 KiB"),
        (size(5 * 1024**6), "5120 PiB"),
        (rate(None), "-"),
        (rate(0.0), "0"),
        (rate(1.234), "1.23"),
        (rate(9.996), "10.0"),
        (rate(1234.5), "1,234"),
        (sparkline([], 3), "   "),
        (sparkline([0, 0], 3), " ▁▁"),
        (sparkline([9, 0, 1, 2], 3), "▁▅█"),
    ],
)
def test_numbers_are_short_and_have_a_unit(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.text())
def test_no_text_carries_a_control_character(value: str) -> None:
    shown = text(value)
    assert shown
    assert all(" " <= character <= "~" for character in shown)


def picture(top: Top, width: int = 120, height: int = 30) -> str:
    """The screen as the terminal would be sent it, colours included."""
    console = Console(file=io.StringIO(), width=width, height=height, force_terminal=True, color_system="standard")
    console.print(render(top, console))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


async def shown(proxy: SeenProxy) -> Top:
    top = Top()
    top.on_update(await update_of(proxy))
    return top


async def test_what_a_client_sent_can_not_paint_the_terminal() -> None:
    proxy = a_proxy()
    exchange = proxy.begin(EVIL, path=EVIL)
    exchange.client = EVIL
    exchange.query = EVIL.encode() + b"=1"
    top = await shown(proxy)
    top.on_key("x")
    painted = picture(top, width=400)
    for character in ("\x07", "\x9b", "\x1b]", "\x1b[2J", "\r"):
        assert character not in painted
    assert "[bold red]x[/]" in painted
    assert top.update is not None
    assert table(top.update).isprintable() is False  # it has line ends
    assert table(top.update).replace("\n", "").isprintable()
    assert len(table(top.update).splitlines()) == 2


@pytest.mark.parametrize(("width", "height"), [(200, 60), (120, 30), (80, 24), (60, 12)])
async def test_the_picture_fits_the_terminal_and_shows_the_selected_stream(width: int, height: int) -> None:
    proxy = a_proxy()
    for number in range(100):
        proxy.stream(f"id-{number}").path = f"/{number}"
    top = await shown(proxy)
    for _ in range(4):
        top.on_key("pagedown")
    lines = picture(top, width, height).rstrip("\n").split("\n")
    assert len(lines) <= height
    marked = [line for line in lines if line.startswith("\x1b[7m")]
    assert len(marked) == 1
    assert top.selected is not None
    assert top.selected["path"] == "/40"
    if width >= 80:  # in less the paths are cut
        assert "/40" in marked[0]


async def test_the_picture_says_how_things_are() -> None:
    proxy = a_proxy()
    proxy.stream("id-1", events=50)
    proxy.reasons = ["draining"]
    top = await shown(proxy)
    painted = picture(top)
    assert "not ready (draining)" in painted
    assert "down" in painted
    assert "http://127.0.0.1:8001" in painted
    assert "q quit" in painted
    top.on_key("x")
    assert "y stops id-1" in picture(top)
    top.lost = True
    assert "connection lost" in picture(top)


async def test_the_plain_table_has_a_line_for_each_stream_under_a_line_of_names() -> None:
    proxy = a_proxy()
    proxy.stream("id-1", events=50, size=2048)
    proxy.stream("id-2")
    update = await update_of(proxy)
    names, first, second = table(update).splitlines()
    assert names.split() == ["ROUTE", "CLIENT", "PHASE", "AGE", "TTFB", "BYTES", "EVENTS", "EVENTS/S", "ID", "REQUEST"]
    expected = "chat 192.0.2.7 body 10 s 250 ms 2.0 KiB 50 5.00 id-1 POST /v1/x"
    assert " ".join(first.split()) == expected
    assert first.index("id-1") == second.index("id-2") == names.index("ID")
    assert summary(update) == "ready, 2 live, 2 streaming, 0 queued"


async def test_streams_that_name_a_model_show_it_with_first_event_tokens_and_failures() -> None:
    proxy = a_proxy()
    exchange = proxy.stream("id-1")
    exchange.model, exchange.operation, exchange.usage = "qwen-3", "chat", Usage(input=1200, output=48)
    exchange.streaming, exchange.first_event_at = True, exchange.started_at + 2.0
    exchange.failure = UpstreamReportedError()
    proxy.stream("id-2")
    top = await shown(proxy)
    assert top.update is not None
    names, *lines = table(top.update).splitlines()
    assert "MODEL FIRST TOKENS TOKENS/S ID" in " ".join(names.split())
    named, unnamed = sorted((" ".join(line.split()) for line in lines), key=lambda line: "id-2" in line)
    assert "body:upstream_error" in named
    assert "qwen-3 2.00 s 1,200+48 6.0" in named
    assert "- - - - id-2" in unnamed
    painted = picture(top, width=200)
    assert "qwen-3" in painted
    assert "1,200+48" in painted
    assert "body:upstream_error" in painted


async def test_the_streams_of_a_process_that_drains_say_so() -> None:
    proxy = a_proxy()
    proxy.stream("own")
    proxy.predecessor = Before(a_proxy().stream("other"))
    _, *lines = table(await update_of(proxy)).splitlines()
    assert {line.split()[-3]: "body (draining)" in line for line in lines} == {"other": True, "own": False}


async def test_an_empty_plain_table_is_the_line_of_names() -> None:
    assert len(table(await update_of(a_proxy())).splitlines()) == 1


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("127.0.0.1:9090", Admin("http://127.0.0.1:9090")),
        ("[::1]:9090", Admin("http://[::1]:9090")),
        ("localhost:9090", Admin("http://localhost:9090")),
        ("http://proxy:8080/-/", Admin("http://proxy:8080/-")),
        ("unix:/run/admin.sock", Admin("http://localhost", "/run/admin.sock")),
        ("http+unix:/run/admin.sock", Admin("http://localhost", "/run/admin.sock")),
    ],
)
def test_an_admin_listener_is_named_as_the_program_prints_it(given_text: str, expected: Admin) -> None:
    assert parse_admin(given_text) == expected


@pytest.mark.parametrize("wrong", ["", "ftp://x", "http://", "http://x:99999", "http://x?y=1", "unix:relative"])
def test_what_is_no_admin_listener_is_refused(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"write http://host:port"):
        parse_admin(wrong)


def test_a_name_that_is_not_known_is_called_so() -> None:
    error = OSError("connection failed")
    error.__cause__ = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    assert _reason(error) == "Name or service not known"
    assert _reason(ConnectionRefusedError(errno.ECONNREFUSED, "no")) == "Connection refused"


def test_an_interval_is_a_duration_within_bounds() -> None:
    assert parse_interval("500ms") == 0.5
    for wrong in ("1ms", "2m", "soon"):
        with pytest.raises(ValueError, match=r"^(is not|must) "):
            parse_interval(wrong)


def test_keys_are_told_apart_in_whatever_company_they_come() -> None:
    assert split("jq\x1b[Bx\x1bOA\x1b[6~y\x03") == ["j", "q", "down", "x", "up", "pagedown", "y", "ctrl-c"]
    assert split("\x1b[1;5Cj\x1b[200~k") == ["j", "k"]  # known to nobody, and no keys
    assert split("\x1b") == ["\x1b"]
    assert split("\x1b[") == []


@given(st.lists(st.sampled_from([*SEQUENCES, *"qxyjk"])))
def test_any_run_of_keys_is_read_as_pressed(pressed: list[str]) -> None:
    assert split("".join(pressed)) == [SEQUENCES.get(key, key) for key in pressed]
