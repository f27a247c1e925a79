"""The command `streamproxy top`: connects updates, keys and the screen."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import aclosing, contextmanager
from typing import TYPE_CHECKING

from streamproxy.admin.update import Update
from streamproxy.errors import StreamproxyError
from streamproxy.top.model import Command, Top
from streamproxy.top.plain import summary, table
from streamproxy.top.source import Admin, Source, Unreachable

if TYPE_CHECKING:
    from rich.live import Live

REDRAW = "redraw"
_RETRY = 1.0  # seconds until a lost proxy is tried again

Say = Callable[[str], None]


def run_top(admin: Admin, interval: float, token: str | None, *, once: bool, say: Say) -> None:
    """Shows the streams of the proxy with this admin listener every ``interval`` seconds until the user quits.

    ``token`` is the token of the admin listener, if it has one. With ``once``, or without a terminal, prints one plain
    table. Raises StreamproxyError.
    """
    source = Source(admin, interval, token)
    if once or not (sys.stdin.isatty() and sys.stdout.isatty()):
        update = asyncio.run(_first(source, admin))
        say(summary(update))
        say("")
        say(table(update))
        return
    try:
        import rich  # noqa: F401 - an extra: asked for before anything is shown
    except ImportError:
        raise StreamproxyError(
            "the live table needs rich: pip install 'streamproxy[top]'; --once prints a plain one without it"
        ) from None
    asyncio.run(_show(source))


async def _first(source: Source, admin: Admin) -> Update:
    async with source, aclosing(source.updates(Top().view())) as updates:
        async for update in updates:
            return update
    raise Unreachable(f"{admin} ended without an update")


async def _show(source: Source) -> None:
    async with source:
        session = _Session(source)
        await session.start()
        try:
            session.top.on_update(await session.first())
            with _terminal(session) as live:
                await session.run(live)
        finally:
            await session.aclose()


class _Session:
    """Handles updates, keys and redraws one after the other, from a single queue."""

    def __init__(self, source: Source) -> None:
        self.top = Top()
        self._source = source
        self._news: asyncio.Queue[Update | Unreachable | str] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Starts to receive updates of the model's current view."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self._watch = asyncio.get_running_loop().create_task(self._look())

    async def first(self) -> Update:
        """Returns the first update. Raises Unreachable if there is none."""
        news = await self._news.get()
        if isinstance(news, Unreachable):
            raise news
        assert not isinstance(news, str)
        return news

    def press(self, key: str) -> None:
        """Handles a key, or REDRAW if only the screen has changed."""
        self._news.put_nowait(key)

    async def run(self, live: Live) -> None:
        """Shows updates until a key quits."""
        from streamproxy.top.screen import render

        while True:
            live.update(render(self.top, live.console), refresh=True)
            news = await self._news.get()
            if isinstance(news, Unreachable):
                self.top.lost = True
            elif not isinstance(news, str):
                self.top.on_update(news)
            elif news == REDRAW:
                continue
            elif (command := self.top.on_key(news)) is not None:
                if command.what == "quit":
                    return
                await self._do(command)

    async def _do(self, command: Command) -> None:
        if command.what == "look":
            await self.start()
            return
        task = asyncio.get_running_loop().create_task(self._stop(command.stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _stop(self, stream: str) -> None:
        self.top.message = await self._source.stop(stream)
        self.press(REDRAW)

    async def _look(self) -> None:
        while True:
            try:
                async with aclosing(self._source.updates(self.top.view())) as updates:
                    async for update in updates:
                        self._news.put_nowait(update)
            except Unreachable as error:
                self._news.put_nowait(error)
                await asyncio.sleep(_RETRY)

    async def aclose(self) -> None:
        """Stops all tasks."""
        tasks = [task for task in (self._watch, *self._tasks) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _terminal(session: _Session) -> Iterator[Live]:
    """Uses the terminal's alternate screen and reads its keyboard while the table is shown, then restores both."""
    from rich.console import Console
    from rich.live import Live

    from streamproxy.top.keys import Keys, keyboard

    loop, fd = asyncio.get_running_loop(), sys.stdin.fileno()
    keys = Keys(fd)

    def on_input() -> None:
        for key in keys.read():
            session.press(key)

    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        loop.add_signal_handler(number, session.press, "ctrl-c")
    loop.add_signal_handler(signal.SIGWINCH, session.press, REDRAW)
    loop.add_reader(fd, on_input)
    try:
        with (
            keyboard(fd),
            Live(
                console=Console(), screen=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
            ) as live,
        ):
            yield live
    finally:
        loop.remove_reader(fd)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGWINCH):
            loop.remove_signal_handler(number)
