"""Adapts any client with httpx's interface: translates its errors and reports its progress."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any, Final

from streamproxy.client.base import ChunkSource, IteratorSource
from streamproxy.client.translate import translate
from streamproxy.errors import BadResponse, NotImplementedHere
from streamproxy.wire.headers import Headers
from streamproxy.wire.http1 import MAX_FIELDS, AmbiguousHead, response_framing
from streamproxy.wire.response_fields import ResponseFields
from streamproxy.wire.status import PHRASES

_VERSIONS: Final = {b"HTTP/1.0": "1.0", b"HTTP/2": "2"}
# Our own extensions, which foreign clients do not support.
OURS: Final = frozenset({"buffer", "informational", "progress", "upgrade"})


class ForeignClient:
    """Wraps ``client``, whose ``stream()`` is called with httpx's own parameters."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def stream(
        self,
        method: str,
        url: str,
        *,
        headers: Headers,
        content: AsyncIterator[bytes] | None,
        extensions: Mapping[str, Any],
    ) -> AbstractAsyncContextManager[ForeignResponse]:
        """See `streamproxy.client.base.Client.stream`.

        Raises NotImplementedHere for an upgrade: httpx's interface does not support connections that leave HTTP.
        """
        if extensions.get("upgrade"):
            raise NotImplementedHere("This upstream's client cannot carry WebSocket")
        progress = extensions.get("progress", _ignore)
        passed = {name: value for name, value in extensions.items() if name not in OURS}
        if content is None:
            progress("head")
        else:
            content = _report(content, progress)
        inner = self._client.stream(method, url, headers=headers, content=content, extensions=passed)
        return self._guard(method, inner)

    @staticmethod
    def _guard(method: str, inner: AbstractAsyncContextManager[Any]) -> AbstractAsyncContextManager[ForeignResponse]:
        return _Stream(method, inner)

    async def aclose(self) -> None:
        """Does nothing: the caller that created the client closes it."""


class ForeignResponse:
    """A foreign response whose body raises our errors."""

    __slots__ = ("_response", "source")

    complete = False  # unknown

    def __init__(self, response: Any) -> None:
        self._response = response
        self.source: ChunkSource = IteratorSource(self.aiter_raw())

    @property
    def status_code(self) -> int:
        return int(self._response.status_code)

    @property
    def reason(self) -> bytes:
        """The reason phrase; empty if it is the standard one or unknown."""
        reason = self._extensions.get("reason_phrase", b"")
        return reason if isinstance(reason, bytes) and reason != PHRASES.get(self.status_code) else b""

    @property
    def http_version(self) -> str:
        """The HTTP version of the response head: "1.0", "1.1" or "2"; "1.1" if unknown."""
        return _VERSIONS.get(self._extensions.get("http_version", b""), "1.1")

    @property
    def _extensions(self) -> Mapping[str, Any]:
        extensions: Mapping[str, Any] = getattr(self._response, "extensions", {})
        return extensions

    @property
    def headers(self) -> ForeignResponse:
        """What has the fields as ``raw``."""
        return self

    @property
    def raw(self) -> Headers:
        """The fields with their names in lower case, as ours come."""
        return [(name.lower(), value) for name, value in self._response.headers.raw]

    def fields(self) -> ResponseFields:
        """Returns the fields to pass on, which the caller may change."""
        return ResponseFields().prepare(self.raw)

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """Yields the body. Raises ResponseIncomplete if it is incomplete."""
        try:
            async for chunk in self._response.aiter_raw():
                if chunk:
                    yield chunk
        except Exception as error:
            raise translate(error, head_seen=True) from error


class _Stream:
    __slots__ = ("_inner", "_method")

    def __init__(self, method: str, inner: AbstractAsyncContextManager[Any]) -> None:
        self._method = method
        self._inner = inner

    async def __aenter__(self) -> ForeignResponse:
        try:
            response = ForeignResponse(await self._inner.__aenter__())
        except Exception as error:
            raise translate(error, head_seen=False) from error
        try:
            _check(self._method, response)
        except AmbiguousHead as fault:
            bad = BadResponse(note=str(fault))
            await self.__aexit__(BadResponse, bad, None)
            raise bad from None
        return response

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An error while closing must not hide the first one.
        try:
            await self._inner.__aexit__(kind, error, trace)
        except Exception as fault:
            if error is None:
                raise translate(fault, head_seen=True) from fault


def _check(method: str, response: ForeignResponse) -> None:
    """Applies the rules of our own client to a head, as far as the library shows it. Raises AmbiguousHead."""
    fields = response.raw
    if len(fields) > MAX_FIELDS:
        raise AmbiguousHead(f"more than {MAX_FIELDS} fields")
    response_framing(method, response.status_code, "1.0" if response.http_version == "1.0" else "1.1", fields)


async def _report(content: AsyncIterator[bytes], progress: Callable[[str], None]) -> AsyncIterator[bytes]:
    progress("request")
    async for chunk in content:
        yield chunk
    progress("head")


def _ignore(phase: str) -> None:
    pass
