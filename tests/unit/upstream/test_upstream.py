"""Which endpoint a request is sent to."""

from __future__ import annotations

from typing import Any

import pytest

from streamproxy import errors
from streamproxy.upstream import Endpoint, Upstream
from tests.unit.upstream.fakes import endpoint, new_exchange, settings


def rotating(*endpoints: Endpoint) -> Upstream:
    return Upstream("u", endpoints, settings(balance="round_robin"))


# Picking.


async def test_one_endpoint_is_picked_without_asking_anybody() -> None:
    class Never:
        def pick(self, candidates: Any, key: bytes | None) -> Any:
            raise AssertionError("asked")

    one = endpoint("a")
    upstream = Upstream("u", [one], settings(), balancer=Never())
    exchange = new_exchange()
    assert upstream.pick(exchange, []) is one
    assert upstream.roster is None


async def test_a_hash_keeps_a_session_on_one_endpoint() -> None:
    upstream = Upstream("u", [endpoint(name) for name in "abcd"], settings(balance={"hash": "header:X-S"}))
    picked = {upstream.pick(new_exchange(), [(b"x-s", b"me")]).url for _ in range(20)}
    others = {upstream.pick(new_exchange(), [(b"x-s", b"%d" % n)]).url for n in range(50)}
    assert len(picked) == 1
    assert len(others) == 4


async def test_without_a_healthy_endpoint_there_is_no_destination() -> None:
    a, b = endpoint("a"), endpoint("b")
    upstream = rotating(a, b)
    for one in (a, b):
        upstream._roster.judge(one, False, "bad")
    with pytest.raises(errors.DestinationUnavailable) as caught:
        upstream.pick(new_exchange(), [])
    assert caught.value.status == 503
