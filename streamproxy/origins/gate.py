"""The gate: a response is held back until its stream has said something.

The chunks that came before that are kept and go out first, unchanged. They are bounded: a stream that has sent
`MOST` bytes and said nothing goes on as it is. An answer that is no stream of events passes at once.
"""

from __future__ import annotations

from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Final

from streamproxy.client.base import ChunkSource, IteratorSource, Sink
from streamproxy.dialects.base import Dialect
from streamproxy.exchange.tally import Tally
from streamproxy.origins.base import OriginResponse
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import STREAMING, media_type

MOST: Final = 1 << 20  # bytes that are held back


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What a route waits for. ``first_event`` is the time-out in seconds, None for none; ``held`` says that the
    response is held back until the first event, as ``dialect`` understands it. ``late`` counts by upstream the requests
    that wait on behind the time-out."""

    dialect: Dialect
    first_event: float | None
    held: bool
    late: Mapping[str, Tally] = field(default_factory=dict)


class HeldSource(ChunkSource):
    """Chunks that were read already, the last one first in ``held``, then the rest of the source they came from."""

    __slots__ = ("_held", "_rest")

    def __init__(self, held: list[bytes], rest: ChunkSource) -> None:
        self._held = held  # the next one is the last
        self._rest = rest

    @property
    def ended(self) -> bool:
        return not self._held and self._rest.ended

    @property
    def trailers(self) -> Headers:
        return self._rest.trailers

    def ready(self) -> bytes | None:
        return self._held.pop() if self._held else self._rest.ready()

    def change(self) -> Awaitable[None]:
        return self._rest.change()

    def pipe(self, sink: Sink | None) -> bool:
        return self._rest.pipe(sink)

    async def aclose(self) -> None:
        """Close the source where it is an iterator, as `IteratorSource.aclose`."""
        if isinstance(self._rest, IteratorSource):
            await self._rest.aclose()


async def hold_back(response: OriginResponse, plan: GatePlan) -> None:
    """Wait until the response has said something, has ended, or is not to be waited for.

    Raises the failure that the stream reports before that, and whatever reading its body raises. A cancelled wait
    leaves the response to be closed.
    """
    fields, source = response.fields, response.body
    media = media_type(fields.noted.get(b"content-type", b""))
    if response.status != 200 or media not in STREAMING or not fields.plain:
        return
    inspector = plan.dialect.inspector(response.status, media, b"content-length" in fields.noted)
    if inspector is None:
        return
    held: list[bytes] = []
    response.body = HeldSource(held, source)
    size = 0
    while not inspector.spoke and size < MOST:
        chunk = source.ready()
        if chunk is not None:
            held.append(chunk)
            size += len(chunk)
            inspector.feed(chunk)
            if inspector.failure is not None and not inspector.spoke:
                raise inspector.failure
        elif source.ended:
            break
        else:
            await source.change()
    held.reverse()
