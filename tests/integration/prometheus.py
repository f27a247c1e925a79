"""Prometheus from the system, with the configuration and the rules of deploy/, at a pace for tests."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import yaml

from tests.doubles.client import fetch
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration.process import ROOT, Process

DEPLOY = ROOT / "deploy"
INTERVAL = "1s"  # the time that a scrape may take, too: on a busy machine 200 ms are too few
WINDOW = "5s"  # of rates; several scrapes


class Prometheus:
    """A running Prometheus, asked over its HTTP API."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def get(self, path: str) -> Any:
        """The data of an answer; one that reports an error fails the test."""
        answer = await fetch(self.url + path)
        body = json.loads(answer.body)
        assert (answer.status, body["status"]) == (200, "success"), f"{path}: {body.get('error')}"
        return body["data"]

    async def query(self, expression: str) -> list[float]:
        """The values of an instant query, without those that are no number."""
        data = await self.get(f"/api/v1/query?query={quote(expression)}")
        values = [float(sample["value"][1]) for sample in data["result"]]
        return [value for value in values if not math.isnan(value)]

    async def label_values(self, metric: str, label: str) -> list[str]:
        """What a dashboard's ``label_values(metric, label)`` asks for."""
        values: list[str] = await self.get(f"/api/v1/label/{label}/values?match[]={quote(metric)}")
        return values


def configuration(folder: Path, target: str) -> Path:
    """The configuration of deploy/compose with another target, often scraped, beside the rules."""
    config = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())
    config["global"] = {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    (scrape,) = config["scrape_configs"]
    scrape["static_configs"][0]["targets"] = [urlsplit(target).netloc]
    (folder / "rules.yaml").write_text((DEPLOY / "prometheus/rules.yaml").read_text())
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    return file


@asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """Run Prometheus, scraping the admin listener at ``target``, until it is ready."""
    program = require("prometheus")
    file = configuration(folder, target)
    with reserved_port() as port:
        options = [f"--config.file={file}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=warn"]
        with Process([program, *options, f"--web.listen-address=127.0.0.1:{port}"], cwd=folder) as process:
            url = f"http://127.0.0.1:{port}"
            await _ready(url, process)
            yield Prometheus(url)
            assert await process.stop() == 0, process.output


async def _ready(url: str, process: Process) -> None:
    async def ready() -> bool:
        assert process.child.poll() is None, process.output
        with suppress(ConnectionRefusedError):
            return (await fetch(f"{url}/-/ready")).status == 200
        return False

    await until(ready, "Prometheus to be ready")
