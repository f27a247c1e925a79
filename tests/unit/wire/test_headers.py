"""Header rules: what goes, what stays, what is added."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.wire.edits import edit
from streamproxy.wire.headers import (
    Forwarded,
    Headers,
    RequestFields,
    forwards_left,
    hops,
    request_headers,
    sane_request_id,
    via,
)
from streamproxy.wire.response_fields import ResponseFields, passable_trailers, streaming_cache_control

STRANGER: Forwarded = (b"192.0.2.7", b"http", False, b"")
DATE = b"Sun, 06 Nov 1994 08:49:37 GMT"
FRIEND: Forwarded = (b"10.0.0.1", b"http", True, b"")
NAMES = st.sampled_from(
    [b"host", b"accept", b"x-a", b"cookie", b"connection", b"te", b"upgrade", b"keep-alive", b"x-forwarded-for", b"via"]
)
VALUES = st.sampled_from([b"a", b"b, c", b"x-a", b"close", b"trailers", b"keep-alive, x-a"])
HEADERS = st.lists(st.tuples(NAMES, VALUES), max_size=10)


def forward(headers: Headers, forwarded: Forwarded = STRANGER, **options: object) -> Headers:
    given_: dict[str, object] = {"host": b"up:1", "request_id": b"id", "identity": False} | options
    return request_headers(RequestFields().prepare(headers), forwarded=forwarded, **given_)  # type: ignore[arg-type]


def response_headers(headers: Headers, *, request_id: bytes) -> Headers:
    fields = ResponseFields().prepare(headers)
    fields.pass_on(request_id, DATE)
    return fields.kept


def unbuffered(headers: Headers) -> Headers:
    fields = ResponseFields().prepare(headers)
    fields.unbuffer()
    return fields.kept


def test_order_duplicates_and_bytes_are_kept() -> None:
    sent = [(b"x-b", b"\xff 1"), (b"x-a", b""), (b"x-b", b"2"), (b"host", b"h"), (b"cookie", b"a=1")]
    assert forward(sent)[:5] == [
        (b"x-b", b"\xff 1"),
        (b"x-a", b""),
        (b"x-b", b"2"),
        (b"host", b"up:1"),
        (b"cookie", b"a=1"),
    ]


def test_nothing_else_is_added() -> None:
    assert forward([(b"host", b"h")]) == [
        (b"host", b"up:1"),
        (b"x-forwarded-for", b"192.0.2.7"),
        (b"x-forwarded-proto", b"http"),
        (b"x-forwarded-host", b"h"),
        (b"via", b"1.1 streamproxy"),
        (b"x-request-id", b"id"),
    ]


@pytest.mark.parametrize(
    "name",
    [b"keep-alive", b"proxy-connection", b"trailer", b"transfer-encoding", b"upgrade", b"proxy-authenticate",
     b"proxy-authorization", b"connection"],
)  # fmt: skip
def test_hop_by_hop_fields_go_in_both_directions(name: bytes) -> None:
    assert name not in dict(forward([(b"host", b"h"), (name, b"x")]))
    assert name not in dict(response_headers([(name, b"x")], request_id=b"id"))


def test_te_goes_on_only_where_trailers_would_come_back() -> None:
    for te, takes in ((b"gzip;q=0.5, trailers", True), (b"Trailers", True), (b"gzip", False)):
        assert RequestFields().prepare([(b"te", te), (b"connection", b"TE")]).te_trailers == takes
    assert forward([(b"te", b"trailers")], trailers=True)[-4:-2] == [(b"te", b"trailers"), (b"connection", b"te")]
    assert b"te" not in dict(forward([(b"te", b"trailers")]))


def test_trailers_of_framing_routing_and_authentication_stay_behind() -> None:
    kept = [(b"grpc-status", b"0"), (b"x-checksum", b"1"), (b"etag", b"x")]
    names = [b"content-length", b"content-type", b"transfer-encoding", b"host", b"authorization", b"set-cookie", b"te"]
    assert passable_trailers(kept + [(name, b"x") for name in names]) == kept


@pytest.mark.parametrize(("value", "left"), [(b"0", 0), (b"10", 10)])
def test_max_forwards_is_a_number(value: bytes, left: int) -> None:
    assert forwards_left(value) == left


@pytest.mark.parametrize("value", [b"", b"-1", b"1, 2", b"x", b"9" * 11])
def test_max_forwards_that_is_no_number_is_told(value: bytes) -> None:
    with pytest.raises(ValueError, match="not a number"):
        forwards_left(value)


@pytest.mark.parametrize(("version", "field"), [("1.0", b"1.0"), ("1.1", b"1.1"), ("2", b"2"), ("3", b"1.1")])
def test_via_says_the_version_of_the_message(version: str, field: bytes) -> None:
    assert via(version) == (b"via", field + b" streamproxy")
    assert via(version) in forward([], version=version)


def test_fields_that_connection_names_go() -> None:
    sent = [(b"host", b"h"), (b"x-a", b"1"), (b"connection", b"close, X-A"), (b"x-b", b"2"), (b"connection", b"x-b")]
    kept = dict(forward(sent))
    assert b"x-a" not in kept
    assert b"x-b" not in kept


@pytest.mark.parametrize("name", [b"host", b"content-length", b"authorization", b"x-forwarded-for"])
def test_a_client_cannot_remove_what_frames_or_authorises_by_naming_it(name: bytes) -> None:
    sent = [(b"host", b"h"), (b"content-length", b"3"), (b"authorization", b"t"), (b"connection", name)]
    assert name in dict(forward(sent))


def test_a_strangers_forwarded_fields_are_dropped() -> None:
    kept = forward(
        [
            (b"host", b"h"),
            (b"x-forwarded-for", b"6.6.6.6"),
            (b"x-forwarded-port", b"1"),
            (b"x-forwarded-proto", b"https"),
        ]
    )
    assert [value for name, value in kept if name == b"x-forwarded-for"] == [b"192.0.2.7"]
    assert b"x-forwarded-port" not in dict(kept)
    assert dict(kept)[b"x-forwarded-proto"] == b"http"


def test_a_trusted_proxys_forwarded_fields_are_believed_and_appended_to() -> None:
    sent = [
        (b"host", b"h"),
        (b"x-forwarded-for", b"192.0.2.1"),
        (b"x-forwarded-for", b"10.0.0.9"),
        (b"x-forwarded-proto", b"https"),
        (b"x-forwarded-host", b"pub"),
    ]
    kept = dict(forward(sent, FRIEND))
    assert kept[b"x-forwarded-for"] == b"192.0.2.1, 10.0.0.9, 10.0.0.1"
    assert kept[b"x-forwarded-proto"] == b"https"
    assert kept[b"x-forwarded-host"] == b"pub"


def test_identity_replaces_what_the_client_accepts() -> None:
    kept = forward([(b"host", b"h"), (b"accept-encoding", b"gzip")], identity=True)
    assert [value for name, value in kept if name == b"accept-encoding"] == [b"identity"]


def test_the_clients_host_can_be_preserved() -> None:
    assert (b"host", b"h") in forward([(b"host", b"h")], host=None)


def test_a_request_without_host_gets_the_upstreams() -> None:
    assert forward([])[0] == (b"host", b"up:1")


@given(HEADERS)
def test_request_rules_are_idempotent_but_for_the_record_of_the_hop(headers: Headers) -> None:
    once = forward(headers)
    twice = forward(once)
    hop = (b"via", b"x-request-id", b"x-forwarded-host")
    assert [pair for pair in twice if pair[0] not in hop] == [pair for pair in once if pair[0] not in hop]


@given(HEADERS)
def test_response_rules_are_idempotent_but_for_via(headers: Headers) -> None:
    once = response_headers(headers, request_id=b"id")
    twice = response_headers(once, request_id=b"id")
    assert [pair for pair in twice if pair[0] != b"via"] == [pair for pair in once if pair[0] != b"via"]


def test_each_set_cookie_stays_apart() -> None:
    kept = response_headers([(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"server", b"s")], request_id=b"id")
    assert kept[:3] == [(b"set-cookie", b"a=1"), (b"set-cookie", b"b=2"), (b"server", b"s")]


def test_the_upstreams_request_id_wins() -> None:
    assert [
        pair for pair in response_headers([(b"x-request-id", b"u")], request_id=b"id") if pair[0] == b"x-request-id"
    ] == [(b"x-request-id", b"u")]


@pytest.mark.parametrize(
    ("sent", "wire"),
    [
        ([], b"no-cache, no-transform"),
        ([b"no-store"], b"no-store, no-transform"),
        ([b"No-Cache"], b"No-Cache, no-transform"),
        ([b"private", b"max-age=5"], b"private, max-age=5, no-cache, no-transform"),
        ([b'no-cache="set-cookie", no-transform'], b'no-cache="set-cookie", no-transform, no-cache'),
        ([b'private="a,b"'], b'private="a,b", no-cache, no-transform'),
    ],
)
def test_cache_control_gains_what_streams_need_and_loses_nothing(sent: list[bytes], wire: bytes) -> None:
    headers = unbuffered([(b"cache-control", value) for value in sent] + [(b"x-accel-buffering", b"yes")])
    assert headers == [(b"cache-control", wire), (b"x-accel-buffering", b"no")]


@given(st.lists(st.sampled_from([b"no-store", b"no-cache", b"private", b"max-age=1", b'x="a, b"']), max_size=4))
def test_unbuffered_is_idempotent(directives: list[bytes]) -> None:
    once = unbuffered([(b"cache-control", b", ".join(directives))])
    assert unbuffered(once) == once


def test_hops_counts_only_this_proxys() -> None:
    assert hops(b"1.1 streamproxy, 1.0 fred, 1.1 streamproxy (x), streamproxy") == 2


@given(
    st.lists(st.sampled_from([b"no-store", b"private", b"max-age=1"]), max_size=2),
    st.lists(st.sampled_from([b"yes", b"no"]), max_size=2),
    st.sampled_from([[], [(b"connection", b"cache-control")], [(b"connection", b"x-accel-buffering, x-a")]]),
)
def test_every_way_to_the_anti_buffering_fields_leaves_one_of_each(
    directives: list[bytes], buffering: list[bytes], connection: Headers
) -> None:
    others = [(b"content-type", b"text/event-stream"), (b"x-b", b"1")]
    caching = [(b"cache-control", value) for value in directives]
    headers = unbuffered([*caching, *others, *((b"x-accel-buffering", value) for value in buffering), *connection])
    kept = b"" if connection[:1] == [(b"connection", b"cache-control")] else b", ".join(directives)
    assert headers == [*others, (b"cache-control", streaming_cache_control(kept)), (b"x-accel-buffering", b"no")]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ([], False),
        ([(b"content-length", b"0")], False),
        ([(b"content-length", b"00")], False),
        ([(b"content-length", b"10")], True),
        ([(b"transfer-encoding", b"chunked")], True),
    ],
)
def test_a_request_has_the_body_that_it_announces(headers: Headers, expected: bool) -> None:
    assert RequestFields().prepare(headers).has_body is expected


@pytest.mark.parametrize(
    ("value", "sane"),
    [
        (b"a-1", True),
        (b"x" * 128, True),
        (b"x" * 129, False),
        (b"", False),
        (b"a b", False),
        (b"\xe4", False),
        (None, False),
    ],
)
def test_a_request_id_is_kept_when_it_is_sane(value: bytes | None, sane: bool) -> None:
    assert sane_request_id(value) is sane


def test_a_routes_edit_sets_adds_and_removes() -> None:
    rule = edit({"X-A": "new"}, {"X-B": "2"}, ["X-C"])
    headers = [(b"x-a", b"1"), (b"x-a", b"2"), (b"x-b", b"1"), (b"x-c", b"1")]
    assert rule.apply(headers) == [(b"x-b", b"1"), (b"x-a", b"new"), (b"x-b", b"2")]


def test_another_value_of_a_field_leaves_the_fields_as_they_were() -> None:
    fields = RequestFields().prepare(
        [(b"host", b"a"), (b"x-a", b"1"), (b"x-forwarded-for", b"b"), (b"te", b"trailers")]
    )
    new = fields.replaced(b"x-a", b"2")
    assert fields.kept == [(b"host", b"a"), (b"x-a", b"1")]
    assert new.kept == [(b"host", b"a"), (b"x-a", b"2")]
    assert (new.host, new.host_at, new.two_hosts) == (b"a", 0, False)
    assert (new.forwarded, new.noted) == (fields.forwarded, fields.noted)
