"""The origin of upstreams with ``redis``: events that anybody publishes there, without a backend."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from streamproxy.errors import LimitReached, MethodRefused
from streamproxy.exchange.call import Call
from streamproxy.exchange.timer import HEAD
from streamproxy.origins.base import Origin, OriginResponse, OwnResponse
from streamproxy.store.body import StoredBody
from streamproxy.store.cursor import last_event_ids
from streamproxy.store.events import ChannelRequest, ChannelTemplate
from streamproxy.wire.response_fields import ResponseFields

if TYPE_CHECKING:
    from streamproxy.store.redis_events import RedisEvents  # which needs the extra

_FIELDS: Final = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-cache")]


@dataclass(frozen=True, slots=True)
class EventsPlan:
    """What a route takes from a Redis, bound when the configuration is loaded."""

    channel: ChannelTemplate
    resumes: bool  # the entries have ids, after which a client can go on
    max_clients: int | None  # of the process
    buffer: int


class EventsResponse(OwnResponse):
    """The events of one client. It has no good end."""

    __slots__ = ("_stored",)

    def __init__(self, body: StoredBody) -> None:
        super().__init__(200, ResponseFields().prepare(_FIELDS), body)
        self._stored = body

    async def aclose(self, fault: BaseException | None) -> None:
        self._stored.close()


class EventsOrigin(Origin):
    """The events of one upstream, for the requests of one route."""

    __slots__ = ("_events", "_plan")

    def __init__(self, plan: EventsPlan, events: RedisEvents) -> None:
        self._plan = plan
        self._events = events

    async def open(self, call: Call) -> OriginResponse:
        plan, events, downstream = self._plan, self._events, call.downstream
        channel = self.channel(call)
        if plan.max_clients is not None and events.clients >= plan.max_clients:
            raise _too_many()
        call.exchange.phase = "head"
        call.timer.waits_for(HEAD, call.exchange.started_at)
        last_id = b""
        if plan.resumes:
            last_id = next(last_event_ids(downstream.headers, downstream.target.query), b"")
        body = await events.subscribe(channel, plan.buffer, last_id)
        if plan.max_clients is not None and events.clients > plan.max_clients:  # others came while Redis was asked
            body.close()
            raise _too_many()
        return EventsResponse(body)

    def channel(self, call: Call) -> bytes:
        """The channel that a request reads. Raises an ExchangeError for one that can't read any."""
        if call.downstream.method != "GET":
            raise MethodRefused()
        target = call.downstream.target
        # A token's name is the channel's; tokens without one are refused when the configuration is read.
        principal = call.exchange.principal.removeprefix("token:")
        request = ChannelRequest(principal, target.path, target.query or b"", call.downstream.headers)
        return self._plan.channel.expand(request)


def _too_many() -> LimitReached:
    return LimitReached("Too many clients read events", retry_after=5.0)
