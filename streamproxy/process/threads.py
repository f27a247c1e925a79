"""Blocking work in threads that the process does not wait for when it exits.

Reading a file may hang, on an unreachable network file system or on a pipe without a writer. An event loop waits for
the threads of its executor when it closes, so a hanging thread would keep the process alive after a signal.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def run_in_daemon_thread(call: Callable[[], T]) -> T:
    """Runs ``call`` in a new daemon thread. Returns its result or raises its exception.

    Cancelling the wait does not stop the thread.
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
