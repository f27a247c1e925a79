"""Every phase of a WebSocket by every fault: how the exchange ends, what each end sees, and nothing leaked.

Phases: handshake (the upstream thinks), open (between frames), client frame and upstream frame (in the middle of one),
client closing and upstream closing (one end has sent its Close frame).
"""

from __future__ import annotations

from typing import NamedTuple

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, route, running_stack
from tests.doubles.until import until
from tests.doubles.upstream import Conn
from tests.doubles.websocket import CLIENT_CLOSE, HANDSHAKE, HELLO, SWITCH, UPSTREAM_CLOSE, WORLD
from tests.faults.test_matrix import strike

GOING_AWAY = b"\x88\x02\x03\xe9"


class Expected(NamedTuple):
    """The end, the error's name, and the bytes that the client reads before the end of its connection."""

    end: str
    error: str
    seen: bytes = b""


LEFT = Expected("client_disconnect", "connection_terminated")
LOST = Expected("upstream_truncated", "http_response_incomplete")
STALLED = Expected("timeout", "connection_read_timeout", GOING_AWAY)
MATRIX = {
    ("handshake", "client closes"): LEFT,
    ("handshake", "client resets"): LEFT,
    ("handshake", "upstream closes"): Expected("error", "connection_terminated", b"HTTP/1.1 502 "),
    ("handshake", "upstream resets"): Expected("error", "connection_terminated", b"HTTP/1.1 502 "),
    ("handshake", "upstream stalls"): Expected("timeout", "http_response_timeout", b"HTTP/1.1 504 "),
    ("handshake", "upstream sends garbage"): Expected("error", "http_protocol_error", b"HTTP/1.1 502 "),
    ("open", "client closes"): LEFT,
    ("open", "client resets"): LEFT,
    ("open", "upstream closes"): LOST,
    ("open", "upstream resets"): LOST,
    ("open", "upstream stalls"): STALLED,
    ("client frame", "client closes"): LEFT,
    ("client frame", "client resets"): LEFT,
    ("client frame", "upstream closes"): LOST,
    ("client frame", "upstream resets"): LOST,
    ("client frame", "client stalls"): STALLED,
    ("upstream frame", "client closes"): LEFT,
    ("upstream frame", "client resets"): LEFT,
    ("upstream frame", "upstream closes"): LOST,
    ("upstream frame", "upstream resets"): LOST,
    ("upstream frame", "upstream stalls"): STALLED._replace(seen=b""),  # no frame of ours inside of one
    ("client closing", "client resets"): LEFT,
    ("client closing", "upstream closes"): LOST,
    ("client closing", "upstream resets"): LOST,
    ("client closing", "upstream stalls"): STALLED,
    ("upstream closing", "client closes"): LEFT,
    ("upstream closing", "client resets"): LEFT,
    ("upstream closing", "upstream resets"): LOST,
    ("upstream closing", "client stalls"): STALLED._replace(seen=b""),  # its Close was the upstream's last frame
}


async def bring_to(phase: str, client: RawClient, conn: Conn, proxy: RunningStack) -> None:
    """Wait until the socket is in this phase, with everything read that was sent before."""
    if phase == "handshake":
        return
    conn.go.set()
    assert (await client.read_raw_head()).status == 101
    if phase.startswith("client"):
        sent = CLIENT_CLOSE if phase == "client closing" else HELLO[:9]
        await client.send(sent)
        assert await conn.read_exactly(len(sent)) == sent
    elif phase.startswith("upstream"):
        sent = UPSTREAM_CLOSE if phase == "upstream closing" else WORLD[:4]
        await conn.send(sent)
        assert await client.read_exactly(len(sent)) == sent


@pytest.mark.parametrize(("phase", "fault"), MATRIX, ids=[f"{phase}, {fault}" for phase, fault in MATRIX])
async def test_a_fault_in_a_phase_of_a_socket_has_one_end(
    leaks: LeakCheck, serve: Serve, dial: Connect, phase: str, fault: str
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.stall()
        await conn.send(SWITCH % b"")
        await conn.wait_ended()

    expected = MATRIX[phase, fault]
    upstream = await serve(script)
    name = "first_byte" if phase == "handshake" else "idle"
    routes = [route(upstream.url, timeouts={name: "500ms"} if "stalls" in fault else {})]
    async with running_stack(routes, client_kind="native", server_kind="uvicorn", leaks=leaks) as proxy:
        client = await dial(proxy.url)
        await client.send(HANDSHAKE % b"")
        await upstream.request()
        conn = await upstream.connection()
        await bring_to(phase, client, conn, proxy)
        await strike(fault, client, conn)
        if expected is not LEFT and phase == "handshake":
            assert (await client.read_raw_head()).raw.startswith(expected.seen)
        elif expected is not LEFT:
            assert (await client.read_all())[0] == expected.seen
            client.close()  # a half-closed connection would stay one
        exchange = await proxy.end_of()
        assert (exchange.end, exchange.error.error) == (expected.end, expected.error)
        assert exchange.phase == ("head" if phase == "handshake" else "body")
        if not fault.startswith("upstream") or "stalls" in fault:
            await conn.wait_ended()
        conn.go.set()
        side = {"client_disconnect": "client", "upstream_truncated": "upstream"}.get(exchange.end)
        if side is not None:
            assert proxy.metric("streamproxy_disconnects_total", side=side, phase=exchange.phase) == 1
        await until(lambda: not upstream.open_connections, "the upstream's connection to end")
