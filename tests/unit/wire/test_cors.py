"""What a browser is told: preflights, responses, and nothing for origins that are not allowed."""

from __future__ import annotations

import pytest

from streamproxy.routing.matcher import Matcher
from streamproxy.wire.cors import Cors, is_preflight
from streamproxy.wire.headers import Headers

APP = b"https://app.example"
ONE = Cors(["https://app.example", "http://localhost:3000"], credentials=False)
SECURE = Cors(["https://app.example"], credentials=True)
ANY = Cors(["*"], credentials=False)


def asking(method: bytes = b"POST", *names: bytes, origin: bytes = APP) -> Headers:
    """The fields of a preflight."""
    fields = [(b"access-control-request-headers", name) for name in names]
    return [(b"origin", origin), (b"access-control-request-method", method), *fields]


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        ("OPTIONS", asking(), True),
        ("GET", asking(), False),
        ("OPTIONS", asking()[:1], False),
        ("OPTIONS", asking()[1:], False),
        ("OPTIONS", [], False),
    ],
)
def test_a_preflight_is_options_with_an_origin_and_a_method(method: str, headers: Headers, expected: bool) -> None:
    assert is_preflight(method, headers) is expected


def test_a_preflight_is_allowed_what_it_asks_for() -> None:
    assert ONE.preflight(asking(b"DELETE", b"authorization, x-tenant", b"content-type")) == [
        (b"access-control-allow-origin", APP),
        (b"access-control-allow-methods", b"DELETE"),
        (b"access-control-allow-headers", b"authorization, x-tenant, content-type"),
        (b"access-control-max-age", b"600"),
        (b"vary", b"origin, access-control-request-method, access-control-request-headers"),
    ]


def test_a_preflight_hears_of_credentials_only_where_they_are_on() -> None:
    credentials = (b"access-control-allow-credentials", b"true")
    assert credentials in SECURE.preflight(asking())
    assert credentials not in ONE.preflight(asking())
    assert credentials not in ANY.preflight(asking())


@pytest.mark.parametrize(
    "origin", [b"https://evil.example", b"https://app.example.evil", b"http://app.example", b"null", b"", b"*"]
)
def test_another_origin_is_allowed_nothing(origin: bytes) -> None:
    assert [name for name, _ in ONE.preflight(asking(origin=origin))] == [b"vary"]
    assert SECURE.transform_response_headers(origin, []) == [(b"vary", b"origin")]


@pytest.mark.parametrize("method", [b"DELETE", b"post", b"", b"PO ST", b"GET\r\nx: y"])
def test_a_method_that_the_route_does_not_take_is_not_allowed(method: bytes) -> None:
    cors = Cors(["*"], credentials=False, methods=["GET", "POST"])
    assert [name for name, _ in cors.preflight(asking(method))] == [b"vary"]


def test_head_is_allowed_where_get_is() -> None:
    cors = Cors(["*"], credentials=False, methods=["GET"])
    assert (b"access-control-allow-methods", b"HEAD") in cors.preflight(asking(b"HEAD"))


def test_names_that_are_no_field_names_are_not_repeated() -> None:
    fields = ONE.preflight(asking(b"GET", b"x-a, b\x01d"))
    assert b"access-control-allow-headers" not in dict(fields)


def test_a_response_is_dressed_for_its_origin() -> None:
    assert ONE.transform_response_headers(APP, [(b"content-type", b"text/plain")]) == [
        (b"content-type", b"text/plain"),
        (b"access-control-allow-origin", APP),
        (b"access-control-expose-headers", b"*"),
        (b"vary", b"origin"),
    ]


def test_what_the_upstream_says_of_cors_is_replaced_and_its_vary_stays() -> None:
    upstream = [
        (b"access-control-allow-origin", b"*"),
        (b"vary", b"accept"),
        (b"access-control-allow-credentials", b"true"),
        (b"access-control-anything", b"x"),
    ]
    assert ONE.transform_response_headers(None, upstream) == [(b"vary", b"accept"), (b"vary", b"origin")]


def test_for_every_origin_the_answer_does_not_depend_on_it() -> None:
    transformed = ANY.transform_response_headers(b"https://anyone.example", [])
    assert transformed == ANY.transform_response_headers(None, [])
    assert dict(transformed) == {b"access-control-allow-origin": b"*", b"access-control-expose-headers": b"*"}


def test_with_credentials_the_exposed_fields_are_named_since_a_star_would_be_a_name() -> None:
    """Fetch section 3.2.4."""
    headers = [
        (b"content-type", b"text/plain"),
        (b"x-request-id", b"1"),
        (b"set-cookie", b"a=b"),
        (b"x-ratelimit", b"1"),
        (b"x-ratelimit", b"2"),
    ]
    assert (
        dict(SECURE.transform_response_headers(APP, headers))[b"access-control-expose-headers"]
        == b"x-request-id, x-ratelimit"
    )
    assert b"access-control-expose-headers" not in dict(SECURE.transform_response_headers(APP, headers[:1]))


@pytest.mark.parametrize(
    ("headers", "host", "matches"),
    [
        (asking(b"POST"), b"api.example", True),
        (asking(b"DELETE"), b"api.example", False),
        (asking(b"POST"), b"other.example", False),
        (asking(b"POST")[:1], b"api.example", False),
    ],
)
def test_a_route_takes_the_preflights_of_the_requests_it_takes(headers: Headers, host: bytes, matches: bool) -> None:
    def matcher(preflight: bool) -> Matcher:
        return Matcher(["/*"], methods=["POST"], hosts=["api.example"], headers={"x-tenant": "*"}, preflight=preflight)

    asked = [(b"host", host), *headers]
    assert matcher(True).rest("OPTIONS", asked) is matches
    assert not matcher(False).rest("OPTIONS", asked)
    assert matcher(True).rest("POST", [(b"host", b"api.example"), (b"x-tenant", b"a")])
    assert not matcher(True).rest("POST", [(b"host", b"api.example")])
