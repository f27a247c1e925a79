from __future__ import annotations

from collections.abc import Callable

import pytest

from streamproxy.config import values
from streamproxy.config.values import Address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("localhost:0", Address("localhost", 0)),
        ("[::1]:8080", Address("::1", 8080)),
        ("[fe80::1%eth0]:80", Address("fe80::1%eth0", 80)),
        ("unix:/run/proxy.sock", Address(path="/run/proxy.sock")),
    ],
)
def test_an_address_reads_back_as_it_was_written(text: str, address: Address) -> None:
    assert values.address(text) == address
    assert str(address) == text


@pytest.mark.parametrize(
    "text",
    [
        "8080",
        ":8080",
        "host",
        "host:",
        "host:65536",
        "host:-1",
        "::1:80",
        "[::1]",
        "[x]:80",
        "unix:run",
        "a b:1",
        "h:٣",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an address"):
        values.address(text)


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        ("https://api.example", "https://api.example"),
        ("HTTPS://api.example", "https://api.example"),
        ("http://[::1]:8000", "http://[::1]:8000"),
        ("http://my_service:80", "http://my_service:80"),
    ],
)
def test_an_origin_has_no_final_slash(text: str, origin: str) -> None:
    assert values.origin(text) == origin


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("ftp://host", "is not a URL: write http://host:port, https://host:port"),
        ("http://", "is not a URL"),
        ("http://host:99999", "is not a URL"),
        ("http://host:0", "is not a URL"),
        ("http://ho\tst", "is not a URL"),
        ("http://[::1", "is not a URL"),
        ("http://user:pw@host", "set the credential with request_headers.set"),
        ("http://host/?a=b", "must not carry a query"),
        ("http://host?", "must not carry a query"),
        ("http://host#f", "must not carry a query or fragment"),
        ("http://host/v1", "use rewrite.add_prefix"),
    ],
)
def test_an_origin_is_a_scheme_a_host_and_a_port(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        values.origin(text)


def test_an_egress_proxy_may_have_a_password() -> None:
    assert values.proxy_url("socks5h://user:pw@proxy:1080") == "socks5h://user:pw@proxy:1080"
    with pytest.raises(ValueError, match="socks5://host:port"):
        values.proxy_url("socks4://proxy:1080")


def test_a_network_says_what_it_would_be_without_its_host_bits() -> None:
    with pytest.raises(ValueError, match=r"the network is 10\.0\.0\.0/8"):
        values.network("10.1.2.3/8")
    assert str(values.network("10.1.2.3")) == "10.1.2.3/32"
    assert str(values.network("fd00::/8")) == "fd00::/8"


@pytest.mark.parametrize(
    ("parser", "good", "bad"),
    [
        (values.header_name, "X-Tenant", "X Tenant"),
        (values.header_name, "x", ""),
        (values.header_name, "x", "é"),
        (values.editable_header, "Host", "Transfer-Encoding"),
        (values.editable_header, "Cache-Control", "content-length"),
        (values.header_value, "Bearer x\ty é", "a\r\nb: c"),
        (values.header_value, "", "a\0"),
        (values.route_path, "/*", "*"),
        (values.route_path, "/v1/*", "/v1*"),
        (values.route_path, "/a%20b", "/a b"),
        (values.route_path, "/a;b=c", "/a?b"),
        (values.route_path, "/", "/*/x"),
        (values.path_prefix, "/api", "api"),
        (values.path_prefix, "", "/api/*"),
        (values.method, "GET", "get"),
        (values.method, "M-SEARCH", "GE T"),
        (values.host_pattern, "*.example", "*"),
        (values.host_pattern, "api.example", "api.example:80"),
        (values.host_pattern, "[::1]", "a.*.b"),
        (values.host_header, "api.example:8443", "http://api.example"),
        (values.host_header, "preserve", "a\r\nb"),
        (values.socket_path, "/run/x.sock", "run/x.sock"),
        (values.upstream, "llm-1.a_b", "llm 1"),
        (values.label, "all chats", " x"),
        (values.comment, "still here", "a\nb"),
        (values.hash_source, "cookie:sid", "header:"),
        (values.client_source, "header:X-Key", "cookie:sid"),
    ],
)
def test_a_value_has_the_form_of_what_it_names(parser: Callable[[object], object], good: str, bad: str) -> None:
    assert parser(good) == good
    with pytest.raises(ValueError, match=r"^(is|has|must|cannot)\b"):
        parser(bad)


def test_a_prefix_loses_its_final_slash() -> None:
    assert [values.path_prefix(text) for text in ("/api/", "/")] == ["/api", ""]
