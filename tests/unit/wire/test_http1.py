"""The framing that a request's head declares, and what its target means."""

from __future__ import annotations

import pytest

from streamproxy.wire.http1 import AmbiguousHead, Framing, origin_form, request_framing

HOST = (b"host", b"a.example")


def field(name: str, value: str) -> tuple[bytes, bytes]:
    return name.encode(), value.encode()


@pytest.mark.parametrize(
    ("version", "headers", "framing"),
    [
        ("1.1", [HOST], Framing(0, False, True)),
        ("1.0", [], Framing(0, False, False)),
        ("1.0", [field("connection", "Keep-Alive")], Framing(0, False, True)),
        ("1.1", [HOST, field("connection", "x, Close")], Framing(0, False, False)),
        ("1.1", [HOST, field("connection", "x"), field("connection", "close")], Framing(0, False, False)),
        ("1.1", [HOST, field("content-length", "12")], Framing(12, False, True)),
        ("1.1", [HOST, field("content-length", "0")], Framing(0, False, True)),
        ("1.0", [field("content-length", "12")], Framing(12, False, False)),
        ("1.1", [field("transfer-encoding", "Chunked"), HOST], Framing(None, True, True)),
        ("1.1", [field("host", "")], Framing(0, False, True)),
        ("1.1", [field("host", "[::1]:80")], Framing(0, False, True)),
    ],
)
def test_a_request_has_one_framing(version: str, headers: list[tuple[bytes, bytes]], framing: Framing) -> None:
    assert request_framing(version, headers) == framing


@pytest.mark.parametrize(
    ("version", "headers", "why"),
    [
        ("2.0", [HOST], "version"),
        ("0.9", [], "version"),
        ("1.1", [], "no Host"),
        ("1.1", [HOST, HOST], "more than one Host"),
        ("1.0", [HOST, HOST], "more than one Host"),
        ("1.1", [field("host", "a b")], "not a host"),
        ("1.1", [field("host", "a/b")], "not a host"),
        ("1.1", [field("host", "user@a")], "not a host"),
        ("1.1", [field("host", "a, b")], "not a host"),
        ("1.1", [(b"host", b"a\xff")], "not a host"),
        ("1.1", [HOST, field("content-length", "1"), field("content-length", "1")], "more than one Content-Length"),
        ("1.1", [HOST, field("content-length", "+1")], "not a number"),
        ("1.1", [HOST, field("content-length", "")], "not a number"),
        ("1.1", [HOST, field("content-length", "1" * 19)], "not a number"),
        ("1.1", [HOST, field("content-length", "1"), field("transfer-encoding", "chunked")], "Content-Length with"),
        ("1.1", [HOST, field("content-length", "0"), field("transfer-encoding", "chunked")], "Content-Length with"),
        ("1.1", [HOST, field("transfer-encoding", "gzip, chunked")], "other than chunked"),
        ("1.1", [HOST, field("transfer-encoding", "chunked"), field("transfer-encoding", "chunked")], "other than"),
        ("1.1", [HOST, field("transfer-encoding", "identity")], "other than chunked"),
        ("1.0", [field("transfer-encoding", "chunked")], "HTTP/1.0"),
    ],
)
def test_an_ambiguous_request_is_refused(version: str, headers: list[tuple[bytes, bytes]], why: str) -> None:
    with pytest.raises(AmbiguousHead, match=why):
        request_framing(version, headers)


@pytest.mark.parametrize(
    ("method", "target", "origin", "authority"),
    [
        (b"GET", b"/a//b/../%2F?x=1?&", b"/a//b/../%2F?x=1?&", None),
        (b"OPTIONS", b"*", b"*", None),
        (b"GET", b"http://a.example/b?c", b"/b?c", b"a.example"),
        (b"GET", b"HTTPS://a.example:8443/b", b"/b", b"a.example:8443"),
        (b"GET", b"http://[::1]:80", b"/", b"[::1]:80"),
        (b"GET", b"http://a.example?b", b"/?b", b"a.example"),
        (b"OPTIONS", b"http://a.example", b"*", b"a.example"),
        (b"OPTIONS", b"http://a.example/", b"/", b"a.example"),
    ],
)
def test_a_target_goes_on_in_origin_form(method: bytes, target: bytes, origin: bytes, authority: bytes | None) -> None:
    assert origin_form(method, target) == (origin, authority)


@pytest.mark.parametrize(
    "target", [b"*", b"a", b"/a#b", b"http://a#b", b"http:///a", b"http://u:p@a/", b"ftp://a/", b"http:/a", b"ws://a/"]
)
def test_any_other_target_is_refused(target: bytes) -> None:
    with pytest.raises(AmbiguousHead):
        origin_form(b"GET", target)
