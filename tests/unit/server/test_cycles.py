"""A connection that has ended is freed at once, without the garbage collector."""

from __future__ import annotations

import gc

from streamproxy.server.flow import Deadline, Flow
from tests.conftest import Connect
from tests.doubles.until import until
from tests.unit.server.conftest import Start
from tests.unit.server.harness import Receive, Scope, Send, body_message, start_message


async def _app(scope: Scope, receive: Receive, send: Send) -> None:
    await send(start_message(204))
    await send(body_message())


def _alive() -> int:
    """How many there are of those that were made since the collector was switched off: no object is promoted then."""
    return sum(isinstance(one, Deadline | Flow) for one in gc.get_objects(generation=0))


async def test_a_closed_connection_leaves_no_cycle_of_its_own(start: Start, dial: Connect) -> None:
    server = await start(_app)
    gc.collect()
    gc.disable()
    try:
        before = _alive()
        client = await dial(server.url)
        await client.send(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        await client.read_response()
        await until(lambda: _alive() <= before)
    finally:
        gc.enable()
