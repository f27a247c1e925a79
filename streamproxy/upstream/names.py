"""Names with one endpoint for each address (``resolve: each``), which are looked up periodically.

Theory of operation. Before the first successful look-up the only endpoint is the name itself, so that requests report
why the look-up fails. A look-up that returns addresses makes them the endpoints: new addresses join, missing ones
leave, and the others are untouched. A look-up that fails or returns nothing changes nothing, so a failing name server
does not take endpoints away.
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
FIRST = 5.0  # seconds that a start waits for the first look-up

logger = logging.getLogger("streamproxy.upstream")

LookUp = Callable[[str, int], Awaitable[Sequence[str]]]
Replace = Callable[[Sequence[Endpoint], Sequence[Endpoint], bool], None]  # old, new, with a slow start


async def addresses_of(host: str, port: int) -> Sequence[str]:
    """Returns the distinct addresses of a name from the system's resolver. Raises OSError."""
    return list(dict.fromkeys(str(address.sockaddr[0]) for address in await look_up(host, port)))


def authority_of(address: str, port: int) -> str:
    """Returns an address and a port in the form of a URL's authority."""
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(address.partition("%")[0]).version == 6:
            return f"[{address}]:{port}"
    return f"{address}:{port}"


class Name:
    """One name and its current endpoints.

    ``build`` creates the endpoint of an address; ``itself`` is the endpoint of the name.
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
        """Looks the name up once, and calls ``replace`` if the addresses have changed."""
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
    """Keeps the endpoints of an upstream's names up to date."""

    def __init__(self, names: Sequence[Name], replace: Replace) -> None:
        self._names = names
        self._replace = replace
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Looks all names up and starts to repeat it. Returns after the first look-up, or after `FIRST` seconds."""
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
        """Stops the look-ups."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
