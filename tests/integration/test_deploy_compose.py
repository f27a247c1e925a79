"""The compose file with two sidecars and one Redis: its commands as processes here, and its steps in a shell."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import yaml

from tests.doubles.connection import guarded
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.integration.process import Process
from tests.integration.redis import redis_server
from tests.unit.project.dockerfile import ROOT, read_dockerfile

COMPOSE = ROOT / "deploy/compose/resume.yaml"
SERVICES: dict[str, dict[str, Any]] = yaml.safe_load(COMPOSE.read_text())["services"]
IMAGE = read_dockerfile()
SIDECARS = ("one", "two")


def steps() -> str:
    """The commands of the file's comment that are for a shell, without the one that starts everything."""
    lines = re.findall(r"^#   (.*)$", COMPOSE.read_text(), re.MULTILINE)
    assert lines[0] == "docker compose -f deploy/compose/resume.yaml up --build"
    return "\n".join(lines[1:])


def moved(text: str, addresses: Mapping[str, str]) -> str:
    """A text in which each address of the network of containers is one of this machine."""
    for old, new in addresses.items():
        text = text.replace(old, new)
    return text


def command_of(service: Mapping[str, Any]) -> list[str]:
    """What the image runs for a service."""
    arguments = service.get("command") or IMAGE.one("CMD").exec_form()
    return [sys.executable, "-m", *IMAGE.one("ENTRYPOINT").exec_form(), *arguments]


def published(service: Mapping[str, Any]) -> str:
    """The port of this machine at which the main listener of a sidecar is reached."""
    (port,) = service["ports"]
    address, port, inside = port.split(":")
    assert (address, inside) == ("127.0.0.1", "8080")
    return str(port)


async def shell(script: str, folder: Path) -> list[str]:
    """The lines that a script prints, without empty ones."""
    async with guarded("the steps"):
        child = await asyncio.create_subprocess_exec(
            *("sh", "-euc", script), cwd=folder, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await child.communicate()
    lines = [line for line in output.decode().splitlines() if line]
    assert child.returncode == 0, lines
    return lines


def numbers(lines: list[str]) -> list[int]:
    """The ids of the events, which the demo's clock counts from 1."""
    return [int(line.removeprefix("id: ")) for line in lines if line.startswith("id: ")]


async def test_the_steps_of_the_file_do_what_it_says(tmp_path: Path) -> None:
    require("curl")
    (tmp_path / "redis").mkdir()
    program, *options = SERVICES["redis"]["command"]
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(redis_server(tmp_path / "redis", program))
        await redis.kill()
        await redis.start(*options)
        ports = {name: str(stack.enter_context(reserved_port())) for name in (*SIDECARS, "backend")}
        addresses = {
            "0.0.0.0:8000": f"127.0.0.1:{ports['backend']}",
            "127.0.0.1:9090": "127.0.0.1:0",
            "http://backend:8000": f"http://127.0.0.1:{ports['backend']}",
            "redis://redis:6379/0": redis.url,
        }
        backend = [moved(word, addresses) for word in command_of(SERVICES["backend"])]
        await stack.enter_context(Process(backend)).line("^listening on")
        for name in SIDECARS:
            service = SERVICES[name]
            (volume,) = service["volumes"]
            source, target, _ = volume.split(":")
            file = tmp_path / name / "streamproxy.yaml"
            file.parent.mkdir()
            text = (COMPOSE.parent / source / file.name).read_text()
            file.write_text(moved(text, addresses | {"0.0.0.0:8080": f"127.0.0.1:{ports[name]}"}))
            command = [moved(word, {f"{target}/{file.name}": str(file)}) for word in command_of(service)]
            assert str(file) in command
            environment = {key: moved(value, addresses) for key, value in service["environment"].items()}
            sidecar = Process([*command, "--admin", "127.0.0.1:0"], env=environment)
            await stack.enter_context(sidecar).line("^listening on")
        here = {f"localhost:{published(SERVICES[name])}": f"127.0.0.1:{ports[name]}" for name in SIDECARS}
        lines = await shell(moved(steps(), here), tmp_path)

    deleted = lines.index("204")
    seen, whole = numbers(lines[:deleted]), numbers(lines[deleted:])
    assert seen == [1, 2, 3, 4, 5, 6, 7]
    assert whole == list(range(1, len(whole) + 1))
    assert len(whole) >= len(seen)
    assert lines[-1] == "stopped"
