"""The interface through which the admin listener observes and controls a running proxy.

`Control` is the common base of a proxy with one process (`streamproxy.app.Application`) and with several
(`streamproxy.process.fleet.Fleet`). The admin application, the drain and the reloader use the proxy only through it.

A proxy that has taken over from another one also shows the exchanges that the other one still ends: its `Predecessor`.
They are not in the ledger, since this proxy neither counts nor drains them.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping
from hashlib import sha256
from hmac import compare_digest
from types import MappingProxyType
from typing import Any, Final, NamedTuple

from streamproxy.config.model import Config
from streamproxy.errors import StoppedByOperator
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger, Observer
from streamproxy.observe.ended import Endings
from streamproxy.observe.log import configure
from streamproxy.observe.metrics import Metrics
from streamproxy.store.base import StopResult
from streamproxy.wire.hosts import Hosts

_LOCAL = ("localhost", "*.localhost")  # names that never leave the machine (RFC 6761, section 6.3)


class Reloaded(NamedTuple):
    """The outcome of a reload.

    ``problems`` is what is wrong with the new configuration; it changed nothing unless this is empty. ``restart`` are
    the keys whose new values require a restart.
    """

    problems: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


class Predecessor(ABC):
    """The process that this one has taken over from, until it has ended its exchanges.

    ``live`` are copies of these exchanges as of the last `refresh`, oldest first, by ids that no exchange of this
    process has. Interrupting a copy interrupts the exchange.
    """

    live: Mapping[str, Exchange]

    @abstractmethod
    async def refresh(self, *, streams: bool) -> None:
        """Updates its numbers, or ``live`` if ``streams`` is set.

        If the other process does not respond in time, the last state is kept.
        """

    @abstractmethod
    async def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        """Ends a resumable stream that the other process keeps in memory; see `StopElsewhere`."""


_NONE: Final[Mapping[str, Exchange]] = MappingProxyType({})


class Control(ABC):
    """A running proxy, as seen by the admin listener.

    A subclass sets ``metrics`` and ``ended``. ``draining`` is set while the process shuts down. ``predecessor`` is set
    while another process ends its exchanges. ``reloader`` reads the configuration again, or is None if there is no
    file. ``reload_problems`` are the problems of the last reload.
    """

    metrics: Metrics
    ended: Endings

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.draining = False
        self.predecessor: Predecessor | None = None
        self.reloader: Callable[[], Awaitable[Reloaded]] | None = None
        self.reload_problems: tuple[str, ...] = ()
        self._access_log: Observer | None = None

    @property
    @abstractmethod
    def in_force(self) -> Config:
        """The configuration for new requests."""

    @property
    def drained(self) -> Mapping[str, Exchange]:
        """The live exchanges of the predecessor by their ids, oldest first; empty without one."""
        return _NONE if self.predecessor is None else self.predecessor.live

    async def refresh(self, *, streams: bool, predecessor: bool = True) -> None:
        """Updates the numbers, or also the live exchanges of other processes if ``streams`` is set.

        Awaited before they are read. What the predecessor counts is brought up to date unless ``predecessor`` is False:
        a process that hangs must not delay an answer that does not need it.
        """
        if predecessor and self.predecessor is not None:
            await asyncio.gather(self._refresh(streams=streams), self.predecessor.refresh(streams=streams))
        else:
            await self._refresh(streams=streams)

    @abstractmethod
    async def _refresh(self, *, streams: bool) -> None:
        """Updates the numbers, and the ledger if ``streams`` is set. Does nothing if they belong to this process."""

    async def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        """Ends a resumable stream that this process or a predecessor keeps in memory; see `StopElsewhere`."""
        return "unknown" if self.predecessor is None else await self.predecessor.stop_kept(stream, owner)

    @abstractmethod
    async def adopt(self, config: Config) -> None:
        """Puts another configuration into force for new requests. Running ones keep the one they began with.

        Raises StreamproxyError if one of its files cannot be used; nothing has changed then.
        """

    @abstractmethod
    def _not_serving(self) -> list[str]:
        """Returns the reasons other than draining why the proxy is not ready."""

    def ready(self) -> list[str]:
        """Returns the reasons why the proxy is not ready, one phrase each; empty if it is ready."""
        draining = ["draining"] if self.draining else []
        return list(dict.fromkeys([*draining, *self._not_serving()]))

    def stop(self, id: str) -> bool:
        """Ends the live exchange with this id, also one of the predecessor. Returns False if there is none."""
        exchange = self.ledger.live.get(id) or self.drained.get(id)
        if exchange is None:
            return False
        exchange.interrupt(StoppedByOperator())
        return True

    async def reload(self) -> Reloaded | None:
        """Reads the configuration again and puts it into force. Returns None if there is no file."""
        return None if self.reloader is None else await self.reloader()

    def config(self) -> dict[str, Any]:
        """Returns the configuration in force as plain data, with secrets hidden."""
        return self.in_force.redacted()

    @property
    def hosts(self) -> Hosts:
        """The accepted Host names of the admin application, in addition to addresses."""
        return known_hosts(self.in_force)

    @property
    def needs_token(self) -> bool:
        """Whether the admin application requires a token."""
        return self.in_force.admin.token is not None

    def admits(self, token: bytes) -> bool:
        """Whether this is the token of the admin application, compared in constant time."""
        expected = (self.in_force.admin.token or "").encode()
        # Digests have a fixed length, so the comparison does not reveal the length of the token.
        return compare_digest(sha256(token).digest(), sha256(expected).digest()) and self.needs_token

    def _configure_log(self) -> None:
        """Sets up the loggers according to the configuration in force."""
        log = self.in_force.log
        access_log = configure(log.level, log.format, log.access)
        self._access_log = self._observe_with(None if access_log is None else access_log.observe, self._access_log)

    def _observe_with(self, new: Observer | None, old: Observer | None) -> Observer | None:
        """Replaces an observer of the ends of exchanges; None means no observer. Returns ``new``."""
        others = [observer for observer in self.ledger.observers if observer is not old]
        self.ledger.observers = others if new is None else [*others, new]
        return new


def known_hosts(config: Config) -> Hosts:
    """Returns the names of the admin application: those listed in the configuration, and those it listens on."""
    listens = (*config.admin.listen, *(config.server.listen if config.admin.mount else ()))
    return Hosts((*_LOCAL, *config.admin.hosts, *(address.host for address in listens if address.host)))
