"""An ASGI server for one request, in the test's own loop: messages in, messages out, and a client that can leave."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from starlette.types import ASGIApp, Message


class Exchange:
    """One request to ``app``: run it to its end with ``finish``, or start it and watch what it sends."""

    def __init__(
        self,
        app: ASGIApp,
        method: str,
        target: str,
        *,
        body: Iterable[bytes] = (b"",),
        fields: dict[str, str] | None = None,
    ) -> None:
        path, _, query = target.partition("?")
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "query_string": query.encode(),
            "headers": [(name.encode(), value.encode()) for name, value in (fields or {}).items()],
        }
        chunks = list(body)
        self.incoming: asyncio.Queue[Message] = asyncio.Queue()
        for position, chunk in enumerate(chunks, 1):
            self.incoming.put_nowait({"type": "http.request", "body": chunk, "more_body": position < len(chunks)})
        self.sent: list[Message] = []
        self._news = asyncio.Event()
        self.task = asyncio.ensure_future(app(scope, self.incoming.get, self._send))  # type: ignore[arg-type]

    async def _send(self, message: Message) -> None:
        self.sent.append(message)
        self._news.set()
        await asyncio.sleep(0)  # as a server that drains its socket

    async def has_sent(self, messages: int) -> None:
        while len(self.sent) < messages:
            self._news.clear()
            await self._news.wait()

    def leave(self) -> None:
        self.incoming.put_nowait({"type": "http.disconnect"})

    async def finish(self) -> Exchange:
        await self.task
        return self

    @property
    def status(self) -> int:
        return int(self.sent[0]["status"])

    @property
    def fields(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent[1:])

    @property
    def complete(self) -> bool:
        return self.sent[-1]["type"] == "http.response.body" and not self.sent[-1].get("more_body", False)

    def json(self) -> Any:
        return json.loads(self.body)


async def get(app: ASGIApp, target: str, **fields: str) -> Exchange:
    """A GET, run to its end; ``fields`` are header fields, with ``_`` for ``-``."""
    return await Exchange(app, "GET", target, fields={k.replace("_", "-"): v for k, v in fields.items()}).finish()


async def post(app: ASGIApp, target: str, *chunks: bytes) -> Exchange:
    """A POST, run to its end."""
    return await Exchange(app, "POST", target, body=chunks or (b"",)).finish()


def events(body: bytes) -> list[dict[str, str]]:
    """The fields of each server-sent event of a whole body; fails on anything that is not a plain field."""
    assert body.endswith(b"\n\n")
    blocks = body.decode().removesuffix("\n\n").split("\n\n")
    return [dict(line.split(": ", 1) for line in block.split("\n")) for block in blocks]  # type: ignore[misc]
