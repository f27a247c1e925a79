"""nginx in front with its default buffering, and nginx behind as an upstream."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.upstream import Conn, Upstream, answering, response, stream_head
from tests.integration.conftest import RunNginx, RunProxy
from tests.integration.proxy import configuration

EVENTS = [b"data: %d\n\n" % number for number in range(1, 6)]


async def one_event_at_a_time(conn: Conn) -> None:
    """Send each event when the test says that the client has the one before."""
    await conn.read_request()
    await conn.send(stream_head())
    for event in EVENTS:
        await conn.send_chunk(event)
        await conn.stall()
        conn.go.clear()
    await conn.send_chunk(b"")


async def receive_one_at_a_time(client: RawClient, upstream: Upstream) -> list[bytes]:
    """Let the upstream send an event only when the one before has come."""
    received = []
    for _ in EVENTS:
        received.append(await client.read_body_until(b"\n\n"))
        (await upstream.connection()).go.set()
    return received


def pass_to(url: str, *directives: str) -> str:
    return f"location / {{ proxy_pass {url}; {' '.join(directives)} }}"


@pytest.mark.parametrize("version", ["1.0", "1.1"])  # nginx speaks HTTP/1.0 to its upstreams unless told otherwise
async def test_nginx_in_front_with_default_buffering_delivers_each_event_at_once(
    run_proxy: RunProxy, run_nginx: RunNginx, serve: Serve, dial: Connect, version: str
) -> None:
    upstream = await serve(one_event_at_a_time)
    proxy = await run_proxy(configuration(upstream.url))
    front = await run_nginx(pass_to(proxy.url, f"proxy_http_version {version};"))
    client = await dial(front.url)
    await client.request("/events", headers=[("Accept", "text/event-stream")])
    head = await client.read_head()
    assert head.status == 200
    assert await receive_one_at_a_time(client, upstream) == EVENTS
    assert (await client.read_rest()).complete


async def test_nginx_in_front_would_buffer_without_the_anti_buffering_headers(
    run_proxy: RunProxy, run_nginx: RunNginx, serve: Serve, dial: Connect
) -> None:
    upstream, quick = await serve(one_event_at_a_time), await serve(answering(response(b"quick")))
    routes = [
        {"path": "/quick", "upstream": quick.url},
        {"path": "/*", "upstream": upstream.url, "anti_buffering": False},
    ]
    proxy = await run_proxy(configuration(routes))
    front = await run_nginx(pass_to(proxy.url))
    client = await dial(front.url)
    await client.request("/events")
    await proxy.until_streams(
        "the proxy to relay the first event",
        lambda live: [stream["response_bytes"] for stream in live] == [len(EVENTS[0])],
    )
    for _ in range(3):  # nginx has one worker: by now it has read the event, and would have passed it on
        assert (await (await dial(front.url)).get("/quick")).body == b"quick"
    assert EVENTS[0] not in client.buffer


async def test_events_of_an_upstream_behind_nginx_come_through_one_by_one(
    run_proxy: RunProxy, run_nginx: RunNginx, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(one_event_at_a_time)
    behind = await run_nginx(pass_to(upstream.url, "proxy_buffering off;", "proxy_http_version 1.1;"))
    proxy = await run_proxy(configuration(behind.url))
    client = await dial(proxy.url)
    await client.request("/events")
    assert (await client.read_head()).get("x-accel-buffering") == b"no"
    assert await receive_one_at_a_time(client, upstream) == EVENTS
    assert (await client.read_rest()).complete


async def test_files_that_nginx_serves_arrive_whole_and_in_part(
    run_proxy: RunProxy, run_nginx: RunNginx, dial: Connect, tmp_path: Path
) -> None:
    content = b"".join(hashlib.sha256(b"%d" % number).digest() for number in range(200_000))
    (tmp_path / "file.bin").write_bytes(content)
    (tmp_path / "empty").write_bytes(b"")
    behind = await run_nginx(f"root {tmp_path};")
    proxy = await run_proxy(configuration(behind.url))
    client = await dial(proxy.url)

    whole = await client.get("/file.bin")
    assert (whole.status, whole.complete) == (200, True)
    assert whole.body == content
    tag = whole.get("etag")
    assert tag is not None

    part = await client.get("/file.bin", headers=[("Range", "bytes=1000-1999")])
    assert (part.status, part.body) == (206, content[1000:2000])
    assert part.get("content-range") == b"bytes 1000-1999/%d" % len(content)

    unchanged = await client.get("/file.bin", headers=[("If-None-Match", tag.decode())])
    assert (unchanged.status, unchanged.body, unchanged.complete) == (304, b"", True)

    await client.request("/file.bin", method="HEAD")
    head = await client.read_response("HEAD")
    assert head.get("content-length") == b"%d" % len(content)

    empty = await client.get("/empty")
    assert (empty.status, empty.body, empty.complete) == (200, b"", True)
    assert (await client.get("/none")).status == 404
