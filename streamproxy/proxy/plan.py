"""What a route does with its requests and their responses, bound when the configuration is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from streamproxy.auth import Authenticator
from streamproxy.dialects.base import Dialect
from streamproxy.exchange.call import Call
from streamproxy.exchange.tally import Tally
from streamproxy.exchange.timer import TimeLimits
from streamproxy.formats.sse import KeepaliveShape
from streamproxy.observe.tracing import Tracer
from streamproxy.origins.base import Origin
from streamproxy.proxy.admission import Admission, ClientKey, Priority
from streamproxy.proxy.early import EarlyPlan
from streamproxy.proxy.peek import PeekPlan
from streamproxy.proxy.quota import Quota
from streamproxy.proxy.tunnel import TunnelPlan
from streamproxy.wire.cors import Cors
from streamproxy.wire.edits import NO_EDIT, Edit
from streamproxy.wire.forwarded import Network


@dataclass(frozen=True, slots=True)
class RelayPlan:
    """What a route says of its responses, bound when the configuration is loaded."""

    keepalive: KeepaliveShape | None
    ndjson: bool  # keepalives in newline-delimited JSON, too
    anti_buffering: bool
    error_event: bool
    max_events: int | None = None
    throttled: Tally | None = None  # the streams that were cut for it


_PLAIN: Final = RelayPlan(None, ndjson=False, anti_buffering=False, error_event=False)


@dataclass(frozen=True, slots=True)  # a request reads these: an attribute in a slot costs least
class RoutePlan:
    """What a route does with its requests; None for the parts that it has not."""

    name: str
    upstream: str  # its name, in metrics and log
    origin: Origin
    dialect: Dialect
    limits: TimeLimits
    trusted: Sequence[Network]
    tracer: Tracer | None
    client_key: ClientKey  # tells clients apart for their own limits
    relay: RelayPlan = _PLAIN
    cors: Cors | None = None
    auth: Authenticator | None = None
    admission: Admission | None = None
    priority: Priority | None = None  # in the queue
    quota: Quota | None = None
    max_request_body: int | None = None
    buffer: int = 0
    continue_on_disconnect: bool = False
    response_edit: Edit = NO_EDIT
    tunnel: TunnelPlan | None = None  # of its WebSockets; None refuses them
    allow: bytes = b""  # the methods that it takes
    peek: PeekPlan | None = None  # what is to be known of its requests' bodies
    early: EarlyPlan | None = None  # its answers before there is a response
    limited: bool = field(init=False)  # whether it has a quota or an admission

    def __post_init__(self) -> None:
        object.__setattr__(self, "limited", self.quota is not None or self.admission is not None)


class Chooser:
    """Chooses the route of a request when its handler has begun; opens the client's side, and reads what it must."""

    async def choose(self, call: Call) -> RoutePlan:
        """The route's plan. Raises an ExchangeError where no route serves."""
        raise NotImplementedError
