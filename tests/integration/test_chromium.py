"""Chromium's EventSource on a page that the proxy serves beside its events."""

from __future__ import annotations

from collections import deque

from tests.conftest import Serve
from tests.doubles.upstream import Conn, Upstream, response, stream_head
from tests.integration.browser import Browser
from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration

# `got(n)` resolves with the messages when there are n of them; `opened` and `failed` count the other events.
PAGE = b"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>events</title><script>
const messages = [], waiting = [];
let opened = 0, failed = 0;
const source = new EventSource("/events");
source.onopen = () => { opened += 1; };
source.onerror = () => { failed += 1; };
source.onmessage = message => {
    messages.push([message.lastEventId, message.data]);
    for (const look of waiting.splice(0)) look();
};
const got = count => new Promise(resolve => {
    const look = () => messages.length >= count ? resolve(messages) : waiting.push(look);
    look();
});
</script>"""


class Page:
    """Serves the page on ``/`` and, on ``/events``, hands each request to the next of the given streams."""

    def __init__(self, *streams: list[bytes | None]) -> None:
        self.streams = deque(streams)

    async def __call__(self, conn: Conn) -> None:
        while True:
            head, _ = await conn.read_request()
            if head.target == b"/events":
                return await self.stream(conn, self.streams.popleft() if self.streams else [None])
            await conn.send(response(PAGE, headers=[("Content-Type", "text/html")]))

    async def stream(self, conn: Conn, parts: list[bytes | None]) -> None:
        """Send these parts; None waits for the test. Then break the stream: no last chunk."""
        await conn.send(stream_head())
        for part in parts:
            if part is None:
                await conn.stall()
                conn.go.clear()
            else:
                await conn.send_chunk(part)
        conn.reset()


def let_go_on(upstream: Upstream) -> None:
    """Let the stream go on, on whichever connection it is."""
    for conn in upstream.connections:
        conn.go.set()


async def test_event_source_receives_each_event_before_the_next_is_sent(
    run_proxy: RunProxy, chromium: Browser, serve: Serve
) -> None:
    upstream = await serve(Page([b"id: 1\ndata: first\n\n", None, b"id: 2\ndata: second\ndata: line\n\n", None]))
    proxy = await run_proxy(configuration(upstream.url))
    await chromium.open(proxy.url)
    assert await chromium.evaluate("got(1)") == [["1", "first"]]
    let_go_on(upstream)
    assert await chromium.evaluate("got(2)") == [["1", "first"], ["2", "second\nline"]]
    assert await chromium.evaluate("[opened, failed]") == [1, 0]


async def test_event_source_comes_back_with_its_last_event_id_after_the_upstream_broke(
    run_proxy: RunProxy, chromium: Browser, serve: Serve
) -> None:
    upstream = await serve(Page([b"retry: 10\nid: 41\ndata: before\n\n"], [b"id: 42\ndata: after\n\n", None]))
    proxy = await run_proxy(configuration(upstream.url))
    await chromium.open(proxy.url)
    assert await chromium.evaluate("got(2)") == [["41", "before"], ["42", "after"]]
    asked = [head.get("last-event-id") for head in upstream.requests if head.target == b"/events"]
    assert asked == [None, b"41"]


async def test_event_source_lives_on_keepalives_and_its_page_never_sees_one(
    run_proxy: RunProxy, chromium: Browser, serve: Serve
) -> None:
    upstream = await serve(Page([b"data: before\n\n", None, b"id: 7\ndata: after\n\n", None, b"data: last\n\n", None]))
    route = {"path": "/*", "upstream": upstream.url, "keepalive": "20ms"}
    proxy = await run_proxy(configuration([route]))
    await chromium.open(proxy.url)
    await chromium.evaluate("got(1)")
    for messages in (2, 3):  # a stream without an id is kept alive with blocks, one with an id with lines
        await proxy.until_keepalives(2 * messages)
        let_go_on(upstream)
        await chromium.evaluate(f"got({messages})")
    assert await chromium.evaluate("messages") == [["", "before"], ["7", "after"], ["7", "last"]]
    assert await chromium.evaluate("[opened, failed, source.readyState]") == [1, 0, 1]
