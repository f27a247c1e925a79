"""Many signals at once."""

from __future__ import annotations

import asyncio
import signal
from typing import Any, cast

from streamproxy.control import Control, Reloaded
from streamproxy.process.reload import Reloader, Reloading


class SlowReloader:
    """Counts its reloads, and ends them when a test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.first = asyncio.Event()
        self.go = asyncio.Event()

    async def reload(self) -> Reloaded:
        self.begun += 1
        self.first.set()
        await self.go.wait()
        return Reloaded()

    async def follow(self, stop: asyncio.Event) -> None:
        await stop.wait()


class App:
    reloader: Any = None


async def heard() -> None:
    """Wait until the signals that were raised before are heard: they come in their order."""
    last = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, last.set)
    signal.raise_signal(signal.SIGUSR1)
    await last.wait()
    loop.remove_signal_handler(signal.SIGUSR1)


async def test_a_storm_of_signals_is_two_reloads_the_one_that_runs_and_one_that_sees_the_last_change() -> None:
    reloader = SlowReloader()
    reloading = Reloading(cast(Control, App()), cast(Reloader, reloader))
    reloading.begin()
    try:
        signal.raise_signal(signal.SIGHUP)
        await reloader.first.wait()
        for _ in range(100):
            signal.raise_signal(signal.SIGHUP)
            await heard()
        assert reloader.begun == 2
        reloader.go.set()
        await asyncio.sleep(0)
        signal.raise_signal(signal.SIGHUP)
        await heard()
        await asyncio.sleep(0)
        assert reloader.begun == 3
    finally:
        await reloading.end()
        asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
