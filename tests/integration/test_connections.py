"""``server.max_connections``: one connection too many waits in the listen queue, and is served when there is room."""

from __future__ import annotations

import asyncio

from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import RawClient
from tests.doubles.connection import guarded
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.proxy import RunningProxy, configuration

MOST = 3


async def stream(conn: Conn) -> None:
    await conn.read_head()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.wait_ended()


async def streaming(dial: Connect, proxy: RunningProxy) -> RawClient:
    client = await dial(proxy.url)
    await client.request("/", headers=[("Connection", "close")])
    assert (await client.read_head()).status == 200
    return client


async def turns(proxy: RunningProxy, count: int) -> None:
    """Let the proxy do this much else: whatever it was going to accept is accepted after that."""
    for _ in range(count):
        await proxy.streams()


async def test_past_the_limit_a_connection_waits_and_is_served_when_another_ends(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(stream)
    proxy = await run_proxy(configuration(upstream.url, server={"max_connections": MOST}))
    clients = [await streaming(dial, proxy) for _ in range(MOST)]
    late = await dial(proxy.url)  # the kernel takes it: there is no failure
    await late.request("/late")
    await turns(proxy, 20)  # the admin listener has connections of its own
    assert (len(upstream.requests), late.ended, bytes(late.buffer)) == (MOST, None, b"")
    clients[1].reset()
    assert (await late.read_head()).status == 200
    assert upstream.requests[-1].target == b"/late"


async def test_a_crowd_is_served_to_the_last_and_never_more_than_the_limit_at_once(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    now, seen = 0, []

    async def slowly(conn: Conn) -> None:
        nonlocal now
        await conn.read_head()
        now += 1
        seen.append(now)
        await turns(proxy, 2)  # others would come meanwhile, if they were let
        now -= 1
        await conn.send(response(b"ok", headers=[("Connection", "close")]))
        await conn.wait_ended()

    upstream = await serve(slowly)
    proxy = await run_proxy(configuration(upstream.url, server={"max_connections": MOST}))
    clients = [await dial(proxy.url) for _ in range(60)]
    for client in clients:
        await client.request("/", headers=[("Connection", "close")])
    async with guarded("all of the crowd to be served"):
        answers = await asyncio.gather(*(client.read_response() for client in clients))
    assert [answer.status for answer in answers] == [200] * 60
    assert max(seen) <= MOST


async def test_connections_in_their_tls_handshake_count(
    run_proxy: RunProxy, serve: Serve, dial: Connect, certificate: Certificate
) -> None:
    upstream = await serve(answering(response(b"ok")))
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    proxy = await run_proxy(configuration(upstream.url, server={"max_connections": MOST, "tls": tls}))
    plain = proxy.url.replace("https:", "http:")
    silent = [await dial(plain) for _ in range(MOST)]  # they never begin their handshake
    await turns(proxy, 5)
    late = asyncio.create_task(dial(proxy.url, tls=certificate.client_context()))
    await turns(proxy, 20)
    assert not late.done()
    await silent[1].send(b"this is no TLS\r\n\r\n")  # fails its handshake, and makes room
    client = await late
    assert (await client.get()).body == b"ok"
