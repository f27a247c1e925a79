"""Where a credential is found, and what is left of a request when it was taken out."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from streamproxy.auth.credentials import FromCookie, FromHeader, FromQuery, Request, Source
from streamproxy.wire.headers import Headers


def request(headers: Headers | None = None, query: bytes | None = None) -> Request:
    return Request(headers or [], query)


@pytest.mark.parametrize(
    ("value", "token"),
    [
        (b"Bearer abc", b"abc"),
        (b"bearer abc", b"abc"),
        (b"BEARER   abc ", b"abc"),
        (b"Bearer ", b""),
        (b"Basic abc", None),
        (b"Bearerabc", None),
        (b"", None),
    ],
)
def test_the_header_carries_a_token_behind_its_scheme_only(value: bytes, token: bytes | None) -> None:
    asked = request([(b"accept", b"*/*"), (b"authorization", value)])
    assert FromHeader().find(asked) == ([] if token is None else [token])
    left = FromHeader().strip(asked).headers
    assert left == (asked.headers if token is None else [(b"accept", b"*/*")])


@pytest.mark.parametrize(
    ("query", "tokens", "left"),
    [
        (b"access_token=abc", [b"abc"], None),
        (b"a=1&access_token=abc&b=%2F+c", [b"abc"], b"a=1&b=%2F+c"),
        (b"&&access_token=abc&", [b"abc"], b"&&"),
        (b"a=1", [], b"a=1"),
        (b"", [], b""),
        (None, [], None),
        (b"access%5Ftoken=a%2Fb+c", [b"a/b+c"], None),
        (b"access_token=a&access_token=b", [b"a", b"b"], None),
        (b"xaccess_token=a&access_tokens=b", [], b"xaccess_token=a&access_tokens=b"),
        (b"access_token", [b""], None),
    ],
)
def test_a_query_parameter_is_taken_out_and_the_rest_keeps_its_bytes(
    query: bytes | None, tokens: list[bytes], left: bytes | None
) -> None:
    source = FromQuery("access_token")
    assert source.find(request(query=query)) == tokens
    assert source.strip(request(query=query)).query == left


@pytest.mark.parametrize(
    ("cookies", "tokens", "left"),
    [
        ([b"session=abc"], [b"abc"], []),
        ([b"a=1; session=abc; b=2"], [b"abc"], [b"a=1; b=2"]),
        ([b"session=abc; b=2"], [b"abc"], [b"b=2"]),
        ([b"a=1; session=abc"], [b"abc"], [b"a=1"]),
        ([b'session="abc"'], [b"abc"], []),
        ([b"a=1", b"session=abc", b"b=2"], [b"abc"], [b"a=1", b"b=2"]),
        ([b"session=a; session=b"], [b"a", b"b"], []),
        ([b"xsession=a;  odd=session ; Session=c"], [], [b"xsession=a;  odd=session ; Session=c"]),
        ([b"a=1;session=abc;b=2"], [b"abc"], [b"a=1;b=2"]),
    ],
)
def test_a_cookie_is_taken_out_and_the_others_keep_their_bytes(
    cookies: list[bytes], tokens: list[bytes], left: list[bytes]
) -> None:
    source = FromCookie("session")
    asked = request([(b"cookie", value) for value in cookies])
    assert source.find(asked) == tokens
    assert source.strip(asked).headers == [(b"cookie", value) for value in left]


PIECES = st.lists(
    st.sampled_from([b"a=1", b"token=x", b"token", b"", b"b=%74", b"%74oken=y", b"=", b"token=%"]), max_size=6
)


@pytest.mark.parametrize(("source", "separator"), [(FromQuery("token"), b"&"), (FromCookie("token"), b"; ")])
@given(pieces=PIECES)
def test_a_stripped_request_has_no_credential_and_all_the_rest(
    source: Source, separator: bytes, pieces: list[bytes]
) -> None:
    text = separator.join(pieces)
    left = source.strip(request([(b"cookie", text)], text))
    assert source.find(left) == []
    assert source.strip(left) == left
    others = [piece for piece in pieces if not piece.startswith((b"token", b"%74oken"))]
    rest = left.query if separator == b"&" else b"".join(value for _, value in left.headers)
    assert [piece for piece in others if piece] == [
        piece for piece in (rest or b"").split(separator) if piece and piece != b"%74oken=y"
    ]
