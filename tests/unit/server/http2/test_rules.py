"""RFC 9113 sections 4 to 6, frame by frame: what a client breaks, and what it may do."""

from __future__ import annotations

import asyncio

import pytest
from hyperframe.frame import PingFrame, SettingsFrame

from tests.doubles.http2 import FrameClient
from tests.unit.server.harness import Receive, Scope, Send, body_message, hello, start_message
from tests.unit.server.http2.conftest import Connect, Start
from tests.unit.server.http2.rules import END_HEADERS, HEADERS, RULES, WHOLE, Rule, State, block, frame, setting


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers at once, but for ``/hold``: there a response begins and lasts until the client leaves.

    So does it at ``/deaf``, where the request's body is not read.
    """
    if scope["path"] not in ("/hold", "/deaf"):
        await hello(scope, receive, send)
        return
    await send(start_message(200))
    if scope["path"] == "/deaf":
        left = asyncio.Event()
        scope["extensions"]["streamproxy.connection"].on_disconnect = left.set
        await left.wait()
    while (await receive())["type"] != "http.disconnect":
        pass


async def bring_to(state: State, client: FrameClient) -> None:
    """Bring stream 1 into a state."""
    if state == "closed":
        client.raw(frame(HEADERS, WHOLE, 1, block(target="/")))
        assert (await client.response(1)).complete
    elif state != "idle":
        client.raw(frame(HEADERS, END_HEADERS if state == "open" else WHOLE, 1, block("POST")))
        await client.started(1)
    if state == "reset":
        client.reset(1)
        await client.pong()


@pytest.mark.parametrize("rule", RULES, ids=[f"{rule.section} {rule.what}, {rule.state}" for rule in RULES])
async def test_a_rule_that_a_client_breaks_has_its_answer(rule: Rule, start: Start, h2: Connect) -> None:
    client = await h2((await start(app)).url)
    await bring_to(rule.state, client)
    stream = client.streams[1]
    client.raw(rule.sent)
    if rule.connection is not None:
        assert await client.end() == rule.connection
        return
    client.next_stream = 11
    if rule.stream is not None:
        await client.wait(lambda: stream.reset is not None, "RST_STREAM")
    assert (await client.response(await client.request())).complete  # the connection goes on
    assert stream.reset == rule.stream
    assert not client.goaways


async def test_what_is_discarded_counts_for_the_table_of_fields(start: Start, h2: Connect) -> None:
    """RFC 9113 section 5.1: header blocks on streams that are gone change the state of the compression."""
    client = await h2((await start(app)).url)
    await bring_to("reset", client)
    client.send(*client.head([*client.fields(), (b"x-kept", b"in the table")], stream=1))
    client.next_stream = 3
    answer = await client.response(await client.request(headers=[("x-kept", "in the table")]))
    assert answer.complete
    assert len(client.encoder.header_table.dynamic_entries) >= 2


async def test_what_is_discarded_does_not_eat_the_window_of_the_connection(start: Start, h2: Connect) -> None:
    client = await h2((await start(app)).url)
    await client.pong()
    await bring_to("reset", client)
    for _ in range(1100):  # 17 MiB, which is more than the window of the connection
        client.data(1, bytes(16_000))
        if client.connection.transport.get_write_buffer_size() > 1_000_000:
            await client.pong()
    assert (await client.response(await _ask(client))).complete
    assert client.windows[0] > 16_000_000


async def _ask(client: FrameClient) -> int:
    client.next_stream = 11
    return await client.request()


async def test_a_ping_has_its_answer_and_an_answer_has_none(start: Start, h2: Connect) -> None:
    client = await h2((await start(app)).url)
    client.send(PingFrame(0, b"not this", flags=["ACK"]), PingFrame(0, b"but this"))
    await client.wait(lambda: bool(client.pings), "the answer of a PING")
    await client.pong()
    assert [ping.opaque_data for ping in client.pings] == [b"but this", b"12345678"]


async def test_settings_are_acknowledged_and_taken_in_order(start: Start, h2: Connect) -> None:
    client = await h2((await start(app)).url, window=0)
    client.raw(b"\x00\x00\x0c\x04\x00\x00\x00\x00\x00" + setting(4, 100)[9:] + setting(4, 1)[9:])
    client.generous = False
    stream = client.streams[await client.request()]
    await client.wait(lambda: len(stream.body) == 1)
    await client.pong()
    assert bytes(stream.body) == b"/"
    acknowledged = [one for one in client.frames if isinstance(one, SettingsFrame) and "ACK" in one.flags]
    assert len(acknowledged) == 2


async def test_a_window_may_be_changed_and_be_negative(start: Start, h2: Connect) -> None:
    go = asyncio.Event()

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        await send(body_message(bytes(10), more=True))
        await go.wait()
        await send(body_message(bytes(10)))

    client = await h2((await start(large)).url, window=10)
    client.generous = False
    stream = client.streams[await client.request()]
    await client.wait(lambda: len(stream.body) == 10)
    client.raw(setting(4, 5))  # now the window is -5 (RFC 9113 section 6.9.2)
    await client.pong()
    go.set()
    client.grant(1, 5)
    await client.pong()
    assert len(stream.body) == 10
    client.grant(1, 3)
    await client.wait(lambda: len(stream.body) == 13)
    client.raw(setting(4, 100))
    await client.wait(lambda: stream.ended)
    assert len(stream.body) == 20


@pytest.mark.parametrize("code", [0xFE, 0xFFFFFFFF])
async def test_an_unknown_error_code_is_no_special_one(code: int, start: Start, h2: Connect) -> None:
    client = await h2((await start(app)).url)
    await bring_to("half-closed", client)
    client.reset(1, code)
    assert (await client.response(await _ask(client))).complete
    client.raw(frame(7, 0, 0, bytes(4) + code.to_bytes(4, "big")))
    await client.wait(lambda: client.over, "the end of a connection that has nothing left to do")
