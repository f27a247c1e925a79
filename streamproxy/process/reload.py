"""Reload: another configuration comes into force without a cut.

Theory of operation. SIGHUP, ``POST /reload`` and a change of the files ask for the same thing, and one after the other
they get it: the file is read and checked, certificates are loaded, routes and upstreams are compiled beside those
that serve, and then references are swapped in one turn of the loop (`Application.adopt`, `ListenerTls.prepare`).
Whatever goes wrong before that changes nothing; it is logged with its positions, counted, and shown by ``/readyz``
until a reload succeeds.

What a listener was opened with stays until a restart. Such keys keep the values that they had at the start, in
``/config`` too, and a reload that would change them says so each time.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

from streamproxy.admin.app import Reloaded
from streamproxy.config import Config
from streamproxy.config.model import Server, ServerTls
from streamproxy.errors import ConfigError, StreamproxyError
from streamproxy.observe.metrics import Metrics
from streamproxy.process.files import Contents, contents, looks
from streamproxy.process.threads import aside
from streamproxy.server.tls import ListenerTls

logger = logging.getLogger("streamproxy.reload")

# What of ``server`` a reload puts into force; ``tls`` as far as `_same_kind` lets it.
_LIVE = frozenset({"trusted_proxies", "drain_timeout", "drain_delay", "tls"})


class Reloadable(Protocol):
    """What can be given another configuration."""

    reload_problems: tuple[str, ...]

    @property
    def metrics(self) -> Metrics: ...
    @property
    def in_force(self) -> Config: ...

    async def adopt(self, config: Config) -> None:
        """Put another configuration into force; raises StreamproxyError and changes nothing when that can't be."""
        ...


class Source:
    """Where the configuration comes from: its file, and how that is read; ``load`` raises ConfigError.

    To be made before the first ``load``: what the file says by then has been ``seen``.
    """

    def __init__(self, path: Path, load: Callable[[], Config]) -> None:
        self.path = path
        self.load = load
        self.seen = contents([path])


def pin(started: Config, new: Config) -> tuple[Config, list[str]]:
    """``new`` as far as it can come into force in a process that was started with ``started``.

    Gives it with the other keys as they were, and the names of those keys.
    """
    fixed = {key: getattr(started.server, key) for key in Server.model_fields if key not in _LIVE}
    keys = [f"server.{key}" for key, value in fixed.items() if getattr(new.server, key) != value]
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
    """Whether an open listener can go from one to the other: both plain, or both with client certificates or none."""
    if old is None or new is None:
        return old is new
    return (old.client_ca is None) == (new.client_ca is None)


class Reloader:
    """Reloads an application from where its configuration came from."""

    def __init__(self, app: Reloadable, source: Source, tls: ListenerTls | None) -> None:
        self._app = app
        self._source = source
        self._tls = tls
        self._started = app.in_force
        self._seen: Contents = contents(self.files()) | source.seen
        self._one_at_a_time = asyncio.Lock()

    def files(self) -> list[Path]:
        """The files whose change calls for a reload: the configuration, and the listener's certificates."""
        tls = self._app.in_force.server.tls
        names = [] if tls is None else [tls.cert, tls.key, tls.client_ca]
        return [self._source.path, *(Path(name) for name in names if name is not None)]

    async def follow(self, stop: asyncio.Event) -> None:
        """Reload whenever the content of a file has changed, until ``stop`` is set."""
        try:
            async for _ in looks(self.files, stop):
                if contents(self.files()) != self._seen:
                    await self.reload()
        except Exception as error:
            logger.warning("changes of the configuration are not seen; reload it with SIGHUP: %s", error)

    async def reload(self) -> Reloaded:
        """Read the configuration again and put it into force, or say what is wrong with it. Raises nothing."""
        async with self._one_at_a_time:
            self._seen = contents(self.files())
            try:
                restart = await self._reload()
            except ConfigError as error:
                return self._failed(str(problem) for problem in error.problems)
            except (StreamproxyError, OSError, ValueError) as error:
                return self._failed([str(error)])
            except Exception:
                logger.exception("the reload failed")
                return self._failed(["the reload failed; the log says why"])
            self._seen = contents(self.files()) | self._seen
        self._app.reload_problems = ()
        self._app.metrics.reloaded(True)
        logger.info("the configuration was reloaded")
        if restart:
            logger.warning("not before a restart: %s", ", ".join(restart))
        return Reloaded(restart=tuple(restart))

    async def _reload(self) -> list[str]:
        # A large file takes a while to read, and so do certificates; streams go on meanwhile.
        path = self._source.path
        if path.exists() and not path.is_file():
            raise StreamproxyError(f"{path}: is not a regular file, so it cannot be read again")
        config, restart = pin(self._started, await aside(self._source.load))
        swap = None
        if self._tls is not None and config.server.tls is not None:
            swap = await aside(partial(self._tls.prepare, config.server.tls))
        await self._app.adopt(config)
        if swap is not None:
            swap()
        return restart

    def _failed(self, problems: Iterable[str]) -> Reloaded:
        found = self._app.reload_problems = tuple(problems)
        self._app.metrics.reloaded(False)
        logger.error("the configuration was not reloaded, the one before stays in force")
        for problem in found:
            logger.error("%s", problem)
        return Reloaded(problems=found)
