"""``balance: {hash: …}``: a key stays where it is, and an endpoint that leaves moves its own keys and no others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from streamproxy.upstream import prober
from tests.conformance.conftest import StartStack
from tests.conformance.pool import Backend, pool, up
from tests.doubles.client import connect
from tests.doubles.stack import RunningStack, route
from tests.doubles.until import until

KEYS = [f"10.0.{number}.{7 * number % 250}" for number in range(48)]
Ask = tuple[str, list[tuple[str, str]]]  # a target and header fields

SOURCES: dict[str, Callable[[str], Ask]] = {
    "header:X-Session": lambda key: ("/", [("x-session", key)]),
    "cookie:session": lambda key: ("/", [("Cookie", f"a=1; session={key}; b=2")]),
    "query:user": lambda key: (f"/?a=1&user={key}", []),
    "client_ip": lambda key: ("/", [("X-Forwarded-For", key)]),
    "principal": lambda key: ("/", [("Authorization", f"Bearer {key}")]),
}


async def homes(proxy: RunningStack, ask: Callable[[str], Ask]) -> dict[str, str]:
    """The backend that answers each key; they ask one after the other, as behind a proxy that keeps its connection."""
    found = {}
    async with await connect(proxy.url) as client:
        for key in KEYS:
            target, headers = ask(key)
            found[key] = (await client.get(target, headers=headers)).body.decode()
    return found


@pytest.mark.parametrize("source", SOURCES)
async def test_every_key_stays_and_only_a_leavers_keys_move(
    stack: StartStack, backends: Any, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prober, "first_delay", lambda interval, uniform: 0.0)
    monkeypatch.setattr(prober, "next_delay", lambda interval, uniform: 0.1)
    monkeypatch.setattr("streamproxy.upstream.endpoint.SLOW_START", 0.001)  # who comes back has its whole share
    everyone: list[Backend] = await backends("a", "b", "c")
    leaver, ask = everyone[1], SOURCES[source]
    proxy = await stack(
        [route("pool", auth={"bearer": {"tokens": KEYS}} if source == "principal" else "off")],
        server={"trusted_proxies": ["127.0.0.1"]},  # so that X-Forwarded-For says who asks
        **pool(*everyone, balance={"hash": source}, health={"interval": "2s"}),
    )
    before = await homes(proxy, ask)
    assert set(before.values()) == {"a", "b", "c"}
    assert await homes(proxy, ask) == before

    leaver.health = "503 Service Unavailable"
    await until(lambda: not up(proxy, leaver), "b to leave")
    without = await homes(proxy, ask)
    assert "b" not in without.values()
    assert {key for key in KEYS if without[key] != before[key]} == {key for key in KEYS if before[key] == "b"}

    leaver.health = "200 OK"
    await until(lambda: up(proxy, leaver), "b to come back")
    assert await homes(proxy, ask) == before
