"""Keys that are published at a URL: ``auth.jwt.jwks_url``.

Theory of operation. One task reads a URL: at the start, then every `PERIOD`, or every `RETRY` while the last reading
failed. A credential that needs a key that is not known asks for another reading (`KeySet.refresh`) and waits for it. A
reading begins at most once in `AGAIN`, however many ask, and all of them wait for the same one. It has bounds of time
and size, and what it returns is parsed completely before it counts. A reading that fails changes nothing: the keys that
were good stay in force. The first of several failures is logged, and each is counted.

Each process reads for itself. A reload keeps the sets whose URL and algorithms are the same.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Hashable
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

from streamproxy.client.http1 import NativeClient, client_context
from streamproxy.errors import ExchangeError, StreamproxyError

logger = logging.getLogger("streamproxy.auth")

PERIOD: Final = 600.0  # seconds between two readings
AGAIN: Final = 10.0  # seconds between two readings at the least
RETRY: Final = 10.0  # seconds until a reading that failed is tried again
READING: Final = 5.0  # seconds for one reading
MOST: Final = 256 << 10  # bytes of a response that are read

Parse = Callable[[bytes], Collection[Any]]


class Unreadable(StreamproxyError):
    """A reading that failed, and why."""


class KeySet:
    """The keys that ``url`` publishes, as ``parse`` returns them; calling it returns the last that were good.

    ``parse`` raises ValueError for what is no set of keys. ``on_error`` is called for each reading that fails. ``ca``
    is the path of CA certificates to trust instead of the system's. Raises StreamproxyError if these cannot be used.
    """

    def __init__(self, url: str, parse: Parse, on_error: Callable[[], None], *, ca: str | None = None) -> None:
        parts = urlsplit(url)
        self.url = url
        self._parse = parse
        self._on_error = on_error
        self._host = parts.netloc.encode()
        self._target = (parts.path or "/").encode() + (b"?" + parts.query.encode() if parts.query else b"")
        try:
            context = client_context(ca=ca) if parts.scheme == "https" else None
        except OSError as error:
            raise StreamproxyError(f"the CA certificates for {url} cannot be used: {error}") from None
        self._client = NativeClient(f"{parts.scheme}://{parts.netloc}", ssl_context=context, max_connections=1)
        self._keys: Collection[Any] = ()
        self._raw = b""
        self._began = float("-inf")  # when the last reading did
        self._failing = False
        self._reading: asyncio.Future[None] | None = None  # done when the reading that is under way is
        self._wanted = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def __call__(self) -> Collection[Any]:
        return self._keys

    @property
    def known(self) -> bool:
        """Whether any reading has succeeded."""
        return self._raw != b""

    async def start(self) -> None:
        """Begins to read, and waits for the end of the first reading."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name=f"keys of {self.url}")
        await self.refresh()

    async def refresh(self) -> None:
        """Waits for a reading that is under way or may begin now; returns at once if neither is the case."""
        if self._task is None or self._task.done():
            return
        if self._reading is None:
            if monotonic() - self._began < AGAIN:
                return
            self._began = monotonic()
            self._reading = asyncio.get_running_loop().create_future()
            self._wanted.set()
        await asyncio.shield(self._reading)

    async def aclose(self) -> None:
        """Ends the readings. Whoever waits for one goes on with the keys that are there."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._is_read()
        await self._client.aclose()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(RETRY if self._failing else PERIOD):
                    await self._wanted.wait()
            self._wanted.clear()
            self._began = monotonic()
            if self._reading is None:
                self._reading = asyncio.get_running_loop().create_future()
            try:
                why = await self._read()
            finally:
                self._is_read()
            self._note(why)

    def _is_read(self) -> None:
        if self._reading is not None:
            if not self._reading.done():
                self._reading.set_result(None)
            self._reading = None

    def _note(self, why: str | None) -> None:
        if why is not None:
            self._on_error()
            if not self._failing:
                logger.error("the keys at %s cannot be read: %s; those that were read before stay good", self.url, why)
        elif self._failing:
            logger.info("the keys at %s can be read again", self.url)
        self._failing = why is not None

    async def _read(self) -> str | None:
        """Reads once. Returns why it failed, or None."""
        try:
            async with asyncio.timeout(READING):
                raw = await self._ask()
            if raw != self._raw:  # the same keys stay the same objects
                self._keys = self._parse(raw)
                self._raw = raw
        except TimeoutError:
            return f"no answer in {READING:g} s"
        except ExchangeError as error:
            return error.note or error.detail
        except (Unreadable, ValueError) as error:
            return str(error)
        return None

    async def _ask(self) -> bytes:
        extensions = {
            "target": self._target,
            "timeout": {"connect": READING, "pool": READING, "read": READING, "write": READING},
            "progress": _ignore,
        }
        headers = [(b"host", self._host), (b"accept", b"application/json"), (b"user-agent", b"streamproxy-jwks")]
        read, size = [], 0
        async with self._client.stream("GET", self.url, headers=headers, extensions=extensions) as response:
            if response.status_code != 200:
                raise Unreadable(f"status {response.status_code}")
            while (chunk := await response.source.read()) is not None:
                read.append(chunk)
                size += len(chunk)
                if size > MOST:
                    raise Unreadable(f"it is over {MOST} bytes")
        return b"".join(read)


class KeySets:
    """The key sets of one configuration. Those that ``previous`` has too are taken over at a reload."""

    def __init__(self, on_error: Callable[[], None], previous: KeySets | None = None) -> None:
        self._on_error = on_error
        self._reload = previous is not None
        self._before = dict(previous._sets) if previous is not None else {}
        self._sets: dict[tuple[str, Hashable], KeySet] = {}

    def of(self, url: str, kind: Hashable, parse: Parse) -> KeySet:
        """Returns the key set of a URL. ``kind`` tells one ``parse`` from another."""
        key = url, kind
        found = self._sets.get(key) or self._before.get(key)
        if found is None:
            found = KeySet(url, parse, self._on_error)
        self._sets[key] = found
        return found

    async def start(self) -> None:
        """Reads the sets that are new, and waits for that.

        Raises StreamproxyError at a reload if one of them cannot be read: what is in force then stays.
        """
        new = self._own()
        await asyncio.gather(*(one.start() for one in new))
        unread = [one.url for one in new if not one.known]
        if unread and self._reload:
            raise StreamproxyError(f"the keys at {unread[0]} cannot be read")

    async def discard(self) -> None:
        """Closes the sets that were not taken over, if this configuration never came into force."""
        await asyncio.gather(*(one.aclose() for one in self._own()))

    async def retire(self, successor: KeySets | None = None) -> None:
        """Closes the sets that a successor does not have."""
        kept = set(successor._sets.values()) if successor is not None else set()
        await asyncio.gather(*(one.aclose() for one in self._sets.values() if one not in kept))
        self._before = {}

    def _own(self) -> list[KeySet]:
        return [one for key, one in self._sets.items() if self._before.get(key) is not one]


def _ignore(phase: str) -> None:
    pass
