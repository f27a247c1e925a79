"""Chromium over TLS: two hundred EventSources on one connection, and a WebSocket beside them on its own."""

from __future__ import annotations

from streamproxy.wire.websocket import accept_of
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.until import until
from tests.doubles.upstream import Conn, response, stream_head
from tests.doubles.websocket import KEY, SWITCH, WORLD
from tests.integration.browser import Browser
from tests.integration.conftest import RunProxy
from tests.integration.proxy import RunningProxy, configuration
from tests.integration.test_workers import inside

COUNT = 200
PAGE = b"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>protocols</title><script>
const first = source => new Promise(resolve => { source.onmessage = message => resolve(message.data); });
const sources = Array.from({length: 200}, (_, n) => new EventSource(`/events?${n}`));
const firsts = Promise.all(sources.map(first));
const socket = new WebSocket(`wss://${location.host}/chat`);
const opened = new Promise(resolve => { socket.onopen = resolve; });
const answer = text => new Promise(resolve => {
    socket.onmessage = message => resolve(message.data);
    socket.send(text);
});
</script>"""


async def site(conn: Conn) -> None:
    """The page, an endless stream of one event, and a WebSocket that answers one message and a Close."""
    while True:
        head, _ = await conn.read_request()
        if head.target == b"/chat":
            key = head.get("sec-websocket-key") or b""
            await conn.send(SWITCH.replace(accept_of(KEY), accept_of(key)) % b"")
            await conn.read_exactly(6 + len("hello"))
            await conn.send(WORLD)
            assert (await conn.read_exactly(6))[:2] == b"\x88\x80"
            return await conn.send(b"\x88\x00")
        elif head.target.startswith(b"/events"):
            await conn.send(stream_head())
            await conn.send_chunk(b"data: %b\n\n" % head.target.partition(b"?")[2])
            await conn.read_all()
        else:
            await conn.send(response(PAGE, headers=[("Content-Type", "text/html")]))


async def protocols(proxy: RunningProxy) -> list[str]:
    return sorted({stream["protocol"] for stream in await proxy.streams()})


async def test_two_hundred_event_sources_and_a_socket_beside_them(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, certificate: Certificate
) -> None:
    upstream = await serve(site)
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    proxy = await run_proxy(configuration(upstream.url, server={"tls": tls}))
    await chromium.open(proxy.url)
    assert await chromium.evaluate("firsts") == [str(number) for number in range(COUNT)]
    await chromium.evaluate("opened.then(() => 1)")
    assert await chromium.evaluate("answer('hello')") == "world"
    assert len(await proxy.streams()) == COUNT + 1
    assert await protocols(proxy) == ["HTTP/2", "websocket"]
    assert inside(proxy.process.pid, int(proxy.url.rpartition(":")[2])) == 2
    await chromium.evaluate("sources.forEach(source => source.close())")
    await until(lambda: protocols(proxy), "the streams to end", holds=lambda seen: seen == ["websocket"])
    await until(lambda: upstream.open_connections, "the upstream to see them leave", holds=lambda left: len(left) <= 2)
    await chromium.evaluate("socket.close()")
    await until(lambda: protocols(proxy), "the socket to end", holds=lambda seen: not seen)
