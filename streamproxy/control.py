"""What the admin listener may ask of a running proxy, and what it may do to it.

`Control` is the one interface, and holds what a proxy of one process (`streamproxy.app.Application`) and a proxy of
several (`streamproxy.process.fleet.Fleet`) have in common. The admin application, the drain and the reloader know the
proxy only as a `Control`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from hashlib import sha256
from hmac import compare_digest
from typing import Any, NamedTuple

from streamproxy.config.model import Config
from streamproxy.errors import StoppedByOperator
from streamproxy.exchange.ledger import Ledger, Observer
from streamproxy.observe.ended import Endings
from streamproxy.observe.log import configure
from streamproxy.observe.metrics import Metrics
from streamproxy.wire.hosts import Hosts

_LOCAL = ("localhost", "*.localhost")  # names that never leave the machine (RFC 6761, section 6.3)


class Reloaded(NamedTuple):
    """The outcome of a reload.

    ``problems`` are what is wrong with the new configuration, which then changed nothing. ``restart`` are the keys
    whose new value needs a restart.
    """

    problems: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


class Control(ABC):
    """A running proxy, as the admin listener sees it.

    A subclass sets ``metrics`` and ``ended``. ``draining`` is set while the process is about to end. ``reloader`` reads
    the configuration again, where there is a file to read; ``reload_problems`` are what was wrong with it the last
    time.
    """

    metrics: Metrics
    ended: Endings

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.draining = False
        self.reloader: Callable[[], Awaitable[Reloaded]] | None = None
        self.reload_problems: tuple[str, ...] = ()
        self._access_log: Observer | None = None

    @property
    @abstractmethod
    def in_force(self) -> Config:
        """The configuration that new requests see."""

    @abstractmethod
    async def refresh(self, *, streams: bool) -> None:
        """Bring the numbers up to date, and the live exchanges of the ledger too when ``streams`` is set.

        Awaited before each look. Does nothing where the exchanges are this process's own.
        """

    @abstractmethod
    async def adopt(self, config: Config) -> None:
        """Put another configuration into force for new requests; running ones keep the one that they began with.

        Raises StreamproxyError when a file that it names can't be used; nothing has changed then.
        """

    @abstractmethod
    def _not_serving(self) -> list[str]:
        """The reasons other than draining for which the proxy is not ready."""

    def ready(self) -> list[str]:
        """The reasons why the proxy is not ready, one phrase each; empty when it is ready."""
        draining = ["draining"] if self.draining else []
        return list(dict.fromkeys([*draining, *self._not_serving()]))

    def stop(self, id: str) -> bool:
        """End the live exchange with this id. Returns False when there is none."""
        exchange = self.ledger.live.get(id)
        if exchange is None:
            return False
        exchange.interrupt(StoppedByOperator())
        return True

    async def reload(self) -> Reloaded | None:
        """Read the configuration again and put it into force; None where there is no file to read it from."""
        return None if self.reloader is None else await self.reloader()

    def config(self) -> dict[str, Any]:
        """The configuration in force as plain data, secrets hidden."""
        return self.in_force.redacted()

    @property
    def hosts(self) -> Hosts:
        """The names by which the admin application may be asked, beside addresses."""
        return known_hosts(self.in_force)

    @property
    def needs_token(self) -> bool:
        """Whether the admin application asks for a token."""
        return self.in_force.admin.token is not None

    def admits(self, token: bytes) -> bool:
        """Whether this is the token of the admin application; the comparison takes constant time."""
        expected = (self.in_force.admin.token or "").encode()
        # Digests have one length, so that the comparison tells nothing of the token's.
        return compare_digest(sha256(token).digest(), sha256(expected).digest()) and self.needs_token

    def _configure_log(self) -> None:
        """Set up the loggers as the configuration in force says."""
        log = self.in_force.log
        access_log = configure(log.level, log.format, log.access)
        self._access_log = self._observe_with(None if access_log is None else access_log.observe, self._access_log)

    def _observe_with(self, new: Observer | None, old: Observer | None) -> Observer | None:
        """Have ``new`` observe the ends of exchanges in place of ``old``; None is nobody. Returns ``new``."""
        others = [observer for observer in self.ledger.observers if observer is not old]
        self.ledger.observers = others if new is None else [*others, new]
        return new


def known_hosts(config: Config) -> Hosts:
    """The names of the admin application: those that the configuration lists, and those that it listens on."""
    listens = (*config.admin.listen, *(config.server.listen if config.admin.mount else ()))
    return Hosts((*_LOCAL, *config.admin.hosts, *(address.host for address in listens if address.host)))
