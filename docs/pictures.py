"""Takes the pictures of the documentation from the demo, with Chromium: ``python -m docs.pictures``."""

from __future__ import annotations

import asyncio
import base64
import sys
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path

from tests.doubles.client import connect
from tests.integration.browser import Browser, browser
from tests.integration.process import Process

DOCS = Path(__file__).parent
SIZE = {"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": False}
STREAMS = ("/slow?delay=600", "/events", "/ndjson?interval=0.5")
SCHEMES = {"page.png": "light", "page-dark.png": "dark"}


async def take(page: Browser, file: Path, scheme: str) -> None:
    """Write what the window shows in a colour scheme to a PNG file."""
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    await page.devtools("Emulation.setEmulatedMedia", features=media)
    shot = await page.devtools("Page.captureScreenshot", format="png")
    file.write_bytes(base64.b64decode(shot["data"]))


async def main() -> None:
    """Start the demo and some streams, and take the page of the admin listener in both colour schemes."""
    command = [sys.executable, "-m", "streamproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with tempfile.TemporaryDirectory() as name, Process(command) as process:
        url = (await process.line(r"^listening on (http://\S+)"))[1]
        admin = (await process.line(r"^admin on (http://\S+)"))[1]
        async with AsyncExitStack() as stack:
            for target in STREAMS:
                client = await stack.enter_async_context(await connect(url))
                await client.request(target)
            page = await stack.enter_async_context(browser(Path(name)))
            await page.devtools("Emulation.setDeviceMetricsOverride", **SIZE)
            await page.open(admin)
            await page.evaluate(
                "new Promise(resolve => { const look = () => document.querySelectorAll('#streams tbody tr').length >= "
                f"{len(STREAMS)} ? resolve(true) : setTimeout(look, 50); look(); }})"
            )
            for file, scheme in SCHEMES.items():
                await take(page, DOCS / file, scheme)
        await process.stop()


if __name__ == "__main__":
    asyncio.run(main())
