"""Chromium's fetch and EventSource on a page of another origin than the proxy's: CORS as a browser keeps it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.conftest import Serve
from tests.doubles.upstream import Conn, Upstream, answering, response, stream_head
from tests.integration.browser import Browser
from tests.integration.conftest import RunProxy
from tests.integration.proxy import RunningProxy, configuration

TOKEN = "opaque-token-1"
PAGE = b"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>another origin</title><script>
const ask = async (url, options) => {
    try {
        const answer = await fetch(url, options);
        return [answer.status, answer.headers.get("x-request-id") !== null, await answer.text()];
    } catch (error) {
        return [error.name];
    }
};
const listen = (url, options) => new Promise(resolve => {
    const source = new EventSource(url, options), got = [];
    source.onmessage = message => { got.push(message.data); if (got.length === 2) { source.close(); resolve(got); } };
    source.onerror = () => { if (source.readyState === EventSource.CLOSED) resolve("refused"); };
});
</script>"""


async def api(conn: Conn) -> None:
    """Two events for whoever asks, in a stream that stays open."""
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: one\n\n")
    await conn.send_chunk(b"data: two\n\n")
    if conn.heads[0].method == b"POST":
        await conn.send_chunk(b"")
    await conn.wait_ended()


class Scene:
    """A page on the allowed origin is open; ``api`` is the proxy on another, ``upstream`` what stands behind it."""

    def __init__(self, chromium: Browser, proxy: RunningProxy, upstream: Upstream) -> None:
        self.evaluate = chromium.evaluate
        self.api = proxy.url
        self.upstream = upstream


def page_server() -> Any:
    return answering(response(PAGE, headers=[("Content-Type", "text/html")]))


@pytest.fixture
async def scene(run_proxy: RunProxy, chromium: Browser, serve: Serve) -> Scene:
    page, upstream = await serve(page_server()), await serve(api)
    route = {
        "path": "/*",
        "upstream": upstream.url,
        "auth": {
            "bearer": {"tokens": [TOKEN]},
            "from": ["header", {"cookie": "session"}, {"query": "access_token"}],
        },
        "cors": {"origins": [page.url], "credentials": "on"},
    }
    proxy = await run_proxy(configuration([route]))
    await chromium.open(page.url)
    return Scene(chromium, proxy, upstream)


def options(token: str = TOKEN, credentials: str = "omit") -> str:
    fields = f'{{authorization: "Bearer {token}", "content-type": "application/json", "x-custom": "1"}}'
    return f'{{method: "POST", body: "{{}}", headers: {fields}, credentials: "{credentials}"}}'


async def test_fetch_with_a_preflight_reads_the_stream_and_the_upstream_sees_neither_preflight_nor_token(
    scene: Scene,
) -> None:
    found = await scene.evaluate(f"ask('{scene.api}/v1/chat', {options()})")
    assert found == [200, True, "data: one\n\ndata: two\n\n"]
    (head,) = scene.upstream.requests
    assert (head.method, head.get("authorization"), head.get("x-custom")) == (b"POST", None, b"1")


async def test_fetch_may_read_why_it_was_refused(scene: Scene) -> None:
    status, told, body = await scene.evaluate(f"ask('{scene.api}/v1/chat', {options('wrong')})")
    assert (status, told) == (401, True)
    assert '"status":401' in body.replace(" ", "")
    assert scene.upstream.requests == []


async def test_event_source_comes_with_its_cookie_or_its_query_and_neither_goes_upstream(scene: Scene) -> None:
    events = f"{scene.api}/events"
    assert await scene.evaluate(f"listen('{events}')") == "refused"
    found = await scene.evaluate(f"listen('{events}?a=1&access_token={TOKEN}')")
    assert found == ["one", "two"]
    await scene.evaluate(f"document.cookie = 'session={TOKEN}; path=/'")
    assert await scene.evaluate(f"listen('{events}', {{withCredentials: true}})") == ["one", "two"]
    targets = [(head.target, head.get("cookie")) for head in scene.upstream.requests]
    assert targets == [(b"/events?a=1", None), (b"/events", None)]


async def test_a_page_of_another_origin_reads_nothing(scene: Scene, chromium: Browser, serve: Serve) -> None:
    other = await serve(page_server())
    await chromium.open(other.url)
    assert await scene.evaluate(f"ask('{scene.api}/v1/chat', {options()})") == ["TypeError"]
    assert scene.upstream.requests == [], "the preflight was refused, so the browser asked for nothing"
    assert await scene.evaluate(f"listen('{scene.api}/events?access_token={TOKEN}')") == "refused"
