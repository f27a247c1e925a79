"""Everything that Redis is for, in two sidecars."""

from __future__ import annotations

from typing import Protocol

from tests.conftest import Connect
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.proxy import Config, RunningProxy, configuration


class Redis(Protocol):
    """Takes commands, wherever they have to go."""

    async def command(self, *words: str | int) -> object: ...


RULES = (
    # What the documentation says that a user of one's own needs.
    *("resetkeys", "~streamproxy:*", "~news:*", "resetchannels", "&news:*", "&__redis__:invalidate", "-@all"),
    *("+ping", "+select", "+client|id", "+client|tracking"),
    *("+hset", "+hmget", "+set", "+get", "+del", "+exists", "+pexpire", "+eval", "+evalsha", "+time"),
    *("+xadd", "+xrange", "+xrevrange", "+xread", "+xtrim", "+subscribe", "+unsubscribe"),
)


async def two_events(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.send_chunk(b"data: 2\n\n")
    await conn.send_chunk(b"")


def everything(upstream: str, url: str) -> Config:
    """Resume, quotas, and both kinds of events, all in one Redis."""
    sources = {kind: {"redis": {"url": url, "channel": f"news:{kind}", "kind": kind}} for kind in ("pubsub", "stream")}
    limits = {"requests": {"rate": "100000/1m"}, "store": url}  # of which tests that ask again and again use little
    routes = [{"path": f"/{kind}", "upstream": kind, "keepalive": "off"} for kind in sources]
    routes.append({"path": "/*", "upstream": upstream, "limits": limits, "resume": {"store": url, "ids": "off"}})
    return configuration(routes, upstreams=sources)


async def kept(proxy: RunningProxy, dial: Connect) -> str:
    """A stream that Redis has; its name."""

    async def name() -> str:
        client = await dial(proxy.url)
        answer = await client.get("/answer")
        assert answer.body == b"data: 1\n\ndata: 2\n\n"
        return (answer.get("x-stream-cursor") or b"").decode()[:-2]

    return await until(name, "a stream with a cursor")


async def works(here: RunningProxy, there: RunningProxy, dial: Connect, redis: Redis) -> None:
    """Everything that Redis is for."""
    stream = await kept(here, dial)

    async def replayed() -> bool:
        client = await dial(there.url)
        answer = await client.get("/answer", headers=[("Last-Event-ID", f"{stream}/1")])
        return answer.body == b"data: 2\n\n"

    await until(replayed, "the other sidecar to answer for it")
    clients = []
    for kind in ("pubsub", "stream"):
        client = await dial(there.url)
        await client.request(f"/{kind}")
        assert (await client.read_head()).status == 200
        clients.append(client)
    await redis.command("PUBLISH", "news:pubsub", "a")
    await redis.command("XADD", "news:stream", "*", "data", "b")
    assert await clients[0].read_body_until(b"\n\n") == b"data: a\n\n"
    assert (await clients[1].read_body_until(b"\n\n")).startswith(b"data: b\nid: ")
    for client in clients:
        client.reset()
    for store in ("resume", "limits", "events"):
        assert await there.metric(f'streamproxy_store_errors_total{{store="{store}"}}') == 0
