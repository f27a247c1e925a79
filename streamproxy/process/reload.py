"""Reload: puts another configuration into force without cutting a stream.

Theory of operation. SIGHUP, ``POST /reload`` and a change of the files request a reload; reloads run one after the
other. The file is read and checked, certificates are loaded, and routes and upstreams are built beside those in use.
Then the references are swapped in one iteration of the loop (`Control.adopt`, `ListenerTls.prepare`). An error before
that changes nothing: it is logged with its position, counted, and shown by ``/readyz`` until a reload succeeds.

Files are read in a separate thread, for at most `READING` seconds each time, so that a hanging file system blocks
neither streams nor later reloads.

Settings of open listeners require a restart. Such keys keep their values from the start, also in ``/config``, and a
reload that would change them logs this each time.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import TypeVar

from streamproxy.config import Config
from streamproxy.config.model import Server, ServerTls
from streamproxy.control import Control, Reloaded
from streamproxy.errors import ConfigError, StreamproxyError
from streamproxy.process.files import Contents, contents, looks
from streamproxy.process.threads import run_in_daemon_thread
from streamproxy.server.tls import ListenerTls

logger = logging.getLogger("streamproxy.reload")

READING = 30.0  # seconds for the files to be read

T = TypeVar("T")

# The keys of ``server`` that a reload applies; ``tls`` only as `_same_kind` allows.
_LIVE = frozenset({"trusted_proxies", "drain_timeout", "drain_delay", "tls"})


class Source:
    """The source of the configuration: the file, and ``load``, which reads it and raises ConfigError.

    Create it before the first ``load``, because it remembers the content of the file (``seen``).
    """

    def __init__(self, path: Path, load: Callable[[], Config]) -> None:
        self.path = path
        self.load = load
        self.seen = contents([path])


def pin(started: Config, new: Config) -> tuple[Config, list[str]]:
    """Returns the part of ``new`` that can come into force in a process started with ``started``.

    All other keys keep their values from the start; the names of those that differ are returned too.
    """
    fixed = {key: getattr(started.server, key) for key in Server.model_fields if key not in _LIVE}
    keys = [f"server.{key}" for key, value in fixed.items() if getattr(new.server, key) != value]
    if "server.engine" in keys and "server.http2" in keys:
        keys.remove("server.http2")  # its default is the engine's
    if not _same_kind(started.server.tls, new.server.tls):
        fixed["tls"] = started.server.tls
        keys.append(
            "server.tls" if (started.server.tls is None) != (new.server.tls is None) else "server.tls.client_ca"
        )
    admin = new.admin
    if new.admin.listen != started.admin.listen:
        admin = admin.model_copy(update={"listen": started.admin.listen})
        keys.append("admin.listen")
    if not keys:
        return new, []
    return new.model_copy(update={"server": new.server.model_copy(update=fixed), "admin": admin}), keys


def _same_kind(old: ServerTls | None, new: ServerTls | None) -> bool:
    """Whether an open listener can switch between two TLS settings: both plain, or both with or without client CAs."""
    if old is None or new is None:
        return old is new
    return (old.client_ca is None) == (new.client_ca is None)


class Reloader:
    """Reloads a proxy from the source of its configuration."""

    def __init__(self, control: Control, source: Source, tls: ListenerTls | None) -> None:
        self._control = control
        self._source = source
        self._tls = tls
        self._started = control.in_force
        self._seen: Contents = contents(self.files()) | source.seen
        self._one_at_a_time = asyncio.Lock()

    def files(self) -> list[Path]:
        """Returns the files whose change triggers a reload: the configuration, and the listener's certificates."""
        tls = self._control.in_force.server.tls
        names = [] if tls is None else [tls.cert, tls.key, tls.client_ca]
        return [self._source.path, *(Path(name) for name in names if name is not None)]

    async def follow(self, stop: asyncio.Event) -> None:
        """Reloads whenever the content of a file has changed, until ``stop`` is set."""
        try:
            async for _ in looks(self.files, stop):
                if await self._changed():
                    await self.reload()
        except Exception as error:
            logger.warning("changes of the configuration are not detected; reload it with SIGHUP: %s", error)

    async def _changed(self) -> bool:
        try:
            return await self._contents() != self._seen
        except StreamproxyError as error:
            logger.warning("%s", error)
            return False

    async def _contents(self) -> Contents:
        return await self._read(partial(contents, self.files()))

    async def _read(self, call: Callable[[], T]) -> T:
        """Runs a call that reads files in a thread, with a time limit. Raises StreamproxyError."""
        try:
            async with asyncio.timeout(READING):
                return await run_in_daemon_thread(call)
        except TimeoutError:
            raise StreamproxyError(f"{self._source.path}: could not be read within {READING:g} seconds") from None

    async def reload(self) -> Reloaded:
        """Reads the configuration again and puts it into force, or returns its problems. Never raises."""
        async with self._one_at_a_time:
            try:
                self._seen = await self._contents()
                restart = await self._reload()
                self._seen = await self._contents() | self._seen
            except ConfigError as error:
                return self._failed(str(problem) for problem in error.problems)
            except (StreamproxyError, OSError, ValueError) as error:
                return self._failed([str(error)])
            except Exception:
                logger.exception("the reload failed")
                return self._failed(["the reload failed; the log says why"])
        self._control.reload_problems = ()
        self._control.metrics.reloaded(True)
        logger.info("the configuration was reloaded")
        if restart:
            logger.warning("restart required to apply: %s", ", ".join(restart))
        return Reloaded(restart=tuple(restart))

    async def _reload(self) -> list[str]:
        path = self._source.path
        if path.exists() and not path.is_file():
            raise StreamproxyError(f"{path}: is not a regular file, so it cannot be read again")
        config, restart = pin(self._started, await self._read(self._source.load))
        swap = None
        if self._tls is not None and config.server.tls is not None:
            swap = await self._read(partial(self._tls.prepare, config.server.tls))
        await self._control.adopt(config)
        if swap is not None:
            swap()
        return restart

    def _failed(self, problems: Iterable[str]) -> Reloaded:
        found = self._control.reload_problems = tuple(problems)
        self._control.metrics.reloaded(False)
        logger.error("the configuration was not reloaded; the previous one stays in force")
        for problem in found:
            logger.error("%s", problem)
        return Reloaded(problems=found)


class Reloading:
    """Reloads on SIGHUP, ``POST /reload`` and changes of the files, between `begin` and `end`."""

    def __init__(self, control: Control, reloader: Reloader) -> None:
        self._control = control
        self._reloader = reloader
        self._over = asyncio.Event()
        self._asked: set[asyncio.Task[object]] = set()
        self._following: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Enables reloads."""
        loop = asyncio.get_running_loop()
        self._following = loop.create_task(self._reloader.follow(self._over), name="watch the configuration")
        self._control.reloader = self._reloader.reload
        loop.add_signal_handler(signal.SIGHUP, self._on_signal)

    def _on_signal(self) -> None:
        if len(self._asked) > 1:
            return  # one may have begun; another one will read the later content
        task = asyncio.get_running_loop().create_task(self._reloader.reload())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def end(self) -> None:
        """Disables reloads and cancels one in progress. Does nothing before `begin`."""
        if self._following is None:
            return
        # A process that is ending does not reload, but SIGHUP must not kill it.
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, lambda: None)
        self._control.reloader = _too_late
        self._over.set()
        tasks = (self._following, *self._asked)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _too_late() -> Reloaded:
    return Reloaded(problems=("the proxy is shutting down and does not reload its configuration",))
