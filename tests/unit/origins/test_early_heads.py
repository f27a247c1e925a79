"""A head that is sent before the response has come names the stream that the response becomes."""

from __future__ import annotations

import pytest

from streamproxy.client.base import ChunkSource
from streamproxy.errors import ConnectionTerminated, StreamGone
from streamproxy.exchange.call import Call
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.tally import Tally
from streamproxy.origins.base import Origin, OriginResponse, OwnResponse
from streamproxy.origins.resume import RESULTS, NothingToSend, ResumeOrigin, ResumePlan
from streamproxy.store.base import StoreSettings
from streamproxy.store.cursor import parse_cursor
from streamproxy.store.memory import MemoryStore
from streamproxy.wire.response_fields import ResponseFields
from tests.unit.origins.calls import call_of

PLAN = ResumePlan("r", False, False, {result: Tally() for result in RESULTS}, 1000)
OWNER = (b"r", b"credentials", b"", b"")


class Response(OwnResponse):
    def __init__(self, media: bytes, body: ChunkSource) -> None:
        super().__init__(200, ResponseFields().prepare([(b"content-type", media)]), body)

    async def aclose(self, fault: BaseException | None) -> None:
        pass


class Slow(Origin):
    """Its head takes so long that another one is sent."""

    def __init__(self, media: bytes) -> None:
        self.media = media
        self.early = b""
        self.outer: Origin = self

    async def open(self, call: Call) -> OriginResponse:
        ((_, self.early),) = self.outer.early_fields(call)
        if not self.media:
            raise ConnectionTerminated()
        return Response(self.media, NothingToSend())


def made(media: bytes) -> tuple[Slow, ResumeOrigin, MemoryStore]:
    inner, store = Slow(media), MemoryStore(StoreSettings())
    inner.outer = origin = ResumeOrigin(PLAN, store, inner)
    return inner, origin, store


async def test_the_early_cursor_is_the_streams() -> None:
    inner, origin, store = made(b"text/event-stream")
    call = call_of(Exchange("x", "r", "up", "GET", "/"))
    response = await origin.open(call)
    assert (b"x-stream-cursor", inner.early) in response.fields.kept
    assert inner.early.endswith(b"/0")
    assert call.exchange.stream == inner.early[:-2].decode()
    await response.aclose(None)
    await store.aclose()


@pytest.mark.parametrize("media", [b"", b"application/json"], ids=["an error", "no stream"])
async def test_an_early_cursor_of_what_became_no_stream_is_one_that_was_cut(media: bytes) -> None:
    inner, origin, store = made(media)
    call = call_of(Exchange("x", "r", "up", "GET", "/"))
    if media:
        await origin.open(call)
    else:
        with pytest.raises(ConnectionTerminated):
            await origin.open(call)
    cursor = parse_cursor(inner.early)
    assert cursor is not None
    replay = await store.find(cursor, OWNER)
    assert replay.body is not None
    with pytest.raises(Exception, match="did not finish"):
        replay.body.ready()
    with pytest.raises(StreamGone):
        await store.find(cursor._replace(events=1), OWNER)
    await store.aclose()
