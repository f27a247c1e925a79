"""redis-server from the system, with a folder and a port of a test's own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import quote

from redis.asyncio import Redis
from redis.exceptions import RedisError

from tests.doubles.certificates import Certificate
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.doubles.until import until


class RedisServer:
    """A server that can be killed, stopped, paused and started again, always at the same address."""

    def __init__(self, program: str, folder: Path, port: int, options: tuple[str, ...] = ()) -> None:
        self._program = program
        self.folder = folder
        self.port = port
        self._process: asyncio.subprocess.Process | None = None
        self._options = options
        self.url = f"redis://127.0.0.1:{port}/0"

    def protect(self, password: str) -> None:
        """Ask for a password from now on, which replicas of it have too."""
        self.url = f"redis://:{quote(password, safe='')}@127.0.0.1:{self.port}/0"

    def secure(self, certificate: Certificate, port: int) -> str:
        """Have it speak TLS on another port from the next start on; the URL there."""
        self._options = ("--tls-port", str(port), "--tls-auth-clients", "no", "--tls-cert-file", str(certificate.cert))
        self._options += ("--tls-key-file", str(certificate.key), "--tls-ca-cert-file", str(certificate.cert))
        return f"rediss://127.0.0.1:{port}/0?ssl_ca_certs={certificate.cert}"

    async def start(self, *options: str) -> None:
        self._process = await asyncio.create_subprocess_exec(
            self._program,
            *("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"),
            *("--dir", str(self.folder), *self._options, *options),
            stdout=asyncio.subprocess.DEVNULL,
        )
        await until(self._answers, "redis-server to answer")

    async def _answers(self) -> bool:
        try:
            await self.command("PING")
        except (RedisError, OSError):
            return False
        return True

    async def command(self, *words: str | int) -> object:
        """One command, over a connection of its own."""
        async with Redis.from_url(self.url, protocol=2) as client:
            return await client.execute_command(*words)

    async def all_at_once(self, *commands: tuple[str | int, ...]) -> None:
        """Commands between which Redis does nothing else."""
        async with Redis.from_url(self.url, protocol=2) as client, client.pipeline(transaction=True) as pipeline:
            for words in commands:
                pipeline.execute_command(*words)
            await pipeline.execute()

    async def kill(self) -> None:
        """SIGKILL: nothing is said to anybody, nothing is kept."""
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)


@asynccontextmanager
async def redis_server(
    folder: Path, name: str = "redis-server", options: tuple[str, ...] = ()
) -> AsyncIterator[RedisServer]:
    """Run a server that keeps nothing on disk; ``name`` is that of the program, or its path."""
    program = require(name)
    with reserved_port() as port:
        server = RedisServer(program, folder, port, options)
        await server.start()
        try:
            yield server
        finally:
            await server.kill()
