"""Resolves host names without blocking the loop, and orders the addresses.

Theory of operation. The result of a look-up is used for `KEEP` seconds. The next caller after that starts another
look-up and waits for at most `PATIENCE` seconds, then uses the old addresses. So a slow name server costs little, and a
failing one nothing. Only after a failure to connect to all addresses are the old ones discarded.

Connections that are always in use would keep an address forever, so their pool also starts look-ups (`refresh`). An
address that was not in a result for `GONE` seconds is reported to `on_gone`. It is not reported at once, because many
names have more addresses than one response contains.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from streamproxy.errors import DestinationUnavailable

KEEP: Final = 10.0  # seconds until a name is looked up again
PATIENCE: Final = 0.25  # seconds to wait for a look-up if old addresses are available
GONE: Final = 60.0  # seconds


class Address(NamedTuple):
    """The address a socket connects to."""

    family: int
    sockaddr: Any  # (host, port) and further items of the family; a path for a Unix socket

    @property
    def peer(self) -> Any:
        """The host and port by which a connected socket names this peer."""
        return self.sockaddr[:2]


def interleaved(addresses: list[Address]) -> list[Address]:
    """Returns the addresses with alternating families, starting with the resolver's first (RFC 8305 section 4)."""
    favourite = addresses[0].family
    ours = [address for address in addresses if address.family == favourite]
    others = [address for address in addresses if address.family != favourite]
    return [address for pair in zip_longest(ours, others) for address in pair if address is not None]


async def look_up(host: str, port: int) -> list[Address]:
    """Calls the system's resolver in a thread of the loop. Raises socket.gaierror."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


class Resolver:
    """Looks up one host, and caches its addresses for `KEEP` seconds.

    Streams that need the same look-up share it; cancelling one does not cancel it for the others.
    """

    def __init__(self, host: str, port: int, look_up: Callable[[str, int], Awaitable[list[Address]]] = look_up) -> None:
        self._host = host
        self._port = port
        self._look_up = look_up
        self._fixed = _literal(host, port)
        self._known: list[Address] = []
        self._until = 0.0  # the loop's time; 0.0 if no usable address is known
        self._given: dict[Address, float] = {}  # addresses, and when a look-up last returned them
        self._lookup: asyncio.Task[list[Address]] | None = None
        self.on_gone: Callable[[set[Any]], None] | None = None  # called with values of `Address.peer`

    @property
    def changes(self) -> bool:
        """Whether the host is a name, whose addresses may change."""
        return not self._fixed

    async def addresses(self) -> list[Address]:
        """Returns the addresses to try in order; at least one.

        Raises socket.gaierror if the name has none, and DestinationUnavailable if the client closes meanwhile.
        """
        if self._fixed:
            return self._fixed
        loop = asyncio.get_running_loop()
        if self._known and loop.time() < self._until:
            return self._known
        lookup = self._look(loop)
        if self._known and self._until:
            await asyncio.wait([lookup], timeout=PATIENCE)
            if not lookup.done():
                return self._known
        try:
            return await asyncio.shield(lookup)
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if lookup.cancelled() and task is not None and not task.cancelling():
                raise DestinationUnavailable("The upstream is being removed") from None  # `close`
            raise

    def refresh(self) -> None:
        """Starts a look-up if one is due, without waiting for it."""
        loop = asyncio.get_running_loop()
        if not self._fixed and loop.time() >= self._until:
            self._look(loop)

    def forget(self) -> None:
        """Discards the addresses, none of which worked; the next call looks the name up again."""
        self._until = 0.0

    def _look(self, loop: asyncio.AbstractEventLoop) -> asyncio.Task[list[Address]]:
        if self._lookup is None:
            self._lookup = loop.create_task(self._refresh(loop))
            self._lookup.add_done_callback(_heard)
        return self._lookup

    async def _refresh(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        try:
            found = await self._look_up(self._host, self._port)
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "no addresses")
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        except socket.gaierror as error:
            if error.errno != socket.EAI_AGAIN or not self._known:
                raise
            if self._until:
                self._until = loop.time() + KEEP
        else:
            self._known = interleaved(found)
            self._until = loop.time() + KEEP
            self._compare(found, loop.time())
        finally:
            self._lookup = None
        return self._known

    def _compare(self, found: list[Address], now: float) -> None:
        """Reports the addresses that look-ups have not returned for long."""
        self._given.update(dict.fromkeys(found, now))
        gone = [address for address, at in self._given.items() if now - at >= GONE]
        for address in gone:
            del self._given[address]
        if gone and self.on_gone is not None:
            self.on_gone({address.peer for address in gone})

    def close(self) -> None:
        """Cancels a running look-up."""
        if self._lookup is not None:
            self._lookup.cancel()


def _heard(lookup: asyncio.Task[list[Address]]) -> None:
    """Retrieves the exception of a look-up that nothing waited for."""
    if not lookup.cancelled():
        lookup.exception()


def _literal(host: str, port: int) -> list[Address]:
    """Returns the address of an IP literal; empty for a name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]
