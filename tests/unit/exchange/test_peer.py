"""Seeing a peer leave without reading."""

from __future__ import annotations

import asyncio
import socket

import pytest

from streamproxy.exchange.peer import PeerWatch, has_left


def pair(family: int) -> tuple[socket.socket, socket.socket]:
    if family == socket.AF_UNIX:
        return socket.socketpair()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ours = socket.create_connection(listener.getsockname())
        return ours, listener.accept()[0]


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
@pytest.mark.parametrize("how", ["close", "half-close"])
def test_a_peer_that_left_is_seen_behind_unread_bytes(family: int, how: str) -> None:
    ours, theirs = pair(family)
    with ours, theirs:
        theirs.sendall(b"x" * 1000)
        assert not has_left(ours.fileno())
        if how == "close":
            theirs.close()
        else:
            theirs.shutdown(socket.SHUT_WR)
        assert has_left(ours.fileno())
        assert len(ours.recv(2000)) == 1000


async def test_a_watch_tells_once_and_arms_no_timer_a_pause() -> None:
    ours, theirs = pair(socket.AF_INET)
    loop = asyncio.get_running_loop()
    left = asyncio.Event()
    armed = 0

    class Counting:
        def call_later(self, delay: float, call: object) -> asyncio.TimerHandle:
            nonlocal armed
            armed += 1
            return loop.call_later(delay / 50, call)  # type: ignore[arg-type]  # any callable

    with ours, theirs:
        watch = PeerWatch(Counting(), ours.fileno(), left.set)  # type: ignore[arg-type]  # what it uses of a loop
        for _ in range(1000):
            watch.start()
            watch.stop()
        assert armed == 1
        watch.start()
        theirs.close()
        async with asyncio.timeout(10):
            await left.wait()
        watch.close()
