"""From a host name to addresses, without blocking the loop, and in the order in which to try them.

Theory of operation. What a look-up gave is used for `KEEP` seconds. Then the next who asks starts another and waits for
it, but not for long: a slow name server costs no more than `PATIENCE`, and one that can't answer for now nothing else.
Only when none of the addresses could be connected to is there nothing to go back to.

Connections that are always in use would stay with an address for ever, so their pool has the name looked up again, too
(`refresh`). An address that look-ups have not given for `GONE` seconds is out of use, and `on_gone` is told. Not
at once: many names have more addresses than they give in one answer.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from itertools import zip_longest
from typing import Any, Final, NamedTuple

from streamproxy.errors import DestinationUnavailable

KEEP: Final = 10.0  # seconds until a name is looked up again
PATIENCE: Final = 0.25  # seconds that somebody waits who could use the addresses of before
GONE: Final = 60.0  # seconds


class Address(NamedTuple):
    """Where a socket connects to."""

    family: int
    sockaddr: Any  # (host, port) and what else the family has; a path for a unix socket

    @property
    def peer(self) -> Any:
        """Host and port, as a connected socket names its peer with them."""
        return self.sockaddr[:2]


def interleaved(addresses: list[Address]) -> list[Address]:
    """The addresses with the families alternating, beginning with the resolver's favourite (RFC 8305 section 4)."""
    favourite = addresses[0].family
    ours = [address for address in addresses if address.family == favourite]
    others = [address for address in addresses if address.family != favourite]
    return [address for pair in zip_longest(ours, others) for address in pair if address is not None]


async def look_up(host: str, port: int) -> list[Address]:
    """Ask the system's resolver, in a thread of the loop's. Raises socket.gaierror."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]


class Resolver:
    """Looks up one host, and remembers its addresses for `KEEP` seconds.

    Streams that need the same look-up share it; one of them that is cancelled does not cancel it for the others.
    """

    def __init__(self, host: str, port: int, look_up: Callable[[str, int], Awaitable[list[Address]]] = look_up) -> None:
        self._host = host
        self._port = port
        self._look_up = look_up
        self._fixed = _literal(host, port)
        self._known: list[Address] = []
        self._until = 0.0  # the loop's time; 0.0 when nothing known is any good
        self._given: dict[Address, float] = {}  # addresses, and when a look-up gave them last
        self._lookup: asyncio.Task[list[Address]] | None = None
        self.on_gone: Callable[[set[Any]], None] | None = None  # with the addresses as `Address.peer` gives them

    @property
    def changes(self) -> bool:
        """Whether this is a name, whose addresses may become others."""
        return not self._fixed

    async def addresses(self) -> list[Address]:
        """The addresses to try, in order; at least one.

        Raises socket.gaierror for a name without any, and DestinationUnavailable when the client closes meanwhile.
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
        """Have the name looked up if that is due; nobody waits for it."""
        loop = asyncio.get_running_loop()
        if not self._fixed and loop.time() >= self._until:
            self._look(loop)

    def forget(self) -> None:
        """None of the addresses was any good: look the name up again next time."""
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
        """Tell of the addresses that have not been given for long."""
        self._given.update(dict.fromkeys(found, now))
        gone = [address for address, at in self._given.items() if now - at >= GONE]
        for address in gone:
            del self._given[address]
        if gone and self.on_gone is not None:
            self.on_gone({address.peer for address in gone})

    def close(self) -> None:
        """Give up a look-up that goes on."""
        if self._lookup is not None:
            self._lookup.cancel()


def _heard(lookup: asyncio.Task[list[Address]]) -> None:
    """Take note of a failure that nobody waited for."""
    if not lookup.cancelled():
        lookup.exception()


def _literal(host: str, port: int) -> list[Address]:
    """The one address that an IP literal is; empty for a name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]
