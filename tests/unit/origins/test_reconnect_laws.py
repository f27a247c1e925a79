"""However a stream is cut and wherever it breaks, what is passed on is the stream."""

from __future__ import annotations

import asyncio
import re
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.client.base import ChunkSource, Sink
from streamproxy.errors import ResponseIncomplete
from streamproxy.origins.base import OriginResponse, OwnResponse
from streamproxy.origins.reconnect import ReconnectedBody, ReconnectPlan
from streamproxy.wire.response_fields import ResponseFields

END = st.sampled_from([b"\n", b"\r\n"])


class Pieces(ChunkSource):
    """So many chunks, then the end or a break. A sink is given a chunk for each wait."""

    def __init__(self, chunks: list[bytes], breaks: bool) -> None:
        self.chunks = chunks
        self.breaks = breaks
        self.sink: Sink | None = None

    @property
    def ended(self) -> bool:
        return not self.chunks and not self.breaks

    def ready(self) -> bytes | None:
        if self.chunks:
            return self.chunks.pop(0) if self.sink is None else None
        if self.breaks:
            raise ResponseIncomplete
        return None

    async def change(self) -> None:
        while self.sink is not None and self.chunks:
            if not self.sink(self.chunks.pop(0), b""):
                self.sink = None

    def pipe(self, sink: Sink | None) -> bool:
        self.sink = sink
        return True


class Response(OwnResponse):
    def __init__(self, body: ChunkSource) -> None:
        super().__init__(200, ResponseFields().prepare([(b"content-type", b"text/event-stream")]), body)

    async def aclose(self, fault: BaseException | None) -> None:
        pass


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Events with an id each, of all line ends, some with comments and several lines."""
    out = []
    for number in range(draw(st.integers(1, 8))):
        end = draw(END)
        lines = draw(
            st.permutations([b"id: %d" % number, b"data: %d" % number, *draw(st.sampled_from([[], [b": x"]]))])
        )
        out.append(end.join([*lines, b"", b""]))
    return out


def pieces(draw: Any, whole: bytes) -> list[bytes]:
    places = sorted(draw(st.sets(st.integers(1, max(1, len(whole) - 1)), max_size=6)))
    return [part for a, b in zip([0, *places], [*places, len(whole)], strict=True) if (part := whole[a:b])]


def lines_of(stream: bytes) -> list[bytes]:
    return re.split(rb"\r\n|\n|\r", stream)


@given(st.data(), streams(), st.booleans(), st.booleans())
def test_joined_answers_are_the_stream(data: st.DataObject, events: list[bytes], knows: bool, pushes: bool) -> None:
    """``knows``: the upstream goes on after the id; otherwise it begins again each time."""
    draw = data.draw
    breaks = 3

    def answer(rest: bytes, least: int = 0) -> Response:
        nonlocal breaks
        if breaks == 0:
            return Response(Pieces(pieces(draw, rest), False))
        breaks -= 1
        return Response(Pieces(pieces(draw, rest[: draw(st.integers(least, len(rest)))]), True))

    async def again(last_id: bytes) -> OriginResponse:
        return answer(b"".join(events[int(last_id) + 1 if knows else 0 :]))

    async def run() -> bytes:
        body = ReconnectedBody(ReconnectPlan(4, 0.0, False), answer(b"".join(events), len(events[0])), again)
        out: list[bytes] = []
        while True:
            chunk = body.ready()
            if chunk is not None:
                out.append(chunk)
            elif body.ended:
                return b"".join(out)
            elif pushes and body.pipe(lambda chunk, framed: not out.append(chunk)):  # type: ignore[func-returns-value]
                await body.change()
                body.pipe(None)
            else:
                await body.change()

    # A break between the CR and the LF that end an event leaves the CR, which ends it as well.
    assert lines_of(asyncio.run(run())) == lines_of(b"".join(events))
