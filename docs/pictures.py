"""Takes the pictures of the documentation from the demo, with Chromium: ``python -m docs.pictures``."""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from tests.doubles.client import connect
from tests.integration.browser import Browser, RunningBrowser, running_browser, window
from tests.integration.process import Process

DOCS = Path(__file__).parent
SIZE = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
STREAMS = ("/slow?delay=600", "/events", "/ndjson?interval=0.5")
# Resolves when the table has had every stream for so many milliseconds.
SHOWN = f"""new Promise(resolve => {{{{
    const rows = document.getElementById("stream-table").tBodies[0].rows;
    const look = () => rows.length >= {len(STREAMS)} ? setTimeout(resolve, {{}}, true) : setTimeout(look, 50);
    look();
}}}})"""
SCHEMES = {"page.png": "light", "page-dark.png": "dark"}


async def take(page: Browser, scheme: str) -> bytes:
    """Return what the window shows in a colour scheme, as PNG."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    await page.devtools("Emulation.setEmulatedMedia", features=media)
    await page.evaluate("new Promise(resolve => setTimeout(resolve, 1000, true))")  # colours change in steps
    shot = await page.devtools("Page.captureScreenshot", format="png")
    return base64.b64decode(shot["data"])


async def pictures(running: RunningBrowser, settle: int) -> dict[str, bytes]:
    """Start the demo and some streams; return the page of the admin listener in both colour schemes, by file name.

    ``settle`` is for how many milliseconds the streams run before, so that their curves show something.
    """
    command = [sys.executable, "-m", "streamproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with Process(command) as process:
        url = (await process.line(r"^listening on (http://\S+)"))[1]
        admin = (await process.line(r"^admin on (http://\S+)"))[1]
        async with AsyncExitStack() as stack:
            for target in STREAMS:
                client = await stack.enter_async_context(await connect(url))
                await client.request(target)
            page = await stack.enter_async_context(window(running))
            await page.devtools("Emulation.setDeviceMetricsOverride", **SIZE)
            await page.open(admin)
            await page.evaluate(SHOWN.format(settle))
            taken = {name: await take(page, scheme) for name, scheme in SCHEMES.items()}
        await process.stop()
    return taken


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, running_browser(Path(folder)) as browser:
        for name, picture in asyncio.run(pictures(browser, 8000)).items():
            (DOCS / name).write_bytes(picture)
