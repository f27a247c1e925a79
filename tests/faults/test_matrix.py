"""Every phase by every fault: how the exchange ends, what the client sees, what is counted, and nothing leaked.

Phases: request (the body is being sent), head (the upstream thinks), body (between chunks). A fault while connecting
and one while a client is held by backpressure are in the behaviour suite.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import NamedTuple

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.connection import PeerEnded
from tests.doubles.http2_upstream import Stream
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, route, running_stack
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, stream_head

TIMEOUTS = {"request": "request", "head": "first_byte", "body": "idle"}  # what ends each phase when it stalls


class Expected(NamedTuple):
    """The end, the error's name, and the status that the client got; 0 for none, -200 for an unfinished 200."""

    end: str
    error: str
    seen: int


LEFT = Expected("client_disconnect", "connection_terminated", 0)
MATRIX = {
    ("request", "client closes"): LEFT,
    ("request", "client resets"): LEFT,
    ("request", "client stalls"): Expected("timeout", "http_request_error", 408),
    ("request", "client sends garbage"): Expected("rejected", "http_request_error", 400),
    ("request", "upstream closes"): Expected("error", "connection_terminated", 502),
    ("request", "upstream resets"): Expected("error", "connection_terminated", 502),
    ("request", "upstream sends garbage"): Expected("error", "http_protocol_error", 502),
    ("head", "client closes"): LEFT,
    ("head", "client resets"): LEFT,
    ("head", "upstream closes"): Expected("error", "connection_terminated", 502),
    ("head", "upstream resets"): Expected("error", "connection_terminated", 502),
    ("head", "upstream stalls"): Expected("timeout", "http_response_timeout", 504),
    ("head", "upstream sends garbage"): Expected("error", "http_protocol_error", 502),
    ("body", "client closes"): LEFT,
    ("body", "client resets"): LEFT,
    ("body", "upstream closes"): Expected("upstream_truncated", "http_response_incomplete", -200),
    ("body", "upstream resets"): Expected("upstream_truncated", "http_response_incomplete", -200),
    ("body", "upstream stalls"): Expected("timeout", "connection_read_timeout", -200),
    ("body", "upstream sends garbage"): Expected("upstream_truncated", "http_response_incomplete", -200),
}
# httpx does not read while it sends, and so hears of none of these before the client's next bytes.
UNHEARD_BY_HTTPX = {("request", f"upstream {what}") for what in ("closes", "resets", "sends garbage")}
GARBAGE = b"\x00\xff not http \r\n\r\n"


@pytest.fixture(params=["native+uvicorn", "h2+uvicorn", "httpx+uvicorn", "native+http2", "h2+http2"])
async def proxied(
    request: pytest.FixtureRequest, leaks: LeakCheck, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[tuple[RunningStack, list[Conn]]]:
    """The proxy before an upstream that reads a request, and sends a head and an event when it is let go."""
    conns: list[Conn] = []
    client_kind, server_kind = request.param.split("+")
    monkeypatch.setattr(Upstream, "http2", client_kind == "h2")

    async def script(conn: Conn) -> None:
        conns.append(conn)
        await conn.read_head()
        await conn.stall()
        await conn.send(stream_head() + b"9\r\ndata: 1\n\n\r\n")
        await conn.wait_ended()

    upstream = await serve(script)
    async with AsyncExitStack() as exits:
        quick = [
            route(upstream.url, timeouts={name: "60ms"}) | {"path": f"/quick/{phase}"}
            for phase, name in TIMEOUTS.items()
        ]
        routes = [*quick, route(upstream.url)]
        proxy = await exits.enter_async_context(
            running_stack(routes, client_kind=client_kind, server_kind=server_kind, leaks=leaks)
        )
        yield proxy, conns


async def bring_to(phase: str, client: RawClient, conns: list[Conn], proxy: RunningStack, target: str) -> None:
    """Send a request and wait until its exchange is in this phase."""
    await client.request(target, method="POST", headers=[("Transfer-Encoding", "chunked")])
    await client.send_chunk(b"body")
    if phase != "request":
        await client.send_chunk(b"")
    await until(lambda: conns and conns[-1].heads)
    if phase == "body":
        conns[-1].go.set()
        await client.read_head()
        await client.read_body_until(b"\n\n")
    await until(
        lambda: (
            any(e.phase == phase and e.request_bytes for e in proxy.app.ledger.live.values())
            or (target != "/x" and proxy.ended)  # a short time-out may be over by now
        )
    )


async def strike(fault: str, client: RawClient, conn: Conn) -> None:
    who, what = fault.split(" ", 1)
    peer = client if who == "client" else conn
    if what == "closes":
        peer.close()
    elif what == "resets":
        peer.reset()
    elif what == "sends garbage" and isinstance(peer, Conn) and isinstance(peer.transport, Stream):
        peer.transport.front.transport.write(GARBAGE)
    elif what == "sends garbage":
        await peer.send(GARBAGE)


async def seen_by(client: RawClient, phase: str) -> int:
    """The status, negative when the response did not end well; 0 for none."""
    try:
        answer = await (client.read_rest() if phase == "body" else client.read_response())
    except PeerEnded:
        return 0
    return answer.status if answer.complete else -answer.status


@pytest.mark.parametrize(("phase", "fault"), MATRIX, ids=[f"{phase}, {fault}" for phase, fault in MATRIX])
async def test_a_fault_in_a_phase_has_one_end(
    proxied: tuple[RunningStack, list[Conn]], dial: Connect, phase: str, fault: str
) -> None:
    proxy, conns = proxied
    expected = MATRIX[phase, fault]
    if (phase, fault) in UNHEARD_BY_HTTPX and proxy.client_kind == "httpx":
        pytest.skip("httpx does not read while it sends")
    client = await dial(proxy.url)
    await bring_to(phase, client, conns, proxy, f"/quick/{phase}" if "stalls" in fault else "/x")
    await strike(fault, client, conns[-1])
    exchange = await proxy.end_of()
    assert (exchange.end, exchange.error.error, exchange.phase) == (expected.end, expected.error, phase)
    if expected is not LEFT:
        assert await seen_by(client, phase) == expected.seen
    if "upstream" not in fault or "stalls" in fault:
        await conns[-1].wait_ended()
    side = {"client_disconnect": "client", "upstream_truncated": "upstream", "error": "upstream"}.get(exchange.end)
    if side == "client" or exchange.error.error in ("connection_terminated", "http_response_incomplete"):
        assert proxy.metric("streamproxy_disconnects_total", side=side or "", phase=phase) == 1


ABORTS = 100


@pytest.mark.parametrize("phase", ["request", "head", "body"])
async def test_hundreds_of_aborts_leave_nothing(
    proxied: tuple[RunningStack, list[Conn]], dial: Connect, phase: str
) -> None:
    proxy, conns = proxied
    for number in range(ABORTS):
        client = await dial(proxy.url)
        await bring_to(phase, client, conns, proxy, "/x")
        (client.close if number % 2 else client.reset)()
        await conns[-1].wait_ended()
        conns.clear()
    await proxy.end_of(ABORTS - 1)
    assert not proxy.app.ledger.live
    assert proxy.metric("streamproxy_disconnects_total", side="client", phase=phase) == ABORTS
    assert proxy.metric("streamproxy_streams_active") == 0
    assert proxy.metric("streamproxy_connections", state="active") == 0
