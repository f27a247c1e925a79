"""Where a response comes from.

A route has one origin. The first is an upstream; others wrap one, or stand in for it. They are nested when the
configuration is loaded, so a route pays for none that it does not have, and what relays a response knows none by name.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from streamproxy.client.base import ChunkSource
from streamproxy.exchange.call import Call
from streamproxy.exchange.stream import ByteStream
from streamproxy.formats.inspector import Inspector
from streamproxy.subclassing import mypyc_attr
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import EVENT_STREAM, media_type
from streamproxy.wire.response_fields import ResponseFields


@mypyc_attr(allow_interpreted_subclasses=True)
class OriginResponse:
    """A response whose head is known and whose body can be read.

    ``reason`` is the upstream's reason phrase, empty for the usual one; ``version`` that of HTTP in which the message
    came. ``complete`` says that the whole body is there already, so that reading it waits for nothing. ``tunnel`` is
    the upstream's end of a tunnel, behind a 101 that is right; it lives until `aclose`. ``on_client_left`` is what to
    call when the client leaves and the response is to be read on; None where that breaks it off.
    """

    __slots__ = ("body", "complete", "fields", "on_client_left", "reason", "status", "tunnel", "version")

    status: int
    reason: bytes
    version: str
    fields: ResponseFields
    body: ChunkSource
    complete: bool
    tunnel: ByteStream | None
    on_client_left: Callable[[], None] | None

    def inspector(self) -> Inspector | None:
        """What follows the body in place of an inspector of the dialect; None where that is what it takes."""
        return None

    def end(self) -> Awaitable[Any] | None:
        """`aclose` after an end in good order. Returns what to wait for, or None when it is done."""
        return self.aclose(None)

    async def aclose(self, fault: BaseException | None) -> None:
        """Let go of whatever the response is read from: once, after its end or after ``fault``.

        A body that was not read to its end is broken off.
        """
        raise NotImplementedError


@mypyc_attr(allow_interpreted_subclasses=True)
class OwnResponse(OriginResponse):
    """A response that an origin makes itself, perhaps of another one."""

    __slots__ = ()

    def __init__(self, status: int, fields: ResponseFields, body: ChunkSource) -> None:
        self.status = status
        self.reason = b""
        self.version = "1.1"
        self.fields = fields
        self.body = body
        self.complete = False
        self.tunnel = None
        self.on_client_left = None


@mypyc_attr(allow_interpreted_subclasses=True)
class Origin:
    """Opens responses, one for each request."""

    __slots__ = ()

    def replays(self, call: Call) -> bool:
        """Whether a request is for a stream that was opened before: it takes no place and no quota."""
        return False

    def early_fields(self, call: Call) -> Headers:
        """What a head of an event stream has to carry that is sent while `open` still waits for the response."""
        return []

    async def open(self, call: Call) -> OriginResponse:
        """The response to a request. Raises an ExchangeError when there is none."""
        raise NotImplementedError


def is_event_stream(response: OriginResponse) -> bool:
    """Whether it is a stream of events that can be read here."""
    fields = response.fields
    media = media_type(fields.noted.get(b"content-type", b""))
    return response.status == 200 and fields.plain and media == EVENT_STREAM
