"""The buttons on the page of the demo, in Chromium."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator

import pytest

from tests.integration.browser import Browser
from tests.integration.process import Process
from tests.integration.test_page import rows, shows

STATE = "document.querySelector('#tried-state').textContent"
TEXT = "document.querySelector('#tried-text').textContent"


@pytest.fixture
async def page(chromium: Browser) -> AsyncIterator[Browser]:
    """The page of a running demo."""
    command = [sys.executable, "-m", "streamproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with Process(command) as process:
        address = (await process.line(r"^The page .*: (http://\S+)$"))[1]
        await process.line(r"^admin on ")
        await chromium.open(address)
        yield chromium
        assert await process.stop() == 0, process.output


async def press(page: Browser, label: str) -> None:
    button = f"Array.from(document.querySelectorAll('#tries button')).find(one => one.textContent === '{label}')"
    await page.evaluate(f"({button}.click(), true)")


async def test_a_stream_is_shown_as_it_comes_until_it_is_left(page: Browser) -> None:
    await press(page, "Late first token")
    await shows(page, f"{TEXT}.includes(': keepalive')")
    await press(page, "Clock")
    await shows(page, f"{TEXT}.includes('id: 2\\n')")
    assert ": keepalive" not in await page.evaluate(TEXT)
    assert await page.evaluate(STATE) == "GET /events · 200 · text/event-stream; charset=utf-8 · streaming"
    await shows(page, "document.querySelectorAll('#stream-table tbody tr').length === 1")
    ((route, *_),) = await rows(page, "stream-table")
    assert route == "events"

    await page.evaluate("(document.querySelector('#tried-stop').click(), true)")
    await shows(page, f"{STATE}.endsWith('left')")
    assert await page.evaluate("document.querySelector('#tried-stop').hidden") is True
    await shows(page, "document.querySelectorAll('#ended-table tbody tr').length === 2")
    ended = {row[0]: row[4].partition("|")[0] for row in await rows(page, "ended-table")}
    assert ended == {"slow": "client disconnect", "events": "client disconnect"}
    assert await page.console() == []


async def test_every_end_can_be_told_from_the_others(page: Browser) -> None:
    ends = {
        "OpenAI chat": ("complete", "data: [DONE]"),
        "Anthropic message": ("complete", "event: message_stop"),
        "Ollama chat": ("complete", '"done":true'),
        "JSON lines": ("complete", '{"n":10,'),
        "Mute engine": ("complete", '"status": 504'),
        "Failing model": ("complete", 'data: {"error":{'),
        "Broken stream": ("broken off", 'data: {"token":'),
        "Broken, with an event": ("broken off", "event: error"),
    }
    for label, (end, text) in ends.items():
        await press(page, label)
        await shows(page, f"{STATE}.endsWith('· {end}')")
        assert text in await page.evaluate(TEXT), label
    assert await page.evaluate(STATE) == "GET /told/broken · 200 · text/event-stream; charset=utf-8 · broken off"
