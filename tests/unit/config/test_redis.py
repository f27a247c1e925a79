"""The URLs by which a Redis is named."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.config.redis import RedisPlace, parse_place, redis_url, store


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("redis://r", RedisPlace("server", "redis", url="redis://r")),
        ("valkey://u:p@r:1/2?a=b", RedisPlace("server", "redis", url="redis://u:p@r:1/2?a=b")),
        ("valkeys://r", RedisPlace("server", "rediss", url="rediss://r")),
        ("unix:///run/r.sock?db=1", RedisPlace("server", "unix", url="unix:///run/r.sock?db=1")),
        (
            "redis+sentinel://a,b:5/mymaster",
            RedisPlace("sentinel", "redis", hosts=(("a", 26379), ("b", 5)), service="mymaster"),
        ),
        (
            "valkeys+sentinel://u:p%40@[::1]:7/my%20master/3?sentinel_password=x&ssl_ca_certs=y",
            RedisPlace(
                *("sentinel", "rediss", "u:p%40@", (("::1", 7),), "my master", "3"),
                "sentinel_password=x&ssl_ca_certs=y",
            ),
        ),
        ("rediss+cluster://:p@a,b:7001", RedisPlace("cluster", "rediss", ":p@", (("a", 6379), ("b", 7001)))),
        ("valkey+cluster://a/0", RedisPlace("cluster", "redis", hosts=(("a", 6379),))),
    ],
)
def test_the_forms_of_a_url(url: str, place: RedisPlace) -> None:
    assert parse_place(url) == place
    assert redis_url(url) == store(url) == url


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis://", "is not the URL of a Redis"),
        ("redis://r:0", "is not the URL of a Redis"),
        ("redis://r:x", "is not the URL of a Redis"),
        ("redis://a:1,b:2", "is not the URL of a Redis"),
        ("sentinel://a/mymaster", "redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"),
        ("redis-cluster://a", "redis+cluster://HOST:PORT,HOST:PORT"),
        ("redis+sentinels://a/b", "is not the URL of a Redis"),
        ("unix+cluster://a", "is not the URL of a Redis"),
        ("redis+sentinel://a", "names no service of the Sentinels"),
        ("redis+sentinel://a/?db=1", "names no service of the Sentinels"),
        ("redis+sentinel://a/b/c", "has a database that is not a number"),
        ("redis+sentinel://a,/b", "has an address that is not HOST or HOST:PORT"),
        ("redis+sentinel:///b", "has an address that is not HOST or HOST:PORT"),
        ("redis+cluster://a:99999", "has an address that is not HOST or HOST:PORT"),
        ("redis+cluster://a:0", "has an address that is not HOST or HOST:PORT"),
        ("redis+cluster://::1", "has an address that is not HOST or HOST:PORT"),
        ("redis+cluster://a/1", "names a database: a cluster has none but 0"),
        ("redis+cluster://a?x=y&db=2", "names a database: a cluster has none but 0"),
        ("redis+cluster://a/b@c", "must be percent-encoded"),
        ("redis://:12/ss@a", "must be percent-encoded"),
        ("redis://:12?ss@a", "must be percent-encoded"),
        ("redis://u:12#ss@a", "must be percent-encoded"),
        ("redis+cluster://u:12?ss@a", "must be percent-encoded"),
        ("unix://:12?ss@/run/r.sock", "must be percent-encoded"),
        ("redis://a/one", "has a database that is not a number"),
        ("redis://a/1/2", "has a database that is not a number"),
    ],
)
def test_what_is_wrong_with_a_url_is_said_with_what_is_allowed(url: str, why: str) -> None:
    with pytest.raises(ValueError, match=re.escape(why)):
        redis_url(url)


@given(st.sampled_from(["redis", "rediss+sentinel", "valkey+cluster"]), st.text(max_size=40))
def test_any_text_is_read_or_refused(scheme: str, rest: str) -> None:
    with contextlib.suppress(ValueError):
        place = parse_place(f"{scheme}://{rest}")
        assert place.url or all(host and 0 < port < 65536 for host, port in place.hosts)


def test_the_url_of_a_node_has_all_that_is_said_of_the_cluster() -> None:
    place = parse_place("valkeys+cluster://u:p%2F@a:1,b?ssl_ca_certs=c")
    assert place.server_url("::1", 5) == "rediss://u:p%2F@[::1]:5/0?ssl_ca_certs=c"
