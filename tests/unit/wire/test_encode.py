"""Heads to bytes, of both sides."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest

from streamproxy.wire.encode import field_section, informational_head, request_head, response_head
from streamproxy.wire.headers import Headers
from streamproxy.wire.http2.head import request_fields


def test_a_request_head_is_its_lines() -> None:
    headers = [(b"host", b"a"), (b"x", b"1"), (b"x", b"2")]
    assert request_head("GET", b"/a?b", headers, True, False) == b"GET /a?b HTTP/1.1\r\nhost: a\r\nx: 1\r\nx: 2\r\n\r\n"
    assert request_head("BREW", b"/", [], True, True) == b"BREW / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("method", "target", "value"),
    [
        ("GET", b"/ a", b""),
        ("GET", b"", b""),
        ("GET", b"/\r\nx: y", b""),
        ("GET", b"/", b"a\nb"),
        ("GET", b"/", b"a\0b"),
        ("", b"/", b""),
        ("A B", b"/", b""),
        ("A\r\nB", b"/", b""),
    ],
)
def test_a_request_that_would_break_out_of_its_head_is_refused(method: str, target: bytes, value: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        request_head(method, target, [(b"x", value)], True, False)


@pytest.mark.parametrize(
    "field",
    [
        (b"content-length", b"1"),
        (b"content-length", b""),
        (b"transfer-encoding", b"chunked"),
        (b"Content-Length", b"1"),
        (b"CONTENT-length", b"01"),
        (b"Transfer-Encoding", b"chunked"),
    ],
)
def test_a_field_that_announces_a_body_is_refused_where_none_follows(field: tuple[bytes, bytes]) -> None:
    begun = b"POST / HTTP/1.1\r\n"
    for _ in range(2):  # whether or not it is the first of its name
        assert request_head("POST", b"/", [field], True, False) == begun + b"%b: %b\r\n\r\n" % field
        if field[1]:
            with pytest.raises(ValueError, match="without a body"):
                request_head("POST", b"/", [field], False, False)
    assert request_head("POST", b"/", [(b"content-length", b"0")], False, False) == begun + b"content-length: 0\r\n\r\n"


@pytest.mark.parametrize(
    ("status", "reason", "line"),
    [
        (200, b"", b"HTTP/1.1 200 OK"),
        (200, b"Fine", b"HTTP/1.1 200 Fine"),
        (999, b"", b"HTTP/1.1 999 "),
        (999, b"Denied \xe9", b"HTTP/1.1 999 Denied \xe9"),
        (404, b"a\r\nx: y", b"HTTP/1.1 404 Not Found"),
    ],
)
def test_a_status_line_has_the_reason_that_was_given(status: int, reason: bytes, line: bytes) -> None:
    assert response_head(status, [], reason)[0] == line + b"\r\n"


def test_the_fields_of_framing_and_connection_are_noted_and_left_out() -> None:
    fields = [(b"X-A", b"1"), (b"Content-Length", b"5"), (b"connection", b"Close"), (b"transfer-encoding", b"chunked")]
    assert response_head(200, fields) == (b"HTTP/1.1 200 OK\r\nx-a: 1\r\ncontent-length: 5\r\n", 5, True)
    assert response_head(204, fields[:2]) == (b"HTTP/1.1 204 No Content\r\nx-a: 1\r\n", 5, False)


@pytest.mark.parametrize("field", [(b"a b", b""), (b"", b""), (b"a", b"b\r\nc: d"), (b"a", b"\0"), (b"a:", b"")])
def test_a_field_that_would_break_a_head_is_refused(field: tuple[bytes, bytes]) -> None:
    with pytest.raises(ValueError, match=r"."):
        response_head(200, [field])
    with pytest.raises(ValueError, match=r"."):
        informational_head(103, [field])
    with pytest.raises(ValueError, match=r"."):
        field_section([field])


@pytest.mark.parametrize("status", [0, 100, 101, 103, 199, 1000])
def test_a_status_that_is_not_final_is_refused(status: int) -> None:
    with pytest.raises(ValueError, match="final"):
        response_head(status, [])


def test_an_informational_head_is_whole() -> None:
    assert informational_head(103, [(b"link", b"</a>")]) == b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"
    for status in (100, 101, 200):
        with pytest.raises(ValueError, match="informational"):
            informational_head(status, [])


@pytest.mark.parametrize(
    "encode",
    [
        lambda headers: response_head(200, headers),
        lambda headers: request_fields("GET", b"http", b"/", headers),
    ],
    ids=["a response", "a request over HTTP/2"],
)
def test_names_that_a_peer_makes_up_leave_nothing(encode: Callable[[Headers], object]) -> None:
    encode([(b"x-first", b"")])
    tracemalloc.start()
    try:
        for number in range(200):
            encode([(b"x-%d-%b" % (number, b"n" * 10_000), b"")])
        left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert left < 100_000
