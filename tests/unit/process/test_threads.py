"""Work beside the loop."""

from __future__ import annotations

import asyncio
import threading

import pytest

from streamproxy.process.threads import run_in_daemon_thread


async def test_it_gives_what_the_call_gives_from_another_thread() -> None:
    assert await run_in_daemon_thread(threading.get_ident) != threading.get_ident()


async def test_it_raises_what_the_call_raises() -> None:
    def fail() -> None:
        raise ZeroDivisionError("hush")

    with pytest.raises(ZeroDivisionError, match="hush"):
        await run_in_daemon_thread(fail)


def test_a_call_that_hangs_does_not_keep_the_loop_from_its_end() -> None:
    begun, hang = threading.Event(), threading.Event()

    def call() -> None:
        begun.set()
        hang.wait()

    async def main() -> None:
        task = asyncio.create_task(run_in_daemon_thread(call))
        await asyncio.to_thread(begun.wait)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())  # would wait for a thread of the loop's own
    (thread,) = [one for one in threading.enumerate() if one.name == "streamproxy-blocking"]
    assert thread.daemon
    hang.set()
    thread.join()  # finds the loop closed, and is silent about it
