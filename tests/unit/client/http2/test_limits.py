"""How many streams an upstream takes, and what becomes of those that it does not take."""

from __future__ import annotations

import pytest
from hyperframe.frame import GoAwayFrame, RstStreamFrame, SettingsFrame

from streamproxy.client.http2 import Http2Client
from streamproxy.errors import ConnectionTerminated, LimitReached
from tests.conftest import Serve
from tests.doubles.until import until
from tests.unit.client.http2.conftest import OK, Frames, MakeClient, speaking
from tests.unit.client.http2.test_streams import _HOST, fetch


async def test_streams_over_the_peer_s_limit_get_another_connection(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        while True:
            stream, _ = await up.request()
            await up.send(up.head(stream, OK))

    upstream = await serve(speaking(script, MAX_CONCURRENT_STREAMS=2))
    client = http2(upstream.url)
    streams = [client.stream("GET", upstream.url, headers=_HOST) for _ in range(5)]
    for stream in streams:
        await stream.__aenter__()
    assert len(upstream.connections) == 3
    for stream in streams:
        await stream.__aexit__(None, None, None)


async def test_a_stream_over_connections_max_waits_for_a_place(serve: Serve, http2: MakeClient) -> None:
    async def script(up: Frames) -> None:
        while True:
            stream, _ = await up.request()
            await up.send(up.head(stream, OK))

    upstream = await serve(speaking(script))
    client = http2(upstream.url, max_connections=1)
    async with client.stream("GET", upstream.url, headers=_HOST):
        with pytest.raises(LimitReached):
            await fetch(client, upstream.url, extensions={"timeout": {"pool": 0.02}})


@pytest.mark.parametrize("how", ["refused", "goaway"])
async def test_what_was_not_processed_is_sent_again_whatever_its_method(
    serve: Serve, http2: MakeClient, how: str
) -> None:
    async def refusing(up: Frames) -> None:
        stream, _ = await up.request()
        if how == "refused":
            await up.send(RstStreamFrame(stream, error_code=7))
            stream, _ = await up.request()
            await up.answer(stream, b"done")
        else:
            await up.send(GoAwayFrame(0, last_stream_id=0))

    async def taking(up: Frames) -> None:
        stream, _ = await up.request()
        await up.answer(stream, b"done")

    upstream = await serve([speaking(refusing), speaking(taking)])
    client = http2(upstream.url)
    assert await fetch(client, upstream.url, "POST", content=b"body") == b"done"


async def test_an_upstream_that_refuses_for_ever_is_not_asked_for_ever(serve: Serve, http2: MakeClient) -> None:
    asked: list[int] = []

    async def script(up: Frames) -> None:
        while True:
            stream, _ = await up.request()
            asked.append(stream)
            await up.send(RstStreamFrame(stream, error_code=7))

    upstream = await serve(speaking(script))
    with pytest.raises(ConnectionTerminated):
        await fetch(http2(upstream.url), upstream.url)
    assert len(asked) == 4


NONE = SettingsFrame(0, settings={SettingsFrame.MAX_CONCURRENT_STREAMS: 0})
SOME = SettingsFrame(0, settings={SettingsFrame.MAX_CONCURRENT_STREAMS: 10})


async def test_an_upstream_that_takes_no_streams_is_not_asked_for_ever(serve: Serve, http2: MakeClient) -> None:
    """A request may be on its way before the upstream has said so; it is refused, and sent again elsewhere."""

    async def script(up: Frames) -> None:
        while True:
            stream, _ = await up.request()
            await up.send(RstStreamFrame(stream, error_code=7))

    upstream = await serve(speaking(script, MAX_CONCURRENT_STREAMS=0))
    client = http2(upstream.url)
    with pytest.raises(ConnectionTerminated):
        await fetch(client, upstream.url)
    assert len(upstream.connections) <= 4
    assert client.idle == 0  # such a connection is of no use
    for conn in upstream.connections:
        await conn.wait_ended()


async def test_an_idle_connection_that_takes_no_more_streams_is_closed(serve: Serve, http2: MakeClient) -> None:
    async def first(up: Frames) -> None:
        stream, _ = await up.request()
        await up.answer(stream, b"first")
        await up.conn.stall()
        await up.send(NONE)

    async def second(up: Frames) -> None:
        stream, _ = await up.request()
        await up.answer(stream, b"second")

    upstream = await serve([speaking(first), speaking(second)])
    client = http2(upstream.url)
    assert await fetch(client, upstream.url) == b"first"
    await until(lambda: client.idle == 1, "the connection to be idle")
    upstream.connections[0].go.set()
    await upstream.connections[0].wait_ended()
    assert client.idle == 0
    assert await fetch(client, upstream.url, "POST", content=b"") == b"second"


@pytest.mark.parametrize("again", [False, True])
async def test_a_limit_that_falls_to_none_leaves_running_streams_alone(
    serve: Serve, http2: MakeClient, again: bool
) -> None:
    """And one that rises again makes room on the same connection."""

    async def first(up: Frames) -> None:
        stream, _ = await up.request()
        await up.send(up.head(stream, OK), NONE, *([SOME] if again else []))
        if again:
            beside, _ = await up.request()
            await up.answer(beside, b"beside")
        await up.conn.stall()

    async def second(up: Frames) -> None:
        stream, _ = await up.request()
        await up.answer(stream, b"beside")

    upstream = await serve([speaking(first), speaking(second)])
    client = http2(upstream.url)
    async with client.stream("GET", upstream.url, headers=_HOST):
        await until(lambda: shares(client) == again, "the limit to be heard of")
        assert await fetch(client, upstream.url) == b"beside"
    assert len(upstream.connections) == (1 if again else 2)


def shares(client: Http2Client) -> bool:
    """Whether a stream would join a connection that has some."""
    return bool(client.pool._shared)
