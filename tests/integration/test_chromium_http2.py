"""Chromium over TLS: hundreds of EventSources on one HTTP/2 connection, and a WebSocket beside them."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from streamproxy.wire.websocket import accept_of
from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, response, stream_head
from tests.integration.browser import Browser
from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration

COUNT = 200  # over HTTP/1.1 the seventh would wait for ever

# `got(n)` resolves when each source has brought n messages; `echo(text)` sends over the WebSocket.
PAGE = b"""<!doctype html><meta charset="utf-8"><link rel="icon" href="data:,"><title>events</title><script>
performance.setResourceTimingBufferSize(1000);
const counts = Array(%d).fill(0), waiting = [];
const sources = counts.map((_, number) => {
    const source = new EventSource("/events?" + number);
    source.onmessage = message => {
        if (message.data.split(" ")[0] == number) counts[number] += 1;
        for (const look of waiting.splice(0)) look();
    };
    return source;
});
const got = count => new Promise(resolve => {
    const look = () => counts.every(seen => seen >= count) ? resolve(counts.length) : waiting.push(look);
    look();
});
const socket = new WebSocket(location.origin.replace("http", "ws") + "/socket");
const echo = text => new Promise((resolve, reject) => {
    const say = () => socket.send(text);
    socket.onmessage = message => resolve(message.data);
    socket.onerror = () => reject("the socket failed");
    socket.readyState == 1 ? say() : socket.onopen = say;
});
const protocols = () => fetch("/").then(response => response.text()).then(() => [...new Set(
    [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
        .filter(entry => entry.nextHopProtocol).map(entry => entry.nextHopProtocol))]);
</script>"""


class Site:
    """Serves the page, a stream of two events for each source, and a WebSocket that echoes."""

    def __init__(self) -> None:
        self.streams: dict[bytes, Conn] = {}

    async def __call__(self, conn: Conn) -> None:
        while True:
            head, _ = await conn.read_request()
            if head.target == b"/socket":
                return await self.echo(conn, head.get("sec-websocket-key") or b"")
            if head.target.startswith(b"/events"):
                return await self.stream(conn, head.target.partition(b"?")[2])
            await conn.send(response(PAGE % COUNT, headers=[("Content-Type", "text/html")]))

    async def stream(self, conn: Conn, name: bytes) -> None:
        self.streams[name] = conn
        await conn.send(stream_head())
        for event in (b"first", b"second"):
            await conn.send_chunk(b"data: %s %s\n\n" % (name, event))
            await conn.stall()
        await conn.wait_ended()

    async def echo(self, conn: Conn, key: bytes) -> None:
        """Echo short frames without their masks."""
        switch = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        await conn.send(switch + b"Sec-WebSocket-Accept: " + accept_of(key) + b"\r\n\r\n")
        while True:
            head = await conn.read_exactly(2)
            mask = await conn.read_exactly(4)
            payload = await conn.read_exactly(head[1] & 0x7F)
            plain = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
            await conn.send(bytes((head[0], len(plain))) + plain)


def sockets_of(url: str) -> int:
    """How many connections a listener of this machine has accepted and not yet closed."""
    local = f"0100007F:{urlsplit(url).port:04X}"
    rows = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return sum(row.split()[1] == local and row.split()[3] == "01" for row in rows)  # 01 is ESTABLISHED


async def test_200_event_sources_and_a_websocket_share_connections(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, certificate: Certificate
) -> None:
    site = Site()
    upstream: Upstream = await serve(site)
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    proxy = await run_proxy(configuration(upstream.url, server={"tls": tls}))
    await chromium.devtools("Security.setIgnoreCertificateErrors", ignore=True)
    await chromium.open(proxy.url)
    assert await chromium.evaluate("got(1)") == COUNT
    assert await chromium.evaluate("echo('hello')") == "hello"
    assert await chromium.evaluate("protocols()") == ["h2"]
    assert sockets_of(proxy.url) <= 3  # HTTP/2, HTTP/1.1 for the WebSocket, and perhaps one that it made ahead
    for conn in site.streams.values():
        conn.go.set()
    assert await chromium.evaluate("got(2)") == COUNT
    # What one source closes reaches the upstream, and the others go on.
    await chromium.evaluate("sources[7].close()")
    await site.streams[b"7"].wait_ended()
    assert len([conn for conn in site.streams.values() if conn.ended is None]) == COUNT - 1
    assert await chromium.evaluate("echo('still here')") == "still here"
    await chromium.evaluate("sources.forEach(source => source.close())")
    await until(lambda: all(conn.ended for conn in site.streams.values()), "every stream to reach its end")
    await proxy.until_streams("the WebSocket alone to be left", lambda live: len(live) == 1)
    await chromium.evaluate("socket.close()")
    await proxy.until_streams("nothing to be left", lambda live: not live)
