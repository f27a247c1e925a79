"""The compiled wheel in an empty virtual environment: its commands do what they do in the repository."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from streamproxy import __version__
from tests.conftest import Serve
from tests.doubles.client import fetch
from tests.doubles.upstream import Conn
from tests.integration.process import ROOT, Process
from tests.release.conftest import Installation, clean_environment

pytestmark = pytest.mark.usefixtures("installation")


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=clean_environment(), capture_output=True, text=True, check=False)


def test_it_is_the_compiled_build(installation: Installation, tmp_path: Path) -> None:
    assert run(installation.command("--version"), tmp_path).stdout == f"streamproxy {__version__} (compiled)\n"


@pytest.mark.parametrize("name", ["minimal.yaml", "vllm.yaml", "full.yaml"])
def test_check_takes_the_examples(installation: Installation, tmp_path: Path, name: str) -> None:
    done = run(installation.command("check", "-c", str(ROOT / "config" / name)), tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("ok: ")


async def test_the_demo_streams(installation: Installation, tmp_path: Path) -> None:
    command = installation.command("demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0")
    with Process(command, cwd=tmp_path) as process:
        url = (await process.line(r"^listening on (http://\S+)"))[1]
        response = await fetch(f"{url}/slow?delay=0.1")
        assert response.status == 200
        assert b'data: {"token":"A "}' in response.body
        assert await process.stop() == 0, process.output


async def test_proxy_relays(installation: Installation, tmp_path: Path, serve: Serve) -> None:
    async def script(conn: Conn) -> None:
        await conn.read_until(b"\r\n\r\n")
        await conn.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

    upstream = await serve(script)
    command = installation.command("proxy", upstream.url, "--listen", "127.0.0.1:0", "--admin", "off")
    with Process(command, cwd=tmp_path) as process:
        url = (await process.line(r"^listening on (http://\S+)"))[1]
        response = await fetch(url)
        assert (response.status, response.body) == (200, b"ok")
        assert await process.stop() == 0, process.output
