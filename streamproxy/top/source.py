"""The client of the admin listener for `streamproxy top`."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from types import TracebackType
from typing import NamedTuple, Self, cast
from urllib.parse import quote, urlsplit

import httpx2

from streamproxy.admin.feed import LONGEST, SHORTEST
from streamproxy.admin.update import Update
from streamproxy.config.units import duration
from streamproxy.errors import StreamproxyError

_PATIENCE = 10.0  # seconds without a response, in addition to the interval of the updates


class Unreachable(StreamproxyError):
    """There is no admin listener, or it does not respond. The text is one line that says where and why."""


class Admin(NamedTuple):
    """The address of an admin listener: the base URL of its paths, and its Unix socket if it has one."""

    url: str
    socket: str | None = None

    def __str__(self) -> str:
        return f"unix:{self.socket}" if self.socket is not None else self.url


def parse_admin(text: str) -> Admin:
    """Parses ``http://host:port`` (with a path if the admin application is mounted), ``host:port`` or ``unix:/path``.

    Also accepts what `streamproxy run` prints. Raises ValueError that names the allowed forms.
    """
    bare = text.removeprefix("http+")
    if bare.startswith("unix:/"):
        return Admin("http://localhost", bare.removeprefix("unix:"))
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.query or parts.fragment:
        raise ValueError("is not an admin listener: write http://host:port, host:port or unix:/path.sock")
    return Admin(url.rstrip("/"))


def parse_interval(text: str) -> float:
    """Parses the time between two updates in seconds. Raises ValueError that names the allowed range."""
    seconds = duration(text)
    if not SHORTEST <= seconds <= LONGEST:
        raise ValueError(f"is not between {SHORTEST:g} and {LONGEST:g} seconds")
    return seconds


class Source:
    """A connection to the admin listener.

    ``interval`` is the time between two updates in seconds; ``token`` is the listener's token, if it has one.
    """

    def __init__(self, admin: Admin, interval: float, token: str | None = None) -> None:
        self._admin = admin
        self._interval = interval
        self._client = httpx2.AsyncClient(
            transport=httpx2.AsyncHTTPTransport(uds=admin.socket),
            timeout=httpx2.Timeout(_PATIENCE, read=interval + _PATIENCE),
            trust_env=False,
            headers={} if token is None else {"authorization": f"Bearer {token}"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def updates(self, view: Mapping[str, str]) -> AsyncGenerator[Update, None]:
        """Yields the updates of a view, which is the query of ``/streams/live``, until the listener ends the response.

        It does so regularly, and the caller then asks again. Raises Unreachable.
        """
        query = {**view, "interval": f"{self._interval:g}"}
        try:
            async with self._client.stream("GET", f"{self._admin.url}/streams/live", params=query) as response:
                kind = response.headers.get("content-type", "")
                if response.status_code in (401, 403):
                    await response.aread()
                    how = " (--token or --config)" if response.status_code == 401 else ""
                    raise Unreachable(f"{self._admin} refuses: {_detail(response)}{how}")
                if response.status_code != 200 or not kind.startswith("text/event-stream"):
                    raise Unreachable(f"{self._admin} is no admin listener: it answers {response.status_code}")
                async for line in response.aiter_lines():
                    if line.startswith("data: "):
                        yield cast(Update, json.loads(line[6:]))
        except (httpx2.HTTPError, OSError) as error:
            raise Unreachable(f"no admin listener at {self._admin}: {_reason(error)}") from None
        except ValueError:
            raise Unreachable(f"{self._admin} does not answer as an admin listener does") from None

    async def stop(self, stream: str) -> str:
        """Stops a stream by its id. Returns one line with the result."""
        url = f"{self._admin.url}/streams/{quote(stream, safe='')}"
        try:
            response = await self._client.delete(url)
        except (httpx2.HTTPError, OSError) as error:
            return f"{stream} was not stopped: {_reason(error)}"
        if response.status_code == 404:
            return f"{stream} had ended already"
        return f"{stream} was stopped" if response.status_code == 202 else _refusal(stream, response)


def _refusal(stream: str, response: httpx2.Response) -> str:
    return f"{stream} was not stopped: {_detail(response)}"


def _detail(response: httpx2.Response) -> str:
    """Returns the detail of a problem response (RFC 9457), otherwise the status."""
    try:
        detail: object = response.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"status {response.status_code}"
    return str(detail)


def _reason(error: Exception) -> str:
    """Returns the operating system's message if there is one, since the client's says less."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, socket.gaierror):  # its numbers are not those of the operating system
            return str(cause.strerror)
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno)
        cause = cause.__cause__ or cause.__context__
    return str(error) or type(error).__name__
