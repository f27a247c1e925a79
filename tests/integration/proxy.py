"""streamproxy as a process of its own, on ports that the system picks."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.doubles.client import fetch
from tests.doubles.until import until
from tests.integration.process import Process

Config = dict[str, Any]


@dataclass
class RunningProxy:
    """``url`` is the main listener's, ``admin`` the admin listener's; ``file`` is the configuration."""

    process: Process
    url: str
    admin: str
    file: Path

    async def metric(self, series: str) -> float:
        """The value of one series, written as in the exposition; 0 when it is not there."""
        lines = (await fetch(f"{self.admin}/metrics")).body.decode().splitlines()
        return next((float(line.rpartition(" ")[2]) for line in lines if line.rpartition(" ")[0] == series), 0.0)

    async def until_reloaded(self, count: int, result: str = "ok") -> None:
        """Wait until so many reloads have gone well, or wrong."""
        await until(
            lambda: self.metric(f'streamproxy_config_reloads_total{{result="{result}"}}'),
            f"{count} reloads that end with {result}",
            holds=lambda value: value >= count,
        )

    async def streams(self) -> list[dict[str, Any]]:
        """The live exchanges, as the admin listener tells them."""
        answer = await fetch(f"{self.admin}/streams")
        assert (answer.status, answer.complete) == (200, True)
        streams: list[dict[str, Any]] = json.loads(answer.body)
        return streams

    async def until_streams(self, what: str, condition: Callable[[list[dict[str, Any]]], bool]) -> None:
        """Wait until the live exchanges are as ``condition`` says; ``what`` names it when they never are."""
        await until(self.streams, what, holds=condition)

    async def until_keepalives(self, count: int) -> None:
        """Wait until the one live stream has been sent so many keepalives."""
        await self.until_streams(f"{count} keepalives", lambda live: [s["keepalives"] >= count for s in live] == [True])


def configuration(routes: Sequence[Config] | str, **sections: Config) -> Config:
    """A configuration on free ports with these routes, or one route for everything to the upstream at this URL.

    A route that does not say when it sends keepalives sends none within the time of a test, however slow the machine.
    """
    if isinstance(routes, str):
        routes = [{"path": "/*", "upstream": routes}]
    routes = [{"keepalive": "5m", **route} if "upstream" in route else route for route in routes]
    server = {"listen": "127.0.0.1:0", "drain_timeout": "2s", **sections.pop("server", {})}
    admin = {"listen": "127.0.0.1:0", **sections.pop("admin", {})}
    return {"server": server, "admin": admin, "routes": routes, **sections}


def write_configuration(folder: Path, config: Config) -> Path:
    """The configuration as a file; JSON is YAML."""
    file = folder / "streamproxy.yaml"
    file.write_text(json.dumps(config, indent=1))
    return file


@asynccontextmanager
async def running(config: Config, folder: Path) -> AsyncIterator[RunningProxy]:
    """Run the program; leaving stops it with SIGTERM, if it still runs, and checks that it exits with 0."""
    file = write_configuration(folder, config)
    command = [sys.executable, "-m", "streamproxy", "run", "-c", str(file)]
    with Process(command) as process:
        main = await process.line(r"^listening on (https?://\S+)")
        admin = await process.line(r"^admin on (http://\S+)")
        yield RunningProxy(process, main[1], admin[1], file)
        status = await process.stop()
        assert status == 0, f"streamproxy ended with {status}; its output:\n{process.output}"
