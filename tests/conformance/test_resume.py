"""Streams that clients come back to: each event once, to its owner only, and never a second request upstream."""

from __future__ import annotations

import asyncio
import time

import pytest

from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.connection import PeerEnded
from tests.doubles.stack import Config, route
from tests.doubles.until import soon, until
from tests.doubles.upstream import Conn, Script, answering, response, stream_head, streaming

KEY = [("Authorization", "Bearer abc")]


def event(number: int) -> bytes:
    return b"data: %d\n\n" % number


def resumable(upstream: str, **resume: object) -> Config:
    return route(upstream, resume={"ids": "off", **resume}, keepalive="off")


def in_turns(*chunks: bytes, end: bool = True) -> Script:
    """Sends each chunk when its test lets it: `conn.go.set()`."""

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        for chunk in chunks:
            await conn.stall()
            conn.go.clear()
            await conn.send_chunk(chunk)
        if end:
            await conn.stall()
            await conn.send_chunk(b"")
        else:
            await conn.stall()

    return script


def cursor(value: bytes | None, events: int) -> tuple[str, str]:
    """The field with a cursor so many events behind another one."""
    assert value is not None
    stream, _, number = value.decode().partition("/")
    return "Last-Event-ID", f"{stream}/{int(number) + events}"


async def test_a_client_that_was_cut_gets_the_rest_and_the_upstream_is_asked_once(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1), event(2), event(3)))
    proxy = await stack([resumable(upstream.url) | {"methods": ["POST"]}])
    first = await dial(proxy.url)
    await first.request("/v1", method="POST", headers=KEY, body=b"{}")
    head = await first.read_head()
    assert head.get("x-stream-cursor") is not None
    conn = upstream.connections[0]
    conn.go.set()
    assert await first.read_body_until(b"\n\n") == event(1)
    first.reset()
    conn.go.set()
    await until(lambda: not conn.go.is_set(), "the upstream to go on")
    second = await dial(proxy.url)
    await second.request("/v1", headers=[*KEY, cursor(head.get("x-stream-cursor"), 1)])  # GET, on a POST route
    again = await second.read_head()
    assert again.status == 200
    assert again.get("content-type") == b"text/event-stream"
    assert again.get("x-stream-cursor") == cursor(head.get("x-stream-cursor"), 1)[1].encode()
    assert await second.read_body_until(b"\n\n") == event(2)
    conn.go.set()
    assert await second.read_body_until(b"\n\n") == event(3)
    conn.go.set()
    answer = await second.read_rest()
    assert answer.complete
    assert len(upstream.requests) == 1


async def test_a_finished_stream_is_replayed_and_204_when_nothing_is_left(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(event(1) + b": note\n\n", event(2)))
    proxy = await stack([resumable(upstream.url)])
    client = await dial(proxy.url)
    first = await client.get("/", headers=KEY)
    begin = first.get("x-stream-cursor")
    for events, rest in enumerate((first.body, b": note\n\n" + event(2))):
        answer = await client.get("/", headers=[*KEY, cursor(begin, events)])
        assert (answer.status, answer.body, answer.complete) == (200, rest, True)
    name, value = cursor(begin, 1)
    answer = await client.get(f"/?a=b&last_event_id={value.replace('/', '%2F')}", headers=KEY)
    assert answer.body == b": note\n\n" + event(2)
    assert (await client.get("/", headers=[*KEY, cursor(begin, 2)])).status == 204
    assert len(upstream.requests) == 1
    assert name == "Last-Event-ID"
    assert proxy.metric("streamproxy_resumed_total", route="r0", result="replayed") == 3
    assert proxy.metric("streamproxy_resumed_total", route="r0", result="complete") == 1
    assert begin is not None
    assert {exchange.stream for exchange in proxy.ended} == {begin[:-2].decode()}


async def test_somebody_elses_cursor_reads_no_byte_and_a_foreign_id_goes_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(event(1)))
    proxy = await stack([resumable(upstream.url)])
    client = await dial(proxy.url)
    begin = (await client.get("/", headers=KEY)).get("x-stream-cursor")
    other = await client.get("/", headers=[("Authorization", "Bearer abd"), cursor(begin, 0)])
    nobody = await client.get("/", headers=[*KEY, ("Last-Event-ID", "A" * 24 + "/0")])
    assert other.status == nobody.status == 404
    assert b"data:" not in other.body
    assert len(upstream.requests) == 1
    assert (await client.get("/", headers=[*KEY, ("Last-Event-ID", "42")])).status == 200
    assert upstream.requests[1].get("last-event-id") == b"42"


TOKENS = {"bearer": {"tokens": [{"name": "abc", "token": "abc"}, {"name": "abd", "token": "abd"}]}}


@pytest.mark.parametrize(
    "keys", [{}, {"auth": TOKENS}, {"share": {"linger": "1s"}}, {"auth": TOKENS, "share": {"linger": "1s"}}]
)
async def test_nobody_elses_cursor_reads_or_stops_a_stream_whether_it_runs_or_has_ended(
    stack: StartStack, serve: Serve, dial: Connect, keys: Config
) -> None:
    upstream = await serve(in_turns(event(1), event(2)))
    proxy = await stack([resumable(upstream.url) | keys])
    owner = await dial(proxy.url)
    await owner.request("/", headers=KEY)
    conn = await upstream.connection()
    conn.go.set()
    begin = (await owner.read_head()).get("x-stream-cursor")
    await owner.read_body_until(event(1))
    name, value = cursor(begin, 0)

    async def others_get_nothing() -> None:
        for headers in ([("Authorization", "Bearer abd")], []):
            # Without a token a route with `auth` answers 401 before anything else.
            expected = 401 if "auth" in keys and not headers else 404
            for method in ("GET", "POST", "DELETE"):
                client = await dial(proxy.url)
                for target, cursors in (("/", [(name, value)]), (f"/?last_event_id={value}", [])):
                    await client.request(target, method=method, headers=[*headers, *cursors])
                    answer = await client.read_response()
                    assert answer.status == expected
                    assert b"data:" not in answer.body

    await others_get_nothing()
    conn.go.set()
    assert await owner.read_body_until(event(2)) == event(2)  # nobody has stopped it
    conn.go.set()
    assert (await owner.read_rest()).complete
    await others_get_nothing()
    assert (await (await dial(proxy.url)).get("/", headers=[*KEY, (name, value)])).body == event(1) + event(2)
    assert len(upstream.requests) == 1


async def test_a_stream_has_so_many_readers_and_no_more(
    stack: StartStack, serve: Serve, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamproxy.store.base.READERS", 2)
    upstream = await serve(in_turns(event(1)))
    proxy = await stack([resumable(upstream.url)])
    first, second, third = [await dial(proxy.url) for _ in range(3)]
    await first.request("/", headers=KEY)
    begin = (await first.read_head()).get("x-stream-cursor")
    await second.request("/", headers=[*KEY, cursor(begin, 0)])
    assert (await second.read_head()).status == 200
    refused = await third.get("/", headers=[*KEY, cursor(begin, 0)])
    assert (refused.status, refused.get("retry-after")) == (503, b"5")
    second.reset()

    async def let_in() -> bool:
        client = await dial(proxy.url)
        await client.request("/", headers=[*KEY, cursor(begin, 0)])
        head = await client.read_head()
        client.reset()
        return head.status == 200

    await until(let_in, "the place to be free again")


async def test_a_place_that_is_gone_is_410_and_asks_nothing_of_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(*(b"data: %0100d\n\n" % number for number in range(100))))
    proxy = await stack([resumable(upstream.url, max_bytes=2048)])
    client = await dial(proxy.url)
    first = await client.get("/", headers=KEY)
    assert first.body.count(b"data:") == 100
    gone = await client.get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), 10)])
    assert gone.status == 410
    assert gone.get("proxy-status") == b"streamproxy; error=stream_gone"
    assert len(upstream.requests) == 1


async def test_the_owner_stops_a_stream_and_the_upstream_sees_it_at_once(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1)))
    proxy = await stack([resumable(upstream.url)])

    async def stopping() -> float:
        exchanges = len(proxy.ended)
        first, second = await dial(proxy.url), await dial(proxy.url)
        await first.request("/", headers=KEY)
        begin = (await first.read_head()).get("x-stream-cursor")
        await second.request("/", method="DELETE", headers=[("Authorization", "other"), cursor(begin, 0)])
        assert (await second.read_response()).status == 404
        began = time.monotonic()
        await second.request("/", method="DELETE", headers=[*KEY, cursor(begin, 0)])
        assert (await second.read_response("DELETE")).status == 204
        ended = await upstream.connections[-1].wait_ended()
        with pytest.raises(PeerEnded):
            await first.read_body_until(b"\n\n")
        assert (await proxy.end_of(exchanges + 2)).end == "cancelled"
        return ended.at - began

    await soon(stopping, within=0.1)


async def test_without_a_client_the_upstream_is_read_on_for_grace_and_then_cancelled(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1), event(2)))
    proxy = await stack([resumable(upstream.url, grace="300ms")])
    first = await dial(proxy.url)
    await first.request("/", headers=KEY)
    begin = (await first.read_head()).get("x-stream-cursor")
    left = time.monotonic()
    first.reset()
    conn = upstream.connections[0]
    conn.go.set()  # it goes on without a client
    second = await dial(proxy.url)
    await second.request("/", headers=[*KEY, cursor(begin, 0)])
    await second.read_head()
    assert await second.read_body_until(b"\n\n") == event(1)
    other = await dial(proxy.url)
    await other.request("/", headers=KEY)
    await other.read_head()
    other.reset()
    await upstream.connections[1].wait_ended()  # a later one without a client is given up, this one is not
    assert conn.ended is None
    left = time.monotonic()
    second.reset()
    assert 0.2 < (await conn.wait_ended()).at - left < 5


async def test_a_client_that_leaves_before_the_head_cancels_the_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()

    upstream = await serve(script)
    proxy = await stack([resumable(upstream.url)])
    client = await dial(proxy.url)
    await client.request("/", headers=KEY)
    await until(lambda: upstream.requests, "the request upstream")
    client.reset()
    await asyncio.wait_for(upstream.connections[0].wait_ended(), 20)


async def test_several_clients_read_one_stream_at_once_and_a_slow_one_holds_nobody(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    big = b"data: " + b"x" * 50_000 + b"\n\n"

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.stall()
        for _ in range(60):
            await conn.send_chunk(big)
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack([resumable(upstream.url)])
    slow = await dial(proxy.url, receive_buffer=4096)
    await slow.request("/", headers=KEY)
    begin = (await slow.read_head()).get("x-stream-cursor")
    slow.stop_reading()
    quick = await dial(proxy.url)
    await quick.request("/", headers=[*KEY, cursor(begin, 0)])
    await quick.read_head()
    upstream.connections[0].go.set()
    answer = await quick.read_rest()
    assert answer.complete
    assert answer.body == big * 60
    slow.go_on_reading()
    answer = await slow.read_rest()
    assert answer.complete
    assert answer.body == big * 60


async def test_a_stream_that_its_upstream_cut_is_cut_for_those_who_come_back(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.send_chunk(event(1) + b"data: 2")
        conn.close()

    upstream = await serve(script)
    proxy = await stack([resumable(upstream.url)])
    client = await dial(proxy.url)
    await client.request("/", headers=KEY)
    begin = (await client.read_head()).get("x-stream-cursor")
    with pytest.raises(PeerEnded):
        await client.read_body_until(b"never")
    again = await dial(proxy.url)
    await again.request("/", headers=[*KEY, cursor(begin, 1)])
    assert (await again.read_head()).status == 200
    with pytest.raises(PeerEnded):
        await again.read_body_until(b"never")
    assert bytes(again.decoded).endswith(b"data: 2")


async def test_ids_are_written_where_they_are_on(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b"data: 1\n", b"\ndata: 2\n\n"))
    proxy = await stack([resumable(upstream.url, ids="auto")])
    client = await dial(proxy.url)
    first = await client.get("/", headers=KEY)
    begin = first.get("x-stream-cursor")
    assert begin is not None
    stream = begin[:-2]
    assert first.body == b"data: 1\nid: %b/1\n\ndata: 2\nid: %b/2\n\n" % (stream, stream)
    second = await client.get("/", headers=[*KEY, cursor(begin, 1)])
    assert second.body == b"data: 2\nid: %b/2\n\n" % stream


async def test_lines_are_taken_up_again_too(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b'{"n":1}\n{"n"', b':2}\n{"n":3}', content_type="application/x-ndjson"))
    proxy = await stack([resumable(upstream.url)])
    client = await dial(proxy.url)
    first = await client.get("/", headers=KEY)
    second = await client.get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), 1)])
    assert second.body == b'{"n":2}\n{"n":3}'
    assert (await client.get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), 3)])).status == 204


async def test_what_is_no_stream_is_not_kept(stack: StartStack, serve: Serve, dial: Connect) -> None:
    sse = ("Content-Type", "text/event-stream")
    upstream = await serve(
        answering(
            response(b"{}", headers=[("Content-Type", "application/json")]),
            response(b"data: 1\n\n", status="201 Created", headers=[sse]),
            response(b"data: 1\n\n", headers=[sse, ("Content-Encoding", "br")]),
        )
    )
    proxy = await stack([resumable(upstream.url)])
    client = await dial(proxy.url)
    for _ in range(3):
        assert (await client.get("/")).get("x-stream-cursor") is None


async def test_a_cursor_is_good_after_a_reload(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(event(1), event(2)))
    proxy = await stack([resumable(upstream.url)])
    client = await dial(proxy.url)
    first = await client.get("/", headers=KEY)
    config = proxy.app.deployment.config
    changed = config.routes[0].resume
    assert changed is not None
    longer = config.routes[0].model_copy(update={"resume": changed.model_copy(update={"window": 600.0})})
    await proxy.app.adopt(config.model_copy(update={"routes": (longer,)}))
    second = await client.get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), 1)])
    assert second.body == event(2)


async def test_a_stream_without_a_client_holds_its_place_and_none_of_its_clients_own(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1)))
    limits = {"max_streams": 2, "max_streams_per_client": 1}
    proxy = await stack([resumable(upstream.url) | {"limits": limits}])
    places = next(iter(proxy.app.deployment.admissions.values())).places
    for held in (1, 2):
        client = await dial(proxy.url)
        await client.request("/", headers=KEY)
        assert (await client.read_head()).status == 200
        client.reset()
        await until(lambda: not places.clients, "the client to have none")
        assert places.held == held
    client = await dial(proxy.url)
    assert (await client.get("/", headers=KEY)).status == 503  # of both, not 429 of the client


async def test_a_replay_takes_no_place_and_is_measured_as_no_stream_of_its_own(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(in_turns(event(1)))
    limits = {"max_streams": 1, "max_streams_per_client": 1, "requests": {"rate": "1/1h"}}
    proxy = await stack([resumable(upstream.url) | {"limits": limits}])
    first, second = await dial(proxy.url), await dial(proxy.url)
    await first.request("/", headers=KEY)
    begin = (await first.read_head()).get("x-stream-cursor")
    upstream.connections[0].go.set()
    await first.read_body_until(b"\n\n")
    await second.request("/", headers=[*KEY, cursor(begin, 0)])
    assert (await second.read_head()).status == 200
    assert await second.read_body_until(b"\n\n") == event(1)
    second.reset()
    await proxy.end_of()
    upstream.connections[0].go.set()
    assert (await first.read_rest()).complete
    await proxy.end_of(1)
    assert proxy.metric("streamproxy_stream_duration_seconds_count") == 1
    assert proxy.metric("streamproxy_events_total") == 1
    assert proxy.metric("streamproxy_requests_total", route="r0") == 2


async def test_a_page_of_an_allowed_origin_may_read_the_cursor(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(event(1)))
    for cors in ({"origins": ["https://app.example"], "credentials": "on"}, {"origins": ["*"]}):
        proxy = await stack([resumable(upstream.url) | {"cors": cors, "methods": ["POST"]}])
        client = await dial(proxy.url)
        origin = ("Origin", "https://app.example")
        await client.request("/", method="POST", body=b"{}", headers=[*KEY, origin])
        answer = await client.read_response()
        exposed = answer.get("access-control-expose-headers") or b""
        assert exposed == b"*" or b"x-stream-cursor" in exposed.split(b", ")
        for method in ("GET", "DELETE"):
            asks = [("Access-Control-Request-Method", method), ("Access-Control-Request-Headers", "last-event-id")]
            await client.request("/", method="OPTIONS", headers=[origin, *asks])
            preflight = await client.read_response()
            assert preflight.get("access-control-allow-methods") == method.encode()
            assert preflight.get("access-control-allow-headers") == b"last-event-id"


async def test_the_first_client_that_takes_nothing_ends_alone(stack: StartStack, serve: Serve, dial: Connect) -> None:
    if stack.server != "uvicorn":
        pytest.skip("a stock server can't be told to cut a client")
    big = b"data: " + b"x" * 50_000 + b"\n\n"

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        await conn.stall()
        for _ in range(100):
            await conn.send_chunk(big)
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await stack([resumable(upstream.url, max_bytes="16MiB") | {"timeouts": {"write": "200ms"}}])
    slow = await dial(proxy.url, receive_buffer=4096)
    await slow.request("/", headers=KEY)
    begin = (await slow.read_head()).get("x-stream-cursor")
    slow.stop_reading()
    upstream.connections[0].go.set()
    await proxy.end_of()  # its client was cut, and the stream was read on to its end
    slow.go_on_reading()
    with pytest.raises(PeerEnded):
        await slow.read_body_until(b"never")
    quick = await dial(proxy.url)
    answer = await quick.get("/", headers=[*KEY, cursor(begin, 0)])
    assert answer.complete
    assert answer.body == big * 100


async def test_a_reload_in_the_middle_of_a_stream_cuts_nobody(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(in_turns(event(1), event(2)))
    proxy = await stack([resumable(upstream.url)])
    first = await dial(proxy.url)
    await first.request("/", headers=KEY)
    begin = (await first.read_head()).get("x-stream-cursor")
    conn = upstream.connections[0]
    conn.go.set()
    await first.read_body_until(b"\n\n")
    config = proxy.app.deployment.config
    await proxy.app.adopt(config.model_copy(update={"routes": (config.routes[0].model_copy(update={"buffer": 1000}),)}))
    second = await dial(proxy.url)
    await second.request("/", headers=[*KEY, cursor(begin, 0)])
    assert (await second.read_head()).status == 200
    conn.go.set()
    for client, rest in ((first, event(2)), (second, event(1) + event(2))):
        assert await client.read_body_until(b"2\n\n") == rest
    conn.go.set()
    for client in (first, second):
        assert (await client.read_rest()).complete


def chat(*chunks: bytes) -> list[bytes]:
    """The events of a chat stream, with its usage in the last."""
    usage = b'{"object":"chat.completion.chunk","choices":[],"usage":{"prompt_tokens":60,"completion_tokens":50}}'
    text = b'{"object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":"x"}}]}'
    return [b"data: " + line + b"\n\n" for line in (text, usage, *chunks)]


async def test_a_replay_is_charged_and_measured_as_no_stream_of_its_own(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(*chat(b"[DONE]")))
    limits = {"tokens": {"rate": "300/1h"}}
    proxy = await stack([resumable(upstream.url) | {"protocol": "openai", "limits": limits}])
    client = await dial(proxy.url)
    first = await client.get("/", headers=KEY)
    for number in range(3):
        again = await client.get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), 0)])
        assert (again.status, again.body, again.complete) == (200, first.body, True)
        assert (await proxy.end_of(number + 1)).usage is None
    assert proxy.metric("gen_ai_client_token_usage_sum", gen_ai_token_type="input") == 60
    assert proxy.metric("gen_ai_client_operation_duration_seconds_count") == 1
    assert (await client.get("/", headers=KEY)).status == 200  # 110 of 300 tokens are used


async def test_a_stream_that_lacks_its_end_marker_is_cut_for_whoever_comes_back(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(*chat()))
    proxy = await stack([resumable(upstream.url) | {"protocol": "openai"}])
    first = await (await dial(proxy.url)).get("/", headers=KEY)
    assert (first.body, first.complete) == (b"".join(chat()), False)
    for events in range(3):
        client = await dial(proxy.url)
        again = await client.get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), events)])
        assert (again.status, again.body, again.complete) == (200, b"".join(chat()[events:]), False)


@pytest.mark.parametrize("keys", [{}, {"resume": {"ids": "on"}}, {"resume": "off", "share": {"linger": "1s"}}])
async def test_a_stream_with_a_length_is_whole_without_its_end_marker(
    stack: StartStack, serve: Serve, dial: Connect, keys: Config
) -> None:
    body = b"".join(chat())
    upstream = await serve(answering(response(body, headers=[("Content-Type", "text/event-stream")])))
    proxy = await stack([resumable(upstream.url) | {"protocol": "openai"} | keys])
    answer = await (await dial(proxy.url)).get("/", headers=KEY)
    assert answer.complete
    assert answer.body.count(b"data:") == len(chat())
    await until(lambda: proxy.ended, "its end")
    assert {exchange.end for exchange in proxy.ended} == {"complete"}


async def test_a_failure_inside_a_stream_is_counted_once_however_often_it_is_replayed(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(*chat(b'{"error":{"message":"boom","code":500}}', b"[DONE]")))
    proxy = await stack([resumable(upstream.url) | {"protocol": "openai"}])
    client = await dial(proxy.url)
    first = await client.get("/", headers=KEY)
    again = await client.get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), 0)])
    assert again.body == first.body
    await proxy.end_of(1)
    assert proxy.metric("streamproxy_error_events_total") == 1


async def test_a_cursor_needs_no_model_and_finds_the_route_that_keeps_its_stream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(*chat(b"[DONE]")))
    keys = {"protocol": "openai", "methods": ["POST"]}
    proxy = await stack(
        [resumable(upstream.url) | keys | {"models": [model], "path": "/v1/*"} for model in ("llama-*", "gpt-*")]
    )
    client = await dial(proxy.url)
    for number, model in enumerate(("gpt-4o", "llama-3")):
        body = b'{"model":"%b","stream":true}' % model.encode()
        await client.request("/v1/chat/completions", method="POST", headers=KEY, body=body)
        begin = (await client.read_response("POST")).get("x-stream-cursor")
        again = await client.get("/v1/chat/completions", headers=[*KEY, cursor(begin, 1)])
        assert (again.status, again.body) == (200, b"".join(chat(b"[DONE]")[1:]))
        assert (await proxy.end_of(3 * number + 1)).route == ("r1" if model == "gpt-4o" else "r0")
        stranger = await client.get("/v1/chat/completions", headers=[cursor(begin, 1)])
        assert stranger.status == 404
        assert b"model" not in stranger.body
    assert len(upstream.requests) == 2


@pytest.mark.parametrize("extra", [{}, {"share": {}}], ids=["alone", "shared"])
async def test_a_head_that_is_sent_early_names_the_stream(
    stack: StartStack, serve: Serve, dial: Connect, extra: Config
) -> None:
    async def late(conn: Conn) -> None:
        await conn.read_request()
        await conn.stall()
        await conn.send(stream_head())
        await conn.send_chunk(event(1))
        await conn.send_chunk(b"")

    upstream = await serve(late)
    early = {"interval": "50ms", "before_headers": "50ms"}
    proxy = await stack([resumable(upstream.url) | {"keepalive": early, **extra}])
    first = await dial(proxy.url)
    await first.request("/v1", headers=[*KEY, ("Accept", "text/event-stream")])
    head = await first.read_head()
    assert (head.get("x-stream-cursor") or b"").endswith(b"/0")
    await first.read_body_until(b": keepalive\n\n")
    upstream.connections[0].go.set()
    assert (await first.read_body_until(event(1))).endswith(event(1))
    second = await dial(proxy.url)
    await second.request("/v1", headers=[*KEY, cursor(head.get("x-stream-cursor"), 0)])
    assert (await second.read_head()).status == 200
    assert await second.read_body_until(event(1)) == event(1)
    assert len(upstream.connections) == 1


async def test_a_place_that_is_waited_for_gets_its_status_and_no_early_head(
    stack: StartStack, serve: Serve, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamproxy.store.memory.PATIENCE", 0.2)
    upstream = await serve(in_turns(event(1), event(2)))
    early = {"interval": "10ms", "before_headers": "10ms"}
    proxy = await stack([resumable(upstream.url) | {"keepalive": early}])
    first = await dial(proxy.url)
    await first.request("/v1", headers=KEY)
    begin = (await first.read_head()).get("x-stream-cursor")
    client = await dial(proxy.url)
    gone = await client.get("/v1", headers=[*KEY, cursor(begin, 9), ("Accept", "text/event-stream")])
    assert gone.status == 410


async def test_a_stream_is_cut_at_its_last_event_for_whoever_comes_back(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(streaming(*(event(number) for number in range(6))))
    proxy = await stack([resumable(upstream.url) | {"limits": {"max_events": 3}}])
    first = await (await dial(proxy.url)).get("/", headers=KEY)
    assert (first.body, first.complete) == (event(0) + event(1) + event(2), False)
    for events in (1, 3):
        again = await (await dial(proxy.url)).get("/", headers=[*KEY, cursor(first.get("x-stream-cursor"), events)])
        assert (again.body, again.complete) == (b"".join(event(number) for number in range(events, 3)), False)
    assert (await proxy.end_of(0)).error.end == "rejected"
    assert proxy.metric("streamproxy_throttled_total", route="r0", limit="events") == 1
