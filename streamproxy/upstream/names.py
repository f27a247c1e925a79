"""Names of which every address is an endpoint of its own (``resolve: each``), looked up again and again.

Theory of operation. Until a name was looked up for the first time the name itself is its one endpoint, and so it stays
while that fails: a request then finds out why. After a look-up that found something, the endpoints are exactly the
addresses found: new ones join, missing ones leave, those that are still there are not touched. A look-up that fails,
or finds nothing, changes nothing: a name server's bad minute is not the endpoints'.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence

from streamproxy.client.resolve import look_up
from streamproxy.upstream.endpoint import Endpoint

EVERY = 10.0  # seconds between two look-ups
FIRST = 5.0  # seconds that a start waits for the first

logger = logging.getLogger("streamproxy.upstream")

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
Replace = Callable[[Sequence[Endpoint], Sequence[Endpoint], bool], None]  # old, new, with a slow start


async def addresses_of(host: str, port: int) -> Sequence[str]:
    """The addresses of a name, each once, by the system's resolver. Raises OSError."""
    return list(dict.fromkeys(str(address.sockaddr[0]) for address in await look_up(host, port)))


def authority_of(address: str, port: int) -> str:
    """An address and a port as they stand in a URL."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(address.partition("%")[0]).version == 6:
            return f"[{address}]:{port}"
    return f"{address}:{port}"


class Name:
    """One name and the endpoints it stands for now.

    ``build`` makes the endpoint of an address, ``itself`` is the endpoint of the name.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        itself: Endpoint,
        build: Callable[[str], Endpoint],
        look_up: LookUp = addresses_of,
    ) -> None:
        self.host = host
        self.port = port
        self.itself = itself
        self._build = build
        self._look_up = look_up
        self._endpoints: dict[str, Endpoint] = {}  # by address; empty before the first look-up
        self._failing = False

    async def refresh(self, replace: Replace) -> None:
        """Look the name up once, and call ``replace`` if its endpoints are others now."""
        try:
            addresses = await self._look_up(self.host, self.port)
        except (OSError, UnicodeError) as error:
            self._complain(str(error))
            return
        if not addresses:
            self._complain("it has no address")
            return
        self._failing = False
        known = self._endpoints
        if known.keys() == set(addresses):
            return
        new = {address: self._build(address) for address in addresses if address not in known}
        old = [endpoint for address, endpoint in known.items() if address not in addresses] if known else [self.itself]
        self._endpoints = {address: known.get(address) or new[address] for address in addresses}
        logger.info("%s has %d addresses: %d new, %d gone", self.host, len(addresses), len(new), len(known and old))
        replace(old, list(new.values()), bool(known))

    def _complain(self, why: str) -> None:
        if not self._failing:
            logger.warning("%s was not found: %s", self.host, why)
        self._failing = True


class Names:
    """Keeps the names of an upstream up to date."""

    def __init__(self, names: Sequence[Name], replace: Replace) -> None:
        self._names = names
        self._replace = replace
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Look all names up, and go on doing so. Returns after the first time, or after 5 s without an answer."""
        if self._task is None:
            first = asyncio.Event()
            self._task = asyncio.get_running_loop().create_task(self._run(first), name="look up names")
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(first.wait(), FIRST)

    async def _run(self, first: asyncio.Event) -> None:
        while True:
            await asyncio.gather(*(name.refresh(self._replace) for name in self._names))
            first.set()
            await asyncio.sleep(EVERY)

    async def aclose(self) -> None:
        """Stop."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
