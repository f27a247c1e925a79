"""Runs one connection of a server's protocol, on a transport that is a list of bytes."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from uvicorn.server import ServerState

from tests.unit.server.harness import App, FakeTransport, bare, end_tasks, turns


class Ended(NamedTuple):
    """What a connection wrote, and its protocol after its end."""

    out: bytes
    protocol: Any


class Rig:
    """The loop and the configuration, which are the same for every input.

    After the reads the application has four turns of the loop, and up to ``patience`` more while it is at work.
    """

    def __init__(self, app: App, protocol: Any, *, patience: int = 0) -> None:
        self._loop = asyncio.new_event_loop()
        self._faults: list[dict[str, Any]] = []
        self._loop.set_exception_handler(lambda loop, context: self._faults.append(context))
        self._config = bare(app, protocol)
        self._patience = patience

    def run(self, reads: list[bytes]) -> Ended:
        """Runs a connection until it ends or the reads do. Fails if the loop is told of any exception."""
        self._faults.clear()
        ended = self._loop.run_until_complete(self._run(reads))
        assert not self._faults, self._faults
        return ended

    async def _run(self, reads: list[bytes]) -> Ended:
        state = ServerState()
        made_by: Any = self._config.http_protocol_class
        protocol = made_by(config=self._config, server_state=state, app_state={}, _loop=self._loop)
        transport = FakeTransport()
        protocol.connection_made(transport)
        try:
            for read in reads:
                if transport.closed:
                    break
                protocol.data_received(read)
                await turns(1)
            await turns(4)
            for _ in range(self._patience):
                if not state.tasks:
                    break
                await turns(1)
        finally:
            protocol.connection_lost(None)
            await turns(2)
            await end_tasks(state)
        return Ended(transport.data, protocol)
