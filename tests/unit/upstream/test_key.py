"""What a request is hashed by."""

from __future__ import annotations

import pytest

from streamproxy.exchange.exchange import Exchange
from streamproxy.upstream.key import key_source
from streamproxy.wire.headers import Headers

HEADERS: Headers = [(b"host", b"x"), (b"x-session", b"s1"), (b"cookie", b"a=1; session=abc"), (b"cookie", b"b=2")]
QUERY = b"a=1&user=J%C3%B6rg+S&empty=&user=other"


def exchange(query: bytes = QUERY, client: str = "10.0.0.1", principal: str = "jwt:Jörg") -> Exchange:
    made = Exchange("id", "route", "upstream", "GET", "/")
    made.query, made.client, made.principal = query, client, principal
    return made


@pytest.mark.parametrize(
    ("source", "key"),
    [
        ("header:X-Session", b"s1"),
        ("header:x-session", b"s1"),
        ("header:X-Other", None),
        ("cookie:session", b"abc"),
        ("cookie:b", b"2"),
        ("cookie:Session", None),
        ("query:user", b"J\xc3\xb6rg S"),
        ("query:empty", None),
        ("query:none", None),
        ("client_ip", b"10.0.0.1"),
        ("principal", b"jwt:J\xc3\xb6rg"),
    ],
)
def test_the_key_is_found_where_the_source_says(source: str, key: bytes | None) -> None:
    assert key_source(source)(HEADERS, exchange()) == key


def test_two_spellings_of_one_parameter_are_one_key() -> None:
    find = key_source("query:user")
    assert find([], exchange(b"user=a%20b")) == find([], exchange(b"us%65r=a+b")) == b"a b"


def test_a_client_without_an_address_or_a_principal_has_no_key() -> None:
    assert key_source("client_ip")([], exchange(client="")) is None
    assert key_source("principal")([], exchange(principal="")) is None


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(ValueError, match="body:x"):
        key_source("body:x")
