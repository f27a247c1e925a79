"""Responses over HTTP/2: what is sent, and how it ends."""

from __future__ import annotations

import asyncio
import time

import pytest

from streamproxy.errors import ClientLeft, ExchangeAborted
from tests.doubles.until import until
from tests.unit.server.harness import Receive, Scope, Send, body_message, hello, start_message
from tests.unit.server.http2.conftest import Connect, Start, connection_of

MEGABYTE = b"x" * 1_000_000
SSE = (b"content-type", b"text/event-stream")


async def test_a_field_that_never_repeats_takes_no_place_among_those_that_do(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, (b"X-Request-Id", scope["raw_path"]), (b"x-same", b"1")))
        await send(body_message(b"ok"))

    client = await h2((await start(app)).url)
    for path in ("/1", "/2"):
        answer = await client.response(await client.request("GET", path))
        assert (answer.get("x-request-id"), answer.get("x-same")) == (path.encode(), b"1")
    remembered = [name for name, _ in client.decoder.header_table.dynamic_entries]
    assert (remembered.count(b"x-request-id"), remembered.count(b"x-same")) == (0, 1)


async def test_an_early_answer_is_whole_and_then_reset_without_an_error(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(413))
        await send(body_message(b"too large"))

    client = await h2((await start(app)).url)
    stream = await client.request("POST", "/", body=b"x" * 1000, end=False)
    answer = await client.response(stream)
    await client.wait(lambda: answer.reset is not None, "RST_STREAM")
    assert (answer.status, bytes(answer.body), answer.ended, answer.reset) == (413, b"too large", True, 0)
    assert answer.order == ["Headers", "Data", "RstStream"]
    assert (await client.response(await client.request("GET", "/next"))).complete


@pytest.mark.parametrize("end_alone", [False, True])
async def test_an_early_answer_waits_for_the_client_to_take_it(end_alone: bool, start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200))
        await send(body_message(b"x" * 100, more=end_alone))
        if end_alone:
            await send(body_message())

    client = await h2((await start(app)).url, window=100 if end_alone else 50)
    client.generous = False
    stream = await client.request("POST", "/", body=b"x", end=False)
    answer = client.streams[stream]
    await client.wait(lambda: len(answer.body) >= 50, "what the window takes")
    await client.pong()
    assert (answer.ended, answer.reset) == (False, None)
    client.grant(stream, 100)
    await client.wait(lambda: answer.reset is not None, "RST_STREAM")
    assert (len(answer.body), answer.ended, answer.reset) == (100, True, 0)


async def test_a_stream_whose_last_frame_is_ours_is_over_without_a_word_of_the_client(
    start: Start, h2: Connect
) -> None:
    """What the session tells when it sends is heard then: no later read has to bring it."""
    server = await start(hello)
    client = await h2(server.url)
    await client.pong()
    client.generous = False  # not even a window comes back
    assert (await client.response(await client.request())).complete
    await until(lambda: not server.connection._streams, "the stream to be gone")


async def test_an_unfinished_response_is_reset_behind_what_was_sent(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, SSE))
        await send(body_message(b"data: 1\n\n", more=True))
        await send(body_message(b"event: error\ndata: {}\n\n", more=True))
        raise ExchangeAborted

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert bytes(answer.body) == b"data: 1\n\nevent: error\ndata: {}\n\n"
    assert (answer.ended, answer.reset) == (False, 2)


async def test_a_reset_waits_for_what_was_queued_before_it(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, SSE))
        await send(body_message(b"x" * 30, more=True))
        raise ExchangeAborted

    client = await h2((await start(app)).url, window=10)
    client.generous = False
    stream = await client.request()
    await client.wait(lambda: len(client.streams[stream].body) == 10)
    await client.pong()
    assert client.streams[stream].reset is None
    client.grant(stream, 100)
    answer = await client.response(stream)
    assert (len(answer.body), answer.ended, answer.reset) == (30, False, 2)


async def test_a_reset_does_not_wait_for_ever(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, SSE))
        await send(body_message(b"x" * 30, more=True))
        raise ExchangeAborted

    client = await h2((await start(app, linger=0.05)).url, window=10)
    client.generous = False
    answer = await client.response(await client.request())
    assert (len(answer.body), answer.ended, answer.reset) == (10, False, 2)


@pytest.mark.parametrize("begun", [False, True])
async def test_an_application_that_fails_leaves_nothing_that_looks_finished(
    begun: bool, start: Start, h2: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begun:
            await send(start_message(200))
        raise ValueError("broken")

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (answer.reset, answer.ended) == ((2, False) if begun else (None, True))
    assert answer.status == (200 if begun else 500)
    assert "the application failed" in caplog.text


async def test_a_body_unlike_its_length_is_a_fault(start: Start, h2: Connect, caplog: pytest.LogCaptureFixture) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, (b"content-length", b"5")))
        await send(body_message(b"abc"))

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (answer.ended, answer.reset) == (False, 2)


@pytest.mark.parametrize(("method", "status"), [("HEAD", 200), ("GET", 204), ("GET", 304)])
async def test_responses_without_a_body_end_with_their_head(
    method: str, status: int, start: Start, h2: Connect
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(status, (b"content-length", b"7"), (b"x-a", b"1")))
        await send(body_message(b"dropped"))

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request(method))
    assert answer.order == ["Headers"]
    assert answer.status == status
    assert answer.get("content-length") == (None if status == 204 else b"7")
    assert answer.get("x-a") == b"1"


async def test_fields_of_the_connection_are_left_out_and_the_rest_is_kept(start: Start, h2: Connect) -> None:
    fields = [(b"Set-Cookie", b"a"), (b"Connection", b"close"), (b"set-cookie", b"b"), (b"Keep-Alive", b"1")]

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(299, *fields, (b"Transfer-Encoding", b"chunked"), (b"Upgrade", b"h2c")))
        await send(body_message())

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert answer.head == [(b":status", b"299"), (b"set-cookie", b"a"), (b"set-cookie", b"b")]


@pytest.mark.parametrize("field", [(b"x a", b"1"), (b"x-a", b"1\r\nx-b: 2"), (b"x-a", b"\x00"), (b":status", b"200")])
async def test_a_field_that_is_not_valid_is_a_fault(
    field: tuple[bytes, bytes], start: Start, h2: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send(start_message(200, field))

    client = await h2((await start(app)).url)
    assert (await client.response(await client.request())).status == 500


async def test_trailers_and_interim_responses_pass(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        assert down.takes_trailers
        down.informational(103, [(b"link", b"</a>")])
        down.begin(200, [])
        down.push(b"body", b"")
        down.finish([(b"grpc-status", b"0"), (b"connection", b"x")])

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert answer.interim == [[(b":status", b"103"), (b"link", b"</a>")]]
    assert (answer.status, bytes(answer.body), answer.trailers) == (200, b"body", [(b"grpc-status", b"0")])
    assert answer.ended


async def test_a_head_that_waits_for_its_body_goes_out_when_it_is_uncorked(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [], True)
        down.uncork()
        await seen.wait()
        down.push(b"a", b"")
        down.uncork()
        down.write(b"b", False)

    seen = asyncio.Event()
    client = await h2((await start(app)).url)
    stream = await client.request()
    assert (await client.started(stream)).status == 200
    seen.set()
    assert bytes((await client.response(stream)).body) == b"ab"


async def test_a_failure_behind_a_head_does_not_keep_it(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        connection_of(scope).begin(200, [], True)
        raise ExchangeAborted("test")

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (answer.status, answer.ended) == (200, False)


async def test_trailers_by_plain_asgi(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.early_hint", "links": [b"</a>"]})
        await send(start_message(200) | {"trailers": True})
        await send(body_message(b"body"))
        await send({"type": "http.response.trailers", "headers": [(b"x-t", b"1")]})

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (bytes(answer.body), answer.trailers) == (b"body", [(b"x-t", b"1")])
    assert answer.interim[0][0] == (b":status", b"103")


async def test_trailers_without_a_body(start: Start, h2: Connect) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [(b"content-type", b"application/grpc")])
        down.finish([(b"grpc-status", b"5")])

    client = await h2((await start(app)).url)
    answer = await client.response(await client.request())
    assert (answer.trailers, answer.ended) == ([(b"grpc-status", b"5")], True)


@pytest.mark.parametrize("phase", ["before the head", "in the body", "held"])
async def test_a_reset_is_a_disconnect_at_once(phase: str, start: Start, h2: Connect) -> None:
    begun, left = asyncio.Event(), asyncio.Event()
    at: list[float] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)

        def gone() -> None:
            at.append(time.monotonic())
            left.set()

        down.on_disconnect = gone
        if phase != "before the head":
            down.begin(200, [])
            down.push(b"x", b"")
        if phase == "held":
            while down.push(b"x" * 8192, b""):
                pass
            begun.set()
            with pytest.raises(ClientLeft):
                await down.drained()
        begun.set()
        await left.wait()
        assert (await receive())["type"] == "http.disconnect"
        with pytest.raises(ClientLeft):
            await send(start_message(200) if phase == "before the head" else body_message(b"x"))

    client = await h2((await start(app)).url)
    client.generous = False
    stream = await client.request()
    await begun.wait()
    sent = time.monotonic()
    client.reset(stream)
    await left.wait()
    assert at[0] - sent < 0.1
    await client.pong()
    assert not client.goaways


async def test_a_client_that_goes_away_has_left_every_stream(start: Start, h2: Connect) -> None:
    begun, left = asyncio.Semaphore(0), asyncio.Semaphore(0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.release()
        while (await receive())["type"] != "http.disconnect":
            pass
        left.release()

    client = await h2((await start(app)).url)
    for _ in range(20):
        await client.request()
    for _ in range(20):
        await begun.acquire()
    client.connection.close()
    for _ in range(20):
        await left.acquire()


async def test_all_who_wait_for_a_stream_to_drain_are_told(start: Start, h2: Connect) -> None:
    waiting = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        down = connection_of(scope)
        down.begin(200, [])
        while down.push(b"x" * 8192, b""):
            pass
        drains = [asyncio.ensure_future(down.drained()) for _ in range(2)]
        asyncio.get_running_loop().call_soon(waiting.set)
        await asyncio.gather(*drains)
        down.write(b"end", False)

    client = await h2((await start(app)).url, window=0)
    stream = await client.request()
    await waiting.wait()
    client.grant(stream, 1 << 20)
    client.grant(0, 1 << 20)
    answer = await client.response(stream)
    assert (answer.body[-3:], answer.ended) == (b"end", True)
