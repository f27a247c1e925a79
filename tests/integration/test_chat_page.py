"""The chat page of clients/js in Chromium: its answer survives a network that is cut and a reload of the tab."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

from tests.conftest import Serve
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, response, stream_head
from tests.integration.browser import Browser
from tests.integration.conftest import RunProxy
from tests.integration.cutter import Cutter
from tests.integration.proxy import configuration

FOLDER = Path(__file__).parents[2] / "clients/js"
TYPES = {"html": "text/html", "js": "text/javascript"}
WORDS = [f"word{number} " for number in range(1, 13)]
TEXT = 'document.querySelector(".assistant:last-of-type")?.textContent ?? ""'


async def serve_page_and_model(conn: Conn) -> None:
    """The page's files, and a model that says three words each time its test lets it."""
    while True:
        head, _ = await conn.read_request()
        if head.method == b"POST":
            break
        name = head.target.decode().lstrip("/").partition("?")[0]
        kind = TYPES[name.rpartition(".")[2]]
        await conn.send(response((FOLDER / name).read_bytes(), headers=[("Content-Type", kind)]))
    await conn.send(stream_head())
    for number, word in enumerate(WORDS, 1):
        choice = {"index": 0, "delta": {"content": word}}
        chunk = {"object": "chat.completion.chunk", "choices": [choice]}
        await conn.send_chunk(b"data: %b\n\n" % json.dumps(chunk).encode())
        if number in (3, 6, 9):
            await conn.stall()
            conn.go.clear()
    await conn.send_chunk(b"data: [DONE]\n\n")
    await conn.send_chunk(b"")


def go_on(upstream: Upstream) -> None:
    for conn in upstream.connections:
        conn.go.set()


async def until_text(chromium: Browser, words: int) -> None:
    expected = "".join(WORDS[:words])
    await until(lambda: chromium.evaluate(TEXT), f"{words} words", holds=lambda text: text == expected)


async def offline(chromium: Browser, away: bool) -> None:
    limits = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    await chromium.devtools("Network.emulateNetworkConditions", offline=away, **limits)


async def test_an_answer_survives_a_cut_network_and_a_reload_of_the_tab(
    run_proxy: RunProxy, chromium: Browser, serve: Serve, tmp_path: Path
) -> None:
    upstream = await serve(serve_page_and_model)
    chat = {"path": "/v1/*", "upstream": upstream.url, "protocol": "openai", "resume": {}}
    proxy = await run_proxy(configuration([chat, {"path": "/*", "upstream": upstream.url}]))
    async with Cutter(proxy.url) as network:
        await chat_over(network, chromium, upstream, tmp_path)
    assert sum(head.method == b"POST" for head in upstream.requests) == 1


async def chat_over(network: Cutter, chromium: Browser, upstream: Upstream, folder: Path) -> None:
    await chromium.devtools("Network.enable")
    await chromium.open(f"{network.url}/chat.html")
    await chromium.evaluate('document.querySelector("input").value = "Twelve words, please"')
    await chromium.evaluate('document.querySelector("form").requestSubmit()')
    await until_text(chromium, 3)

    await offline(chromium, True)  # that alone leaves what is open open
    network.cut()
    go_on(upstream)
    state = 'document.querySelector("#state").textContent'
    await until(lambda: chromium.evaluate(state), "the page to notice", holds=lambda text: "is away" in text)
    assert await chromium.evaluate(TEXT) == "".join(WORDS[:3])
    await offline(chromium, False)
    await until_text(chromium, 6)

    await chromium.open(f"{network.url}/chat.html")
    assert await chromium.evaluate('performance.getEntriesByType("navigation").length') == 1
    await until_text(chromium, 6)
    go_on(upstream)
    await until_text(chromium, 9)
    shot = await chromium.devtools("Page.captureScreenshot", format="png")
    picture = Path(os.environ.get("STREAMPROXY_TEST_PICTURES", folder)) / "chat.png"
    picture.write_bytes(base64.b64decode(shot["data"]))
    go_on(upstream)
    await until_text(chromium, 12)
    await until(
        lambda: chromium.evaluate('document.querySelector("button").disabled'), "the end", holds=lambda no: not no
    )
    assert sum(head.method == b"POST" for head in upstream.requests) == 1
