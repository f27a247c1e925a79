"""What the admin application is told of the proxy it belongs to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from streamproxy.exchange.ledger import Ledger
from streamproxy.observe.metrics import Metrics
from streamproxy.wire.hosts import Hosts


class Reloaded(NamedTuple):
    """How a reload went: what is wrong with the configuration, which then changed nothing, or the names of its keys
    that a restart is needed for."""

    problems: tuple[str, ...] = ()
    restart: tuple[str, ...] = ()


class AdminState(Protocol):
    """What the admin application is told of the proxy."""

    @property
    def ledger(self) -> Ledger: ...
    @property
    def metrics(self) -> Metrics: ...
    @property
    def hosts(self) -> Hosts:
        """The names by which the admin application may be asked, beside addresses."""
        ...

    async def refresh(self, *, streams: bool) -> None:
        """Make what this says that of now, the live exchanges too when ``streams`` is set. Awaited before each look;
        does nothing where the proxy is this process."""
        ...

    def ready(self) -> list[str]:
        """Why the proxy is not ready, one phrase a reason; empty when it is."""
        ...

    def config(self) -> dict[str, Any]:
        """The configuration in force as plain data, secrets hidden."""
        ...

    @property
    def reload_problems(self) -> Sequence[str]:
        """What was wrong with the configuration when it was last read again; empty when it came into force."""
        ...

    async def reload(self) -> Reloaded | None:
        """Read the configuration again and put it into force; None where there is nothing to read it from."""
        ...
