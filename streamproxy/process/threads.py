"""Blocking work beside the event loop that the process does not wait for when it ends.

Reading a file may hang: on a network file system that is gone, or on a pipe without a writer. A loop waits for the
threads of its own executor when it closes, so one that hangs there would keep the process alive after a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(call: Callable[[], T]) -> T:
    """Run ``call`` in a new daemon thread, and return its result or raise its exception.

    Cancelling the wait leaves the thread to itself.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)  # type: ignore[arg-type]  # a T whenever there is no error

    def work() -> None:
        result, error = None, None
        try:
            result = call()
        except BaseException as raised:
            error = raised
        with contextlib.suppress(RuntimeError):  # the loop is closed
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=work, name="streamproxy-blocking", daemon=True).start()
    return await future
