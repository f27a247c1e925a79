"""What the connections to Redis have in common."""

from __future__ import annotations

import asyncio

from streamproxy.store.redis_connect import end_task


async def test_a_task_that_loses_a_cancellation_is_ended_all_the_same() -> None:
    lost = 0

    async def run() -> None:
        nonlocal lost
        while lost < 2:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                lost += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(run())
    await asyncio.sleep(0)
    await end_task(task)
    assert task.cancelled()
    assert lost == 2


async def test_a_task_that_has_failed_is_ended() -> None:
    async def run() -> None:
        raise ConnectionError

    task = asyncio.create_task(run())
    await asyncio.wait([task])
    await end_task(task)
    assert task.done()
