"""From a host name to addresses, without blocking the loop, and in the order in which to try them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from itertools import zip_longest
from typing import Any, Final, NamedTuple

KEEP: Final = 10.0  # seconds until a name is looked up again


class Address(NamedTuple):
    """Where a socket connects to."""

    family: int
    sockaddr: Any  # (host, port) and what else the family has; a path for a unix socket


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
        self._until = 0.0
        self._lookup: asyncio.Task[list[Address]] | None = None

    async def addresses(self) -> list[Address]:
        """The addresses to try, in order; at least one. Raises socket.gaierror for a name without any."""
        if self._fixed:
            return self._fixed
        loop = asyncio.get_running_loop()
        if self._known and loop.time() < self._until:
            return self._known
        if self._lookup is None:
            self._lookup = loop.create_task(self._refresh(loop))
        return await asyncio.shield(self._lookup)

    def forget(self) -> None:
        """None of the addresses was any good: look the name up again next time."""
        self._until = 0.0

    async def _refresh(self, loop: asyncio.AbstractEventLoop) -> list[Address]:
        try:
            found = await self._look_up(self._host, self._port)
            if not found:
                raise socket.gaierror(socket.EAI_NONAME, "no addresses")
            self._known = interleaved(found)
            self._until = loop.time() + KEEP
            return self._known
        except UnicodeError as error:
            raise socket.gaierror(socket.EAI_NONAME, str(error)) from error
        finally:
            self._lookup = None

    def close(self) -> None:
        """Give up a look-up that nobody waits for any more."""
        if self._lookup is not None:
            self._lookup.cancel()


def _literal(host: str, port: int) -> list[Address]:
    """The one address that an IP literal is; empty for a name."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (socket.gaierror, UnicodeError):
        return []
    return [Address(family, sockaddr) for family, _, _, _, sockaddr in found]
