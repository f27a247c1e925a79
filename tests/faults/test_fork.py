"""Workers die and are started under load: nothing is cut that need not be, and no descriptor goes astray.

``STREAMPROXY_FORK=1000`` makes it a thousand streams.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.doubles.client import RawClient, connect, fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.proxy import RunningProxy, configuration, running
from tests.integration.test_workers import children

STREAMS = int(os.environ.get("STREAMPROXY_FORK", "200"))
FEW = STREAMS // 8
CLOEXEC = 0o2000000  # in /proc/PID/fdinfo (proc(5)); O_CLOEXEC of Linux


@pytest.fixture(autouse=True)
def _descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 4 * STREAMS:
        pytest.skip(f"only {hard} descriptors")
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


class Turns:
    """Events of all streams: each sends one a turn, and ends after the last."""

    def __init__(self) -> None:
        self.number = 0
        self.last = False
        self._change = asyncio.Condition()

    async def next(self, last: bool = False) -> None:
        async with self._change:
            self.number += 1
            self.last = last
            self._change.notify_all()

    async def script(self, conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head())
        sent = self.number
        await conn.send_chunk(b"data: %d\n\n" % sent)
        while not self.last:
            async with self._change:
                await self._change.wait_for(partial(self._beyond, sent))
            sent += 1
            await conn.send_chunk(b"data: %d\n\n" % sent)
        await conn.send_chunk(b"")

    def _beyond(self, number: int) -> bool:
        return self.number > number


class Stream:
    """A client, and the number of the event that it has to get next."""

    def __init__(self, client: RawClient, at: int) -> None:
        self.client = client
        self.at = at

    @classmethod
    async def open(cls, proxy: RunningProxy) -> Stream:
        client = await connect(proxy.url)
        await client.request("/")
        assert (await client.read_head()).status == 200
        event = await client.read_body_until(b"\n\n")
        return cls(client, int(event[6:]) + 1)

    async def event(self) -> bool:
        """Whether the next event has come; not if the stream was cut."""
        try:
            assert await self.client.read_body_until(b"\n\n") == b"data: %d\n\n" % self.at
        except PeerEnded:
            return False
        self.at += 1
        return True


def passed_on(pid: int) -> list[str]:
    """What a program that this process starts would get besides 0, 1 and 2."""
    found = []
    for one in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            flags = next(line.split()[1] for line in one.read_text().splitlines() if line.startswith("flags:"))
            if int(one.name) > 2 and not int(flags, 8) & CLOEXEC:
                found.append(os.readlink(f"/proc/{pid}/fd/{one.name}"))
    return found


def sockets(pid: int) -> int:
    count = 0
    for one in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # it was closed meanwhile
            count += os.readlink(one).startswith("socket:")
    return count


async def several(proxy: RunningProxy, count: int) -> list[Stream]:
    return await asyncio.gather(*(Stream.open(proxy) for _ in range(count)))


async def killed(proxy: RunningProxy, streams: list[Stream], turns: Turns) -> list[Stream]:
    """Kill the worker that has lived longest, and see that it is replaced. Returns the streams that go on."""
    supervisor = proxy.process.pid
    before = children(supervisor)
    dying, other = before
    assert [passed_on(pid) for pid in (supervisor, *before)] == [[], [], []]
    its = sockets(dying)
    os.kill(dying, signal.SIGKILL)
    newcomers = asyncio.create_task(several(proxy, 20))
    await turns.next()
    going_on = dict(zip(streams, await asyncio.gather(*(one.event() for one in streams)), strict=True))
    live = [one for one, goes_on in going_on.items() if goes_on]
    assert min(len(live), len(streams) - len(live)) > FEW, "one of the workers had hardly any stream"
    await asyncio.gather(*(one.client.aclose() for one, goes_on in going_on.items() if not goes_on))
    live += [one for one in await newcomers if one.at > turns.number or await one.event()]
    await until(lambda: len(children(supervisor)) == 2, "another worker")
    (successor,) = set(children(supervisor)) - {other}
    await until(lambda: fetch(f"{proxy.admin}/readyz"), "it to be ready", holds=lambda answer: answer.status == 200)
    has = sockets(successor)
    assert has < its / 2, "it has the connections of the dead one"
    while sockets(successor) < has + 4 * FEW:  # what share it gets is decided each second
        live += await several(proxy, 10)
    return live


async def test_workers_die_among_many_streams_and_only_theirs_are_cut(serve: Serve, tmp_path: Path) -> None:
    turns = Turns()
    upstream = await serve(turns.script)
    config = configuration(upstream.url, server={"workers": 2, "drain_timeout": "20s"}, log={"access": "off"})
    async with running(config, tmp_path) as proxy:
        streams: list[Stream] = []
        while len(streams) < STREAMS:
            streams += await several(proxy, 50)
        for _ in range(2):  # both of them
            streams = await killed(proxy, streams, turns)
        await turns.next(last=True)
        assert all(await asyncio.gather(*(one.event() for one in streams)))
        for one in streams:
            assert (await one.client.read_rest()).complete
            await one.client.aclose()
        await proxy.until_streams("no stream", lambda live: live == [])
