"""The commands and programs that the documentation marks as tested, run as they stand against the demo."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.doubles.connection import guarded
from tests.doubles.parts import require
from tests.integration.process import ROOT, Process
from tests.unit.project.markdown import Block, blocks

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # where `streamproxy` is installed
CONFIGURATION = "routes: [{path: /*, upstream: 'http://127.0.0.1:9'}]\n"


class Demo(NamedTuple):
    url: str
    admin: str

    def adapted(self, text: str) -> str:
        """What a page shows, with the demo's ports as they are here."""
        return text.replace("http://127.0.0.1:8080", self.url).replace("http://127.0.0.1:9090", self.admin)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo() -> AsyncIterator[Demo]:
    """`streamproxy demo` on free ports."""
    command = [sys.executable, "-m", "streamproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with Process(command) as process:
        url = (await process.line(r"^listening on (http://\S+)"))[1]
        yield Demo(url, (await process.line(r"^admin on (http://\S+)"))[1])
        assert await process.stop() == 0, process.output


async def run(command: list[str], folder: Path) -> str:
    """The output of a command that must succeed; nothing of a proxy that the machine may have."""
    process = await asyncio.create_subprocess_exec(
        *command,
        cwd=folder,
        env={**os.environ, "NO_PROXY": "*", "no_proxy": "*", "PYTHONPATH": str(ROOT), "PATH": PATH},
        stdin=DEVNULL,
        stdout=PIPE,
        stderr=STDOUT,
    )
    try:
        async with guarded(" ".join(command)):
            output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, output.decode()
    return output.decode()


@pytest.mark.parametrize("block", blocks("sh", tested=True), ids=str)
async def test_the_commands_do_what_the_page_says(block: Block, demo: Demo, tmp_path: Path) -> None:
    require("curl")
    output = await run([require("bash"), "-euo", "pipefail", "-c", demo.adapted(block.text)], tmp_path)
    assert output.strip()


@pytest.mark.parametrize("block", blocks("python", tested=True), ids=str)
async def test_the_programs_run(block: Block, demo: Demo, tmp_path: Path) -> None:
    (tmp_path / "streamproxy.yaml").write_text(CONFIGURATION)
    await run([sys.executable, "-W", "error", "-c", demo.adapted(block.text)], tmp_path)


def test_there_is_something_to_run() -> None:
    assert len(blocks("sh", tested=True)) > 5
    assert len(blocks("python", tested=True)) > 1
