"""nginx from the system, in the foreground, with a configuration and folders of a test's own."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.doubles.client import accepts
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration.process import Process

CONFIGURATION = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
{user}
events {{ worker_connections 256; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    server {{
        listen 127.0.0.1:{port};
        {locations}
    }}
}}
"""


@dataclass
class Nginx:
    process: Process
    url: str


@asynccontextmanager
async def nginx(folder: Path, locations: str) -> AsyncIterator[Nginx]:
    """Run nginx with these ``location`` blocks in one server; everything else is nginx's default."""
    program = require("nginx")
    # As root the worker would be another user, who can't enter the test's folder.
    user = "user root;" if os.geteuid() == 0 else ""
    with reserved_port() as port:
        file = folder / "nginx.conf"
        file.write_text(CONFIGURATION.format(folder=folder, port=port, user=user, locations=locations))
        with Process([program, "-p", str(folder), "-c", str(file), "-e", "stderr"]) as process:
            url = f"http://127.0.0.1:{port}"
            await _accepts(url, process)
            yield Nginx(process, url)
            assert await process.stop() == 0, process.output


async def _accepts(url: str, process: Process) -> None:
    """Wait until it listens; nginx says nothing when it is ready."""

    async def listens() -> bool:
        assert process.child.poll() is None, process.output
        return await accepts(url)

    await until(listens, "nginx to listen")
