"""Names: looked up without waiting for long, again and again, and what becomes of connections when they change."""

from __future__ import annotations

import asyncio
import socket

import pytest

from streamproxy.client.http1 import NativeClient
from streamproxy.client.resolve import GONE, KEEP, Address, Resolver
from streamproxy.errors import DestinationUnavailable, ExchangeError
from tests.conftest import Serve
from tests.doubles.connection import guarded
from tests.doubles.ports import reserved_port
from tests.doubles.upstream import Conn, Upstream, answering, response, stream_head
from tests.unit.client.http1.asking import ask, fetch, until
from tests.unit.client.http1.conftest import MakeClient

V4 = [Address(socket.AF_INET, (f"192.0.2.{number}", 80)) for number in range(3)]
V6 = [Address(socket.AF_INET6, (f"2001:db8::{number}", 80, 0, 0)) for number in range(3)]


class Names:
    """A resolver whose answers the test gives."""

    def __init__(self, *answers: list[Address] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0
        self.go = asyncio.Event()
        self.go.set()

    async def __call__(self, host: str, port: int) -> list[Address]:
        self.asked += 1
        await self.go.wait()
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


async def test_an_answer_is_remembered_and_asked_for_again() -> None:
    names = Names([V4[0]], [V4[1]], [V4[2]])
    resolver = Resolver("a.example", 80, names)
    assert await resolver.addresses() == [V4[0]]
    assert await resolver.addresses() == [V4[0]]
    resolver.forget()
    assert await resolver.addresses() == [V4[1]]
    resolver._until -= 10
    assert await resolver.addresses() == [V4[2]]
    assert names.asked == 3


async def test_an_answer_is_given_with_its_families_in_turns() -> None:
    assert await Resolver("a.example", 80, Names([V6[0], V6[1], V4[0]])).addresses() == [V6[0], V4[0], V6[1]]


async def test_who_asks_at_the_same_time_shares_the_answer_and_cancels_only_itself() -> None:
    names = Names([V4[0]])
    names.go.clear()
    resolver = Resolver("a.example", 80, names)
    asking = [asyncio.ensure_future(resolver.addresses()) for _ in range(3)]
    await asyncio.sleep(0)
    asking[0].cancel()
    await asyncio.sleep(0)
    names.go.set()
    assert await asyncio.gather(*asking[1:]) == [[V4[0]], [V4[0]]]
    assert names.asked == 1


async def test_who_waits_for_a_name_when_the_client_closes_is_told_so_and_not_cancelled(
    native: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = Names([V4[0]])
    names.go.clear()
    client = native("http://slow.example")
    monkeypatch.setattr(client._connector.resolver, "_look_up", names)
    asking = asyncio.ensure_future(fetch(client))
    await until(lambda: names.asked)
    await client.aclose()
    with pytest.raises(DestinationUnavailable):
        await asking


async def test_a_failed_look_up_is_not_remembered() -> None:
    names = Names(socket.gaierror(socket.EAI_AGAIN, "try again"), [], [V4[0]])
    resolver = Resolver("a.example", 80, names)
    for _ in range(2):
        with pytest.raises(socket.gaierror):
            await resolver.addresses()
    assert await resolver.addresses() == [V4[0]]


async def test_addresses_are_not_looked_up() -> None:
    names = Names()
    assert await Resolver("127.0.0.1", 80, names).addresses() == [Address(socket.AF_INET, ("127.0.0.1", 80))]
    assert await Resolver("::1", 80, names).addresses() == [Address(socket.AF_INET6, ("::1", 80, 0, 0))]
    assert names.asked == 0


async def test_an_address_that_stopped_answering_is_looked_up_again(
    serve: Serve, native: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native("http://moving.example")
    with reserved_port() as nobody:
        names = Names(*([Address(socket.AF_INET, ("127.0.0.1", port))] for port in (nobody, upstream.port)))
        monkeypatch.setattr(client._connector.resolver, "_look_up", names)
        with pytest.raises(ExchangeError):
            await fetch(client)
    assert (await fetch(client)).body == b"ok"


async def test_a_slow_name_server_holds_nobody_up_who_has_an_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproxy.client.resolve.PATIENCE", 0.001)
    names = Names([V4[0]], [V4[1]])
    resolver = Resolver("a.example", 80, names)
    assert await resolver.addresses() == [V4[0]]
    names.go.clear()
    resolver._until -= KEEP
    for _ in range(2):
        assert await resolver.addresses() == [V4[0]]
    assert names.asked == 2
    names.go.set()
    await until(lambda: resolver._lookup is None)
    assert await resolver.addresses() == [V4[1]]


async def test_who_found_no_address_any_good_waits_for_a_slow_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streamproxy.client.resolve.PATIENCE", 0.001)
    names = Names([V4[0]], [V4[1]])
    resolver = Resolver("a.example", 80, names)
    await resolver.addresses()
    resolver.forget()
    names.go.clear()
    asking = asyncio.ensure_future(resolver.addresses())
    await asyncio.sleep(0.01)  # a timer behind that of the patience
    assert not asking.done()
    names.go.set()
    assert await asking == [V4[1]]


async def test_a_name_server_that_can_not_answer_for_now_changes_nothing() -> None:
    names = Names([V4[0]], socket.gaierror(socket.EAI_AGAIN, "try again"), [V4[1]])
    resolver = Resolver("a.example", 80, names)
    await resolver.addresses()
    resolver._until -= KEEP
    for _ in range(2):
        assert await resolver.addresses() == [V4[0]]
    assert names.asked == 2  # and is left alone for a while
    resolver._until -= KEEP
    assert await resolver.addresses() == [V4[1]]


async def test_a_name_that_is_no_more_is_not_found() -> None:
    resolver = Resolver("a.example", 80, Names([V4[0]], socket.gaierror(socket.EAI_NONAME, "not known")))
    await resolver.addresses()
    resolver._until -= KEEP
    with pytest.raises(socket.gaierror):
        await resolver.addresses()


async def test_an_address_is_gone_when_look_ups_have_not_given_it_for_long() -> None:
    gone: list[set[object]] = []
    resolver = Resolver("a.example", 80, Names([V4[0], V6[0]], [V4[1]], [V4[1]], [V4[1]]))
    resolver.on_gone = gone.append
    await resolver.addresses()
    resolver._until -= KEEP
    await resolver.addresses()
    assert gone == []  # one look-up may give some, the next others
    resolver._given[V4[0]] -= GONE
    resolver._until -= KEEP
    await resolver.addresses()
    assert gone == [{("192.0.2.0", 80)}]
    resolver._given[V6[0]] -= GONE
    resolver._until -= KEEP
    await resolver.addresses()
    assert gone == [{("192.0.2.0", 80)}, {("2001:db8::0", 80)}]


def moving(client: NativeClient, monkeypatch: pytest.MonkeyPatch, *upstreams: Upstream) -> Resolver:
    """Have each look-up give another upstream."""
    resolver = client._connector.resolver
    assert resolver is not None
    names = Names(*([Address(socket.AF_INET, ("127.0.0.1", upstream.port))] for upstream in upstreams))
    monkeypatch.setattr(resolver, "_look_up", names)
    return resolver


def later(client: NativeClient, resolver: Resolver) -> None:
    """As if the last look-up were long ago."""
    resolver._until -= KEEP
    resolver._given = {address: at - GONE for address, at in resolver._given.items()}
    client._pool._refresh_at = 0.0


async def test_connections_move_when_the_name_does_though_they_are_never_idle_for_long(
    serve: Serve, native: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = await serve(answering(response(b"old"))), await serve(answering(response(b"new")))
    client = native("http://moving.example")
    resolver = moving(client, monkeypatch, old, new)
    for _ in range(2):
        assert (await fetch(client)).body == b"old"
    later(client, resolver)
    assert (await fetch(client)).body == b"old"  # whose connection comes back, and asks
    await until(lambda: not client.idle)
    assert (await old.connections[0].wait_ended()).how in ("eof", "reset")
    assert (await fetch(client)).body == b"new"
    assert (client.active, client.idle) == (0, 1)


async def test_a_stream_to_an_address_that_is_gone_goes_on_and_its_connection_is_not_kept(
    serve: Serve, native: MakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.stall()
        await conn.send_chunk(b"old")
        await conn.send_chunk(b"")
        await conn.wait_ended()

    old, new = await serve(script), await serve(answering(response(b"new")))
    client = native("http://moving.example", max_connections=1)
    resolver = moving(client, monkeypatch, old, new)
    async with guarded("the stream"), ask(client) as answer:
        waiting = asyncio.ensure_future(fetch(client))
        later(client, resolver)
        resolver.refresh()
        await until(lambda: resolver._lookup is None)
        old.connections[0].go.set()
        assert [chunk async for chunk in answer.aiter_raw()] == [b"old"]
    async with guarded("who waits for its place"):
        assert (await waiting).body == b"new"
    assert (client.active, client.idle) == (0, 1)


async def test_what_has_one_address_for_ever_is_never_looked_up(serve: Serve, native: MakeClient) -> None:
    upstream = await serve(answering(response(b"ok")))
    client = native(upstream)
    await fetch(client)
    assert client._pool._refresh_at == float("inf")
    resolver = client._connector.resolver
    assert resolver is not None
    resolver.refresh()
    assert resolver._lookup is None
