"""Chromium, driven over the W3C WebDriver protocol by its own driver: plain HTTP and JSON.

The browser starts with a fresh profile and finds no name but loopback addresses, so that nothing it does on its own
leaves the machine. One name leads to loopback: `REBOUND`, as that of a hostile page after DNS rebinding. One browser
serves all tests, since its start takes longer than a test; each has a window of its own, and origins of its own too, as
no port is used twice.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx2

from tests.doubles.connection import GUARD
from tests.doubles.parts import require
from tests.integration.process import Process

REBOUND = "rebound.example"

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--ignore-certificate-errors",
    "--no-default-browser-check",
    "--no-first-run",
    "--no-proxy-server",
    f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class Browser:
    """One browser window."""

    def __init__(self, client: httpx2.AsyncClient, session: str) -> None:
        self._client = client
        self._session = session

    async def command(self, name: str, arguments: dict[str, Any]) -> Any:
        """A command of WebDriver that takes arguments."""
        return _value(await self._client.post(f"/session/{self._session}/{name}", json=arguments))

    async def close(self) -> None:
        """Close the window; another one must be chosen then."""
        _value(await self._client.delete(f"/session/{self._session}/window"))

    async def open(self, url: str) -> None:
        """Load a page; returns when it has loaded."""
        await self.command("url", {"url": url})

    async def devtools(self, command: str, **parameters: Any) -> Any:
        """A command of the DevTools protocol, for what WebDriver has no word for."""
        return await self.command("goog/cdp/execute", {"cmd": command, "params": parameters})

    async def press(self, *keys: str) -> None:
        """Press keys one after the other, wherever the focus is; WebDriver has code points of its own for some."""
        strokes = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        await self.command("actions", {"actions": [{"type": "key", "id": "keyboard", "actions": strokes}]})

    async def console(self) -> list[str]:
        """What the browser has complained of since the last call: errors, violations of a policy, failed loads."""
        entries = await self.command("se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] in ("WARNING", "SEVERE")]

    async def evaluate(self, expression: str) -> Any:
        """The JSON value of a JavaScript expression; a promise is waited for."""
        script = (
            "const done = arguments[arguments.length - 1];"
            f"Promise.resolve({expression}).then(value => done([true, value]), error => done([false, String(error)]));"
        )
        fine, value = await self.command("execute/async", {"script": script, "args": []})
        assert fine, value
        return value


def _value(response: httpx2.Response) -> Any:
    value = response.json()["value"]
    assert response.status_code == 200, value
    return value


class RunningBrowser(NamedTuple):
    """A driver's base URL, and its session with a browser."""

    driver: str
    session: str


@contextmanager
def running_browser(folder: Path) -> Iterator[RunningBrowser]:
    """Start the driver and a headless browser with a profile in ``folder``; both are gone when it is left."""
    chromium, driver = require("chromium"), require("chromedriver")
    home = folder / "home"
    home.mkdir()
    options = {"binary": chromium, "args": [*FLAGS, f"--user-data-dir={folder}/profile"]}
    capabilities = {
        "browserName": "chrome",
        "goog:chromeOptions": options,
        "goog:loggingPrefs": {"browser": "ALL"},
        "timeouts": {"script": GUARD * 1000, "pageLoad": GUARD * 1000},
    }
    with Process([driver, "--port=0"], env={"HOME": str(home)}) as process:
        started = process.wait_line(r"started successfully on port (\d+)")
        url = f"http://127.0.0.1:{started[1]}"
        with httpx2.Client(base_url=url, timeout=2 * GUARD, trust_env=False) as client:
            response = client.post("/session", json={"capabilities": {"alwaysMatch": capabilities}})
            session = _value(response)["sessionId"]
        try:
            yield RunningBrowser(url, session)
        finally:
            httpx2.delete(f"{url}/session/{session}", timeout=2 * GUARD, trust_env=False)


@asynccontextmanager
async def window(running: RunningBrowser) -> AsyncIterator[Browser]:
    """A new window of a running browser, without cookies, cache or complaints of the one before; closed at the end."""
    async with httpx2.AsyncClient(base_url=running.driver, timeout=2 * GUARD, trust_env=False) as client:
        page = Browser(client, running.session)
        handle = await page.command("window/new", {"type": "window"})
        await page.close()
        await page.command("window", {"handle": handle["handle"]})
        await page.devtools("Network.clearBrowserCookies")
        await page.devtools("Network.clearBrowserCache")
        await page.console()
        yield page
        await page.open("about:blank")
