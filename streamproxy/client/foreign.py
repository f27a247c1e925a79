"""Any client of httpx's shape, made fit for the forwarder: its errors translated, its progress reported."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from types import TracebackType
from typing import Any

from streamproxy.client.translate import translate
from streamproxy.wire.headers import Headers


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
        """As `streamproxy.client.base.Client.stream`."""
        progress = extensions.get("progress", _ignore)
        passed = {name: value for name, value in extensions.items() if name != "progress"}
        if content is None:
            progress("head")
        else:
            content = _report(content, progress)
        return self._guard(self._client.stream(method, url, headers=headers, content=content, extensions=passed))

    @staticmethod
    def _guard(inner: AbstractAsyncContextManager[Any]) -> AbstractAsyncContextManager[ForeignResponse]:
        return _Stream(inner)

    async def aclose(self) -> None:
        """The client belongs to whoever made it, and is closed there."""


class ForeignResponse:
    """A foreign response whose body raises our errors."""

    __slots__ = ("_response",)

    def __init__(self, response: Any) -> None:
        self._response = response

    @property
    def status_code(self) -> int:
        return int(self._response.status_code)

    @property
    def headers(self) -> ForeignHeaders:
        return ForeignHeaders(self._response.headers.raw)

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body as it comes; raises ResponseIncomplete when it ends short."""
        try:
            async for chunk in self._response.aiter_raw():
                if chunk:
                    yield chunk
        except Exception as error:
            raise translate(error, head_seen=True) from error


class ForeignHeaders:
    """Header fields with their names in lower case, as ours come."""

    __slots__ = ("raw",)

    def __init__(self, raw: Headers) -> None:
        self.raw: Headers = [(name.lower(), value) for name, value in raw]


class _Stream:
    __slots__ = ("_inner",)

    def __init__(self, inner: AbstractAsyncContextManager[Any]) -> None:
        self._inner = inner

    async def __aenter__(self) -> ForeignResponse:
        try:
            return ForeignResponse(await self._inner.__aenter__())
        except Exception as error:
            raise translate(error, head_seen=False) from error

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What went wrong is known already; a fault while closing after it would only hide it.
        try:
            await self._inner.__aexit__(kind, error, trace)
        except Exception as fault:
            if error is None:
                raise translate(fault, head_seen=True) from fault


async def _report(content: AsyncIterator[bytes], progress: Callable[[str], None]) -> AsyncIterator[bytes]:
    progress("request")
    async for chunk in content:
        yield chunk
    progress("head")


def _ignore(phase: str) -> None:
    pass
