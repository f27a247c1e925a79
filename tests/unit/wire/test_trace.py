"""The fields of W3C Trace Context."""

from __future__ import annotations

import pytest

from streamproxy.wire.trace import Parent, Trace, parse_traceparent, parse_tracestate

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.mark.parametrize(
    ("value", "flags"),
    [
        (f"00-{TRACE}-{SPAN}-01", 1),
        (f"00-{TRACE}-{SPAN}-00", 0),
        (f"00-{TRACE}-{SPAN}-ff", 255),
        (f"cc-{TRACE}-{SPAN}-01", 1),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-will-be-like", 1),
    ],
)
def test_a_valid_traceparent_is_read(value: str, flags: int) -> None:
    assert parse_traceparent(value.encode()) == Parent(TRACE, SPAN, flags)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01-",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01-a, cc-{TRACE}-{SPAN}-01-a",
    ],
)
def test_an_invalid_traceparent_is_none(value: str) -> None:
    assert parse_traceparent(value.encode()) is None


@pytest.mark.parametrize(
    ("value", "members"),
    [
        (b"a=1", [("a", "1")]),
        (b"b=2 , a=1,, tenant@vendor=x/y", [("b", "2"), ("a", "1"), ("tenant@vendor", "x/y")]),
        (b"a=1,a=2", []),
        (b"A=1", []),
        (b"a=1,b", []),
        (b"a=\xff", []),
        (b",".join(b"k%d=v" % number for number in range(33)), []),
    ],
)
def test_a_tracestate_is_read_whole_or_not_at_all(value: bytes, members: list[tuple[str, str]]) -> None:
    assert parse_tracestate(value) == members


def test_what_is_read_of_a_tracestate_is_what_the_sdk_takes(caplog: pytest.LogCaptureFixture) -> None:
    trace_state = pytest.importorskip("opentelemetry.trace.span").TraceState
    members = parse_tracestate(b"rojo=00f067aa0ba902b7,1t@v=a b,x*/_-9=~!")
    assert list(trace_state(members).items()) == members
    assert len(members) == 3
    assert caplog.records == []


def test_the_callers_tracestate_goes_on_with_its_trace() -> None:
    trace = Trace(TRACE, SPAN, 0x03, server_id="1" * 16, client_id="2" * 16)
    headers = [(b"a", b"1"), (b"traceparent", b"old"), (b"tracestate", b"k=v"), (b"tracestate", b"l=w")]
    assert trace.carry(headers) == [
        (b"a", b"1"),
        (b"tracestate", b"k=v"),
        (b"tracestate", b"l=w"),
        (b"traceparent", f"00-{TRACE}-{'2' * 16}-03".encode()),
    ]


def test_a_tracestate_of_no_valid_trace_goes_nowhere() -> None:
    trace = Trace(TRACE, "", 0x00, server_id="1" * 16, client_id="2" * 16)
    headers = [(b"traceparent", b"broken"), (b"tracestate", b"k=v")]
    assert trace.carry(headers) == [(b"traceparent", f"00-{TRACE}-{'2' * 16}-00".encode())]


def test_only_flags_that_are_known_are_said_on() -> None:
    assert Trace(TRACE, SPAN, 0xFF, server_id="1" * 16, client_id="2" * 16).flags == 0x03
