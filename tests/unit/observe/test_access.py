"""The access log: exact fields, hidden values, and one line whatever a client sent."""

from __future__ import annotations

import io
import json
import logging
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproxy import errors
from streamproxy.exchange.exchange import Exchange
from streamproxy.formats.inspector import Usage
from streamproxy.observe.access_log import (
    ACCESS_LOGGER,
    FIELDS,
    AccessHandler,
    AccessLog,
    LineFormat,
    console_line,
    printable,
    record,
)
from streamproxy.observe.json_line import hide_values, json_line, milliseconds, timestamp
from tests.unit.observe.exchanges import finished, new_exchange, streaming


def test_the_line_has_the_fields_of_the_contract_in_their_order() -> None:
    exchange = streaming(new_exchange())
    exchange.trace_id = "0af7651916cd43dd8448eb211c80319c"
    line = json_line(exchange, 110.0)
    assert tuple(json.loads(line)) == FIELDS
    assert json.loads(line) == {
        "time": "2023-11-14T22:13:20.250Z",
        "request_id": "id-1",
        "client": "192.0.2.7",
        "method": "POST",
        "path": "/v1/x",
        "route": "chat",
        "upstream": "llm",
        "endpoint": "http://127.0.0.1:8000",
        "status": 200,
        "ttfb_ms": 2500.0,
        "upstream_ttfb_ms": 1000.0,
        "duration_ms": 10000.0,
        "request_bytes": 10,
        "response_bytes": 3000,
        "chunks": 3,
        "events": 2,
        "keepalives": 4,
        "end": "complete",
        "phase": "body",
        "error": None,
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
    }


def test_the_line_says_who_ended_it_and_where() -> None:
    exchange = new_exchange()
    exchange.phase = "head"
    exchange.error = errors.ClientDisconnected()
    fields = record(exchange, 101.0)
    assert (fields["end"], fields["phase"], fields["status"]) == ("client_disconnect", "head", 499)
    assert fields["error"] == "connection_terminated"
    assert fields["ttfb_ms"] is None


@pytest.mark.parametrize("name", ["\ud800", "a\udfffb"])
def test_a_name_that_is_half_a_character_leaves_the_line_well_formed(name: str) -> None:
    exchange = new_exchange()
    exchange.model = exchange.finish_reason = exchange.principal = name
    fields = json.loads(json_line(exchange, 101.0))
    shown = {fields[key] for key in ("model", "finish", "principal")}
    assert shown == {record(exchange, 101.0)["model"]}
    assert "\ufffd" in "".join(shown)
    assert "".join(shown).encode("utf-8")


def test_a_whole_character_beyond_the_first_plane_stays() -> None:
    exchange = new_exchange()
    exchange.model = "qwen-\U0001f600"
    assert json.loads(json_line(exchange, 101.0))["model"] == "qwen-\U0001f600"


def test_a_live_exchange_has_no_end_and_perhaps_no_status() -> None:
    fields = record(new_exchange(), 101.5, live=True)
    assert tuple(fields) == FIELDS
    assert (fields["end"], fields["status"], fields["duration_ms"]) == (None, None, 1500.0)


def test_fields_that_do_not_always_apply_come_behind_the_others() -> None:
    exchange = streaming(new_exchange())
    exchange.protocol, exchange.attempts = "HTTP/2", 2
    assert list(json.loads(json_line(exchange, 110.0)).items())[len(FIELDS) :] == [
        ("protocol", "HTTP/2"),
        ("attempts", 2),
    ]
    exchange.recognise("chat", "openai", "small")
    exchange.first_event_at, exchange.finish_reason, exchange.stream = 104.0, "stop", "c3RyZWFt"
    exchange.usage = Usage(input=100, output=7, cache_read=0)
    line = json.loads(json_line(exchange, 110.0))
    assert line == record(exchange, 110.0)
    assert list(line.items())[len(FIELDS) :] == [
        ("protocol", "HTTP/2"),
        ("attempts", 2),
        ("stream", "c3RyZWFt"),
        ("model", "small"),
        ("first_event_ms", 3000.0),
        ("input_tokens", 100),
        ("output_tokens", 7),
        ("cached_tokens", 0),
        ("finish", "stop"),
    ]


@settings(max_examples=200, deadline=None)
@given(exchange=finished(), later=st.floats(0, 1e6))
def test_the_json_line_is_the_record_whatever_the_client_sent(exchange: Exchange, later: float) -> None:
    now = exchange.started_at + later
    line = json_line(exchange, now)
    assert line.isascii()
    assert line.isprintable()
    assert json.loads(line) == record(exchange, now)


@settings(max_examples=200, deadline=None)
@given(exchange=finished(), colour=st.booleans())
def test_the_console_line_is_one_line_of_printable_ascii(exchange: Exchange, colour: bool) -> None:
    line = console_line(record(exchange, 200.0), colour=colour)
    for paint in ("\x1b[31m", "\x1b[33m", "\x1b[32m", "\x1b[0m"):
        assert line.count(paint) <= int(colour)
        line = line.replace(paint, "")
    assert line.isascii()
    assert line.isprintable()


def test_the_console_line_shows_every_field_that_is_set() -> None:
    exchange = streaming(new_exchange())
    exchange.trace_id = "0af7651916cd43dd8448eb211c80319c"
    exchange.error = errors.ResponseIncomplete()
    assert console_line(record(exchange, 110.0), colour=False) == (
        "2023-11-14T22:13:20.250Z id-1 192.0.2.7 POST /v1/x route=chat upstream=llm endpoint=http://127.0.0.1:8000"
        " 200 ttfb_ms=2500.0 upstream_ttfb_ms=1000.0 duration_ms=10000.0 request_bytes=10 response_bytes=3000"
        " chunks=3 events=2 keepalives=4 upstream_truncated phase=body error=http_response_incomplete"
        " trace_id=0af7651916cd43dd8448eb211c80319c"
    )


@pytest.mark.parametrize(
    "path", ["/a 200 complete", "/a\n2023-11-14 forged", "/\x1b[2J", "/\u2028", "/\ud800", "/\x85"]
)
def test_a_path_cannot_forge_a_word_or_a_line(path: str) -> None:
    exchange = streaming(new_exchange(path=path))
    plain = console_line(record(streaming(new_exchange()), 110.0), colour=False)
    line = console_line(record(exchange, 110.0), colour=False)
    assert len(line.split()) == len(plain.split())
    assert line.splitlines() == [line]


@pytest.mark.parametrize(
    ("query", "shown"),
    [
        (b"token=secret&x=1", "token=***&x=***"),
        (b"secret", "***"),
        (b"token%3Dsecret", "***"),
        (b"a=1=secret", "a=***"),
        (b"a=1;key=secret", "a=***"),
        (b"=secret", "=***"),
        (b"a=", "a=***"),
        (b"a=1&&b=2&", "a=***&&b=***&"),
        (b"", ""),
    ],
)
def test_values_of_a_query_are_hidden_and_names_kept(query: bytes, shown: str) -> None:
    assert hide_values(query) == shown


@given(names=st.lists(st.from_regex(rb"[a-z]{0,5}", fullmatch=True), max_size=4), flags=st.lists(st.booleans()))
def test_no_value_of_a_query_is_ever_shown(names: list[bytes], flags: list[bool]) -> None:
    parts = [b"SECRET" if bare else name + b"=SECRET" for name, bare in zip(names, flags, strict=False)]
    exchange = new_exchange()
    exchange.query = b"&".join(parts)
    assert "SECRET" not in json_line(exchange, 101.0)
    assert "SECRET" not in console_line(record(exchange, 101.0), colour=False)


def test_printable_text_stays_as_it_is() -> None:
    assert printable("GET /v1/x?a=***") == "GET /v1/x?a=***"
    assert printable("a\r\nb\x1bc\u00e9") == "a\\r\\nb\\x1bc\\xe9"


@pytest.mark.parametrize(
    ("wall", "text"), [(0.0, "1970-01-01T00:00:00.000Z"), (1_700_000_000.999_9, "2023-11-14T22:13:20.999Z")]
)
def test_times_are_utc_with_milliseconds(wall: float, text: str) -> None:
    assert timestamp(wall) == text
    timestamp(wall + 1)
    assert timestamp(wall) == text


@settings(max_examples=500, deadline=None)
@given(
    seconds=st.one_of(
        st.floats(0, 1e5),
        st.floats(),
        st.integers(0, 10**9).map(lambda number: number / 2e6),  # halves of a microsecond, which are ties or nearly
        st.integers(0, 10**12).map(lambda nanoseconds: nanoseconds / 1e9),
    )
)
def test_milliseconds_are_rounded_by_all_of_their_digits(seconds: float) -> None:
    assert milliseconds(seconds) == f"{seconds * 1000 + 0.0:.3f}"  # no negative zero


def test_names_of_a_place_are_told_apart() -> None:
    places = [("a", "b", "c"), ("a", "", ""), ("a", "b", ""), ('"', "b", "c"), ("", "ab", "c")]
    for route, upstream, endpoint in places * 2:
        exchange = new_exchange(route=route, upstream=upstream)
        exchange.endpoint = endpoint
        line = json.loads(json_line(exchange, 101.0))
        assert (line["route"], line["upstream"], line["endpoint"]) == (route, upstream or None, endpoint or None)


@pytest.mark.parametrize("line_format", ["json", "console"])
def test_an_exchange_that_ends_writes_one_line(line_format: LineFormat) -> None:
    stream = io.StringIO()
    with mock.patch.object(ACCESS_LOGGER, "handlers", [AccessHandler(stream, line_format)]):
        AccessLog().observe(streaming(new_exchange()))
        AccessLog().observe(streaming(new_exchange()))
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert all("192.0.2.7" in line for line in lines)
    assert lines[0].startswith("{") == (line_format == "json")


def test_a_program_that_configures_nothing_gets_records(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "streamproxy.access"):
        AccessLog().observe(streaming(new_exchange()))
    (entry,) = caplog.records
    assert json.loads(entry.getMessage())["client"] == "192.0.2.7"


def test_a_record_that_nobody_wants_is_not_made() -> None:
    silent = mock.patch.multiple(ACCESS_LOGGER, handlers=[], isEnabledFor=lambda level: False)
    with silent, mock.patch("streamproxy.observe.access_log.json_line") as made:
        AccessLog().observe(streaming(new_exchange()))
    assert not made.called


@pytest.mark.parametrize(
    ("error", "status", "colour"),
    [
        (None, 200, "\x1b[32m"),
        (errors.ResponseIncomplete(), 200, "\x1b[31m"),
        (None, 404, "\x1b[33m"),
        (None, 502, "\x1b[31m"),
    ],
)
def test_colour_tells_a_good_end_from_a_bad_one(error: errors.ExchangeError | None, status: int, colour: str) -> None:
    exchange = streaming(new_exchange())
    exchange.error, exchange.status = error, status
    assert f" {colour}{status}\x1b[0m " in console_line(record(exchange, 110.0), colour=True)


class _Broken(io.StringIO):
    def write(self, text: str) -> int:
        raise BrokenPipeError


def test_a_log_that_cannot_be_written_costs_no_exchange() -> None:
    closed = io.StringIO()
    closed.close()
    broken = _Broken()
    for stream in (closed, broken):
        with mock.patch.object(ACCESS_LOGGER, "handlers", [AccessHandler(stream, "json")]):
            AccessLog().observe(new_exchange())
    assert broken.getvalue() == ""
