"""The first origin: an upstream, in one attempt.

An attempt holds its endpoint's place from `UpstreamResponse.begin` on until `aclose`, or until it has failed. More
attempts than one, and fallbacks, are in `streamproxy.origins.attempts`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from functools import partial
from time import monotonic
from typing import Any, Final

from streamproxy.client.base import IteratorSource, Response
from streamproxy.dialects.base import Dialect
from streamproxy.dialects.http import HTTP
from streamproxy.dialects.request import Peeked, model_edit, usage_edit
from streamproxy.errors import BadResponse, UpstreamReportedError
from streamproxy.exchange.call import Call
from streamproxy.exchange.exchange import Exchange, Phase
from streamproxy.exchange.target import Target
from streamproxy.origins.base import Origin, OriginResponse
from streamproxy.origins.gate import HeldSource
from streamproxy.upstream.affinity import prefix_key
from streamproxy.upstream.endpoint import Endpoint
from streamproxy.upstream.outlier import FAILED_STATUSES, failed_by
from streamproxy.upstream.roster import Roster
from streamproxy.upstream.upstream import Upstream
from streamproxy.wire.edits import NO_EDIT, Edit
from streamproxy.wire.headers import Headers, request_headers
from streamproxy.wire.media import accepts_event_stream
from streamproxy.wire.target import rewrite
from streamproxy.wire.websocket import accept_of

_COMPLETIONS: Final = (b"/chat/completions", b"/completions")
_UNIX: Final = b"unix:"  # what X-Forwarded-For says of a client without an address


@dataclass(frozen=True, slots=True)  # a request reads these: an attribute in a slot costs least
class RequestPlan:
    """How a route makes its requests to an upstream, bound when the configuration is loaded."""

    host: bytes | None  # what Host says upstream; None is the endpoint's own authority
    preserve_host: bool
    strip_prefix: bytes
    add_prefix: bytes
    extensions: dict[str, Any]  # what every request tells the client
    compression: str
    edit: Edit
    models: Mapping[str, str] = field(default_factory=dict)  # what the upstream calls the models of requests
    ask_usage: bool = False
    dialect: Dialect = HTTP  # which knows a request for a stream, which is one for an uncompressed one
    inspect_body: int = 0  # the most bytes of a body that are held to choose an endpoint by
    upstream_edit: Edit = NO_EDIT  # the upstream's own rules, after the route's
    not_behind: frozenset[bytes] | None = None  # names of trailers that stay here; None: no trailers go upstream


def _asks_for_stream(dialect: Dialect, call: Call) -> bool:
    target, peeked = call.downstream.target, call.peeked
    stream = peeked.stream if peeked is not None else None
    return dialect.for_path(target.path).asks_for_stream(target.path, target.query, stream)


class UpstreamRequest:
    """A request on its way, with the headers made for one endpoint (its Host among them)."""

    __slots__ = ("extensions", "headers", "method")

    def __init__(self, method: str, headers: Headers, extensions: dict[str, Any]) -> None:
        self.method = method
        self.headers = headers
        self.extensions = extensions


class UpstreamResponse(OriginResponse):
    """One attempt at one endpoint, and its response.

    ``roster`` hears how the attempt went; it is None where there is one endpoint for ever. `begin` and `opened` set
    the attributes.
    """

    __slots__ = ("_endpoint", "_exchange", "_roster", "_stream", "alarm")

    def begin(
        self,
        endpoint: Endpoint,
        roster: Roster | None,
        exchange: Exchange,
        headers: Headers,
        extensions: dict[str, Any],
        content: Any,
    ) -> AbstractAsyncContextManager[Response]:
        """Take a place at the endpoint. Returns the request to enter; then `opened` or `failed` has to be called."""
        self._endpoint = endpoint
        self._roster = roster
        self._exchange = exchange
        self._stream: AbstractAsyncContextManager[Response] | None = None
        self.alarm: asyncio.TimerHandle | None = None  # stopped when the response is let go of
        url = exchange.endpoint = endpoint.url
        endpoint.streams += 1
        try:
            self._stream = stream = endpoint.client.stream(
                exchange.method, url, headers=headers, content=content, extensions=extensions
            )
        except BaseException as error:
            self.failed(error)
            raise
        return stream

    def failed(self, error: BaseException) -> None:
        """There is no response."""
        self._endpoint.streams -= 1
        roster = self._roster
        if roster is not None:
            if failed_by(error, self._exchange):
                roster.failed(self._endpoint)
            roster.ended(self._endpoint)

    def opened(self, response: Response) -> None:
        """The response's head is here."""
        self.status = status = response.status_code
        self.reason = response.reason
        self.version = response.http_version
        self.fields = response.fields()
        self.body = response.source
        self.complete = response.complete
        self.tunnel = self.on_client_left = None
        if self._roster is not None:
            if self._roster.sessions is not None:
                self._roster.sessions.learn(response.raw, self._endpoint)
            if status in FAILED_STATUSES:
                self._roster.failed(self._endpoint)
            elif not self._roster.error_events:
                self._roster.succeeded(self._endpoint)

    def switch(self, key: bytes) -> None:
        """Make a tunnel of the response to a WebSocket handshake with this key, if it is a 101; a refusal stays one.

        Raises BadResponse for a 101 that does not answer the handshake (RFC 6455 section 4.1), and for a success that
        is none: whoever took one for a 101 would read the next bytes as another protocol.
        """
        if 200 <= self.status < 300:
            raise BadResponse("The upstream did not switch to WebSocket")
        if self.status != 101:
            return
        response: Any = self._stream
        fields = response.raw
        said = [value.lower() for name, value in fields if name == b"upgrade"]
        accepted = [value for name, value in fields if name == b"sec-websocket-accept"]
        if said != [b"websocket"] or accepted != [accept_of(key)]:
            raise BadResponse("The upstream's 101 does not answer the handshake")
        self.tunnel = response.detach()

    def end(self) -> Awaitable[Any] | None:
        if self._roster is None and self.alarm is None:
            self._endpoint.streams -= 1
        else:
            self._leave(None)
        if self.body.release():
            return None
        assert self._stream is not None
        return self._stream.__aexit__(None, None, None)

    async def aclose(self, fault: BaseException | None) -> None:
        stream, body = self._stream, self.body
        assert stream is not None
        self._leave(fault)
        if fault is None:
            await stream.__aexit__(None, None, None)
        else:
            if isinstance(body, IteratorSource | HeldSource):
                await body.aclose()
            await stream.__aexit__(type(fault), fault, fault.__traceback__)

    def _leave(self, fault: BaseException | None) -> None:
        """Give the endpoint's place back, and tell its roster how it went."""
        endpoint, roster = self._endpoint, self._roster
        if self.alarm is not None:
            self.alarm.cancel()
        endpoint.streams -= 1
        if roster is not None:
            failure = fault if isinstance(fault, UpstreamReportedError) else self._exchange.failure
            reported = roster.error_events and failure is not None
            if reported or (fault is not None and failed_by(fault, self._exchange)):
                roster.failed(endpoint)
            elif roster.error_events and fault is None and self.status not in FAILED_STATUSES:
                roster.succeeded(endpoint)  # its head did not say yet how the stream would end
            roster.ended(endpoint)


class UpstreamOrigin(Origin):
    """Sends the requests of one route to its upstream."""

    __slots__ = ("_edits", "_plan", "_rewrites", "upstream")

    def __init__(self, plan: RequestPlan, upstream: Upstream, *, traced: bool) -> None:
        self._plan = plan
        self.upstream = upstream
        self._rewrites = bool(plan.strip_prefix or plan.add_prefix)
        self._edits = traced or plan.edit is not NO_EDIT or plan.upstream_edit is not NO_EDIT

    async def open(self, call: Call) -> OriginResponse:
        exchange, downstream, upstream = call.exchange, call.downstream, self.upstream
        endpoint = await self.pick(call) if upstream.prefix_bytes else upstream.pick(exchange, downstream.headers)
        if call.peeked is not None:
            self._rewrite(call, call.peeked)
        headers, extensions = self._headers(call, endpoint.authority), self._extensions(call)
        exchange.phase = "connect"
        key, body = downstream.websocket_key, downstream.body
        attempt = UpstreamResponse()
        content = body.attempt() if body is not None else None
        stream = attempt.begin(endpoint, upstream.roster, exchange, headers, extensions, content)
        try:
            response = await stream.__aenter__()
        except BaseException as error:
            attempt.failed(error)
            raise
        attempt.opened(response)
        return attempt if key is None else await switched(attempt, key)

    async def pick(self, call: Call) -> Endpoint:
        """The endpoint for a request. Raises DestinationUnavailable when none is available."""
        exchange, body, upstream = call.exchange, call.downstream.body, self.upstream
        if upstream.prefix_bytes and body is not None:
            exchange.affinity = await prefix_key(body, self._plan.inspect_body, upstream.prefix_bytes)
        return upstream.pick(exchange, call.downstream.headers)

    def request(self, call: Call, endpoint: Endpoint) -> UpstreamRequest:
        """The request for an endpoint."""
        if call.peeked is not None:
            self._rewrite(call, call.peeked)
        return UpstreamRequest(call.downstream.method, self._headers(call, endpoint.authority), self._extensions(call))

    def _extensions(self, call: Call) -> dict[str, Any]:
        """What the client is told beside the request's fields."""
        downstream, plan = call.downstream, self._plan
        target = downstream.target
        extensions = plan.extensions.copy()
        extensions["target"] = target.path if target.query is None and not self._rewrites else self._target(target)
        extensions["progress"] = call.timer.progress
        if call.on_connected is not None:
            extensions["progress"] = partial(_progress, call)
        if downstream.direct is not None or downstream.takes_informational:  # a property costs more than a slot
            extensions["informational"] = downstream.informational
        if plan.not_behind is not None and downstream.direct is not None:
            extensions["trailers"] = partial(downstream.request_trailers, plan.not_behind)
        if downstream.websocket_key is not None:
            extensions["upgrade"] = True
        return extensions

    def _rewrite(self, call: Call, peeked: Peeked) -> None:
        """Edit the request's body for this upstream, and its length."""
        downstream, plan = call.downstream, self._plan
        if not plan.models and not plan.ask_usage and not peeked.edited:
            return
        body, model = downstream.body, plan.models.get(peeked.model or "")
        data = body.whole() if body is not None else None
        if body is None or data is None:
            return
        edits = [] if model is None else [model_edit(peeked.members, model)]
        if plan.ask_usage and downstream.target.path.endswith(_COMPLETIONS):
            edits.append(usage_edit(peeked.members))
        new = peeked.rewrite(data, edits)
        if new is not data:
            body.replace(new)
            downstream.fields = downstream.fields.replaced(b"content-length", b"%d" % len(new))

    def _target(self, target: Target) -> bytes:
        plan, path = self._plan, target.path
        if self._rewrites and path != b"*":
            path = rewrite(path, strip=plan.strip_prefix, add=plan.add_prefix)
        return path if target.query is None else path + b"?" + target.query

    def _headers(self, call: Call, authority: bytes) -> Headers:
        plan, exchange, downstream = self._plan, call.exchange, call.downstream
        fields = downstream.fields
        identity = plan.compression == "identity" or (
            plan.compression == "auto"
            and (accepts_event_stream(fields.noted.get(b"accept", b"")) or _asks_for_stream(plan.dialect, call))
        )
        forwarded = (downstream.peer.encode() or _UNIX, downstream.scheme.encode(), exchange.trusted, plan.strip_prefix)
        trailers = (
            b"te" in fields.noted
            and downstream.websocket_key is None
            and fields.te_trailers
            and downstream.takes_trailers
        )
        host = None if plan.preserve_host else plan.host or authority
        request_id = exchange.request_id.encode()
        headers = request_headers(fields, host, forwarded, request_id, identity, downstream.version, trailers)
        if downstream.websocket_key is not None:
            headers += fields.handshake()
        return self._edited(headers, call) if self._edits else headers

    def _edited(self, headers: Headers, call: Call) -> Headers:
        """The fields with the trace in them, and as the route's rules want them."""
        trace = call.exchange.trace
        if trace is not None:
            trace.opened_at, trace.target = monotonic(), self._target(call.downstream.target)
            headers = trace.carry(headers)
        return self._plan.upstream_edit.apply(self._plan.edit.apply(headers))


def _progress(call: Call, phase: Phase) -> None:
    """A step of a request whose connection somebody waits for."""
    call.timer.progress(phase)
    if phase != "connect" and call.on_connected is not None:
        call.on_connected()


async def switched(response: UpstreamResponse, key: bytes) -> UpstreamResponse:
    """The response to a handshake. Raises BadResponse, with the response closed, when it is no answer to one."""
    fault = None
    try:
        response.switch(key)
    except BadResponse as error:
        fault = error
    if fault is not None:
        await response.aclose(fault)
        raise fault
    return response
