"""What an operator, and the owner of a stream, see of a process that was taken over, and can still do there."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient, fetch
from tests.doubles.ports import reserved_port
from tests.doubles.upstream import Conn, stream_head
from tests.integration.process import Process
from tests.integration.proxy import Config, RunningProxy, configuration, write_configuration

OWNER = ("Authorization", "Bearer mine")


@pytest.fixture
def address() -> Iterator[str]:
    with reserved_port() as port:
        yield f"127.0.0.1:{port}"


async def one_event(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.send_chunk(b"data: 1\n\n")
    await conn.stall()


@contextmanager
def program(file: Path) -> Iterator[Process]:
    command = [sys.executable, "-m", "streamproxy", "run", "-c", str(file), "--takeover"]
    with Process(command) as process:
        yield process


async def served(process: Process, file: Path) -> RunningProxy:
    main = await process.line(r"^listening on (\S+)")
    admin = await process.line(r"^admin on (\S+)")
    return RunningProxy(process, main[1], admin[1], file)


async def streaming(dial: Connect, proxy: RunningProxy, path: str, id: str) -> tuple[RawClient, bytes]:
    """A stream with this request id that has begun, and its cursor if it has one."""
    client = await dial(proxy.url)
    await client.request(path, headers=[("X-Request-Id", id), OWNER])
    head = await client.read_head()
    assert await client.read_body_until(b"\n\n") == b"data: 1\n\n"
    return client, head.get("x-stream-cursor") or b""


async def shown(dial: Connect, proxy: RunningProxy) -> dict[str, Any]:
    """The first update of the page and of `top`."""
    viewer = await dial(proxy.admin)
    await viewer.request("/streams/live?interval=60", headers=[("Host", "localhost")])
    await viewer.read_head()
    await viewer.read_body_until(b"\n\n")
    update: dict[str, Any] = json.loads((await viewer.read_body_until(b"\n\n")).removeprefix(b"data: "))
    viewer.reset()
    return update


def draining(streams: list[dict[str, Any]]) -> dict[str, bool]:
    """Which streams there are, by their ids, and which of them are those of a process that drains."""
    return {stream["id"]: stream.get("draining", False) for stream in streams}


def are(expected: dict[str, bool]) -> Callable[[list[dict[str, Any]]], bool]:
    return lambda streams: draining(streams) == expected


async def test_the_last_of_three_processes_shows_and_stops_the_streams_of_all(
    serve: Serve, dial: Connect, tmp_path: Path, address: str
) -> None:
    upstream = await serve(one_event)
    routes: list[Config] = [
        {"path": "/kept", "upstream": upstream.url, "resume": {"ids": "off"}},
        {"path": "/*", "upstream": upstream.url},
    ]
    config = configuration(routes, server={"listen": address, "drain_timeout": "10m"})
    file = write_configuration(tmp_path, config)
    with ExitStack() as stack:
        first = await served(stack.enter_context(program(file)), file)
        one, _ = await streaming(dial, first, "/one?key=secret", "one")
        _, cursor = await streaming(dial, first, "/kept", "kept")
        second = await served(stack.enter_context(program(file)), file)
        two, _ = await streaming(dial, second, "/two", "two")
        third = await served(stack.enter_context(program(file)), file)
        three, _ = await streaming(dial, third, "/three", "one")  # an id that another process has in use

        streams = await third.streams()
        assert list(draining(streams).values()) == [True, True, True, False]
        assert [stream["path"] for stream in streams] == ["/one?key=***", "/kept", "/two", "/three"]
        assert {(stream["request_id"], stream["events"], stream["phase"]) for stream in streams} == {
            (id, 1, "body") for id in ("one", "kept", "two")
        }
        update = await shown(dial, third)
        assert draining(update["streams"]) == draining(streams)
        # The numbers of the processes that drain come with a second of delay, their streams do not.
        assert (update["totals"]["live"], update["matching"]) == (4, 4)

        # The owner's stop finds its stream, and nobody else's does.
        for who, status in ((("Authorization", "Bearer other"), 404), (OWNER, 204), (OWNER, 204)):
            stop = await fetch(f"{third.url}/kept", method="DELETE", headers=[("Last-Event-ID", cursor.decode()), who])
            assert stop.status == status
        await upstream.connections[1].wait_ended()

        # The operator's stop. The own stream has the id "one", so that of the first process has got another.
        (other,) = (stream["id"] for stream in streams if stream["path"].startswith("/one"))
        assert other != "one"
        assert (await fetch(f"{third.admin}/streams/{other}", method="DELETE")).status == 202
        assert not (await one.read_rest()).complete
        assert await first.process.exited() == 0
        await third.until_streams("what is left", are({"two": True, "one": False}))
        assert (await fetch(f"{third.admin}/streams/two", method="DELETE")).status == 202
        assert not (await two.read_rest()).complete
        assert await second.process.exited() == 0
        await third.until_streams("its own stream", are({"one": False}))
        assert (await fetch(f"{third.admin}/streams/{other}", method="DELETE")).status == 404
        three.reset()
        assert await third.process.stop() == 0


async def test_workers_of_a_process_that_drains_are_seen_by_the_next_supervisor(
    serve: Serve, dial: Connect, tmp_path: Path, address: str
) -> None:
    upstream = await serve(one_event)
    config = configuration(upstream.url, server={"listen": address, "drain_timeout": "10m", "workers": 2})
    file = write_configuration(tmp_path, config)
    with ExitStack() as stack:
        old = await served(stack.enter_context(program(file)), file)
        clients = [(await streaming(dial, old, "/", id))[0] for id in ("a", "b", "c")]
        new = await served(stack.enter_context(program(file)), file)
        mine, _ = await streaming(dial, new, "/", "mine")
        await new.until_streams("all", are({"a": True, "b": True, "c": True, "mine": False}))
        for id, client in zip(("a", "b", "c"), clients, strict=True):
            assert (await fetch(f"{new.admin}/streams/{id}", method="DELETE")).status == 202
            assert not (await client.read_rest()).complete
        assert await old.process.exited() == 0
        await new.until_streams("its own", are({"mine": False}))
        mine.reset()
        assert await new.process.stop() == 0
