"""Work that blocks, beside the event loop, and that nobody has to wait for at the end.

What reads files may hang: on a network file system that is gone, on a pipe that nobody writes to. A loop's own executor
is waited for when the loop closes, so such a thread would keep a process from its end, and a signal could not help.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def aside(call: Callable[[], T]) -> T:
    """Call in a thread of its own; gives what it gives, and raises what it raises. Cancelled, it is left alone."""
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

    threading.Thread(target=work, name="aside", daemon=True).start()
    return await future
