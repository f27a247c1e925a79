"""One request, top to bottom.

`Exchanger` opens an exchange, runs it, and ends it once, whatever happens; `Forwarder` is one whose requests go to
an upstream, `Nowhere` one that has no route. What a route does was bound when the configuration was loaded: a
request decides nothing that the file has decided already.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from time import monotonic
from typing import Any, NoReturn

from starlette.types import Receive, Scope, Send

from streamproxy.client.base import Response
from streamproxy.config.model import Retry
from streamproxy.dialects.http import error_response
from streamproxy.errors import (
    BadRequest,
    ClientDisconnected,
    ExchangeAborted,
    ExchangeError,
    InternalError,
    LoopDetected,
    NoRoute,
    StoppedByShutdown,
)
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange, new_request_id
from streamproxy.exchange.ledger import Ledger
from streamproxy.exchange.target import Target
from streamproxy.exchange.timer import WRITE, Limits, Nursery, Watch
from streamproxy.observe.tracing import Tracer
from streamproxy.proxy.relay import Relay, RelaySettings
from streamproxy.routing.route import Served
from streamproxy.upstream import Upstream, UpstreamRequest
from streamproxy.wire.forwarded import Network, is_trusted, original_client
from streamproxy.wire.headers import (
    MAX_HOPS,
    NO_EDIT,
    Edit,
    Headers,
    RequestFields,
    ResponseFields,
    hops,
    request_headers,
    sane_request_id,
)
from streamproxy.wire.media import accepts_event_stream
from streamproxy.wire.target import rewrite
from streamproxy.wire.trace import parse_traceparent

logger = logging.getLogger("streamproxy.proxy")


@dataclass(frozen=True, slots=True)  # an attribute of a named tuple costs 250 instructions, one of a slot 20
class ForwarderSettings:
    """A route's part of the configuration, in the form that a request is served with."""

    name: str
    host: bytes | None  # what Host says upstream; None is the endpoint's own authority
    preserve_host: bool
    strip_prefix: bytes
    add_prefix: bytes
    limits: Limits
    extensions: dict[str, Any]  # what every request tells the client
    buffer: int
    max_request_body: int | None
    compression: str
    carry_on: bool  # on_disconnect: continue
    request_edit: Edit
    response_edit: Edit
    relay: RelaySettings
    retry: Retry | None  # None: one attempt
    trusted: Sequence[Network]
    tracer: Tracer | None  # None: tracing is off


class Exchanger:
    """Serves requests, each as one exchange in the ledger."""

    def __init__(
        self,
        name: str,
        upstream: str,
        ledger: Ledger,
        *,
        limits: Limits,
        trusted: Sequence[Network],
        tracer: Tracer | None,
    ) -> None:
        self._name = name
        self._upstream_name = upstream
        self._ledger = ledger
        self._limits = limits
        self._nursery = Nursery(limits)
        self._trusted = trusted
        self._tracer = tracer

    async def serve(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, to its one end."""
        fields = RequestFields(scope["headers"])
        request_id = fields.noted.get(b"x-request-id")
        exchange = Exchange(
            request_id.decode() if request_id and sane_request_id(request_id) else new_request_id(),
            self._name,
            self._upstream_name,
            scope["method"],
            target.path.decode("latin-1"),
        )
        watch = Watch(self._limits, exchange, self._nursery)
        downstream = Downstream(scope, receive, send, target, fields, watch)
        exchange.task = downstream.task() or asyncio.current_task()
        self._introduce(exchange, downstream)
        self._ledger.open(exchange)
        try:
            try:
                await self._serve(exchange, downstream, watch)
            except (Exception, asyncio.CancelledError) as fault:
                cancelled_by_server = isinstance(fault, asyncio.CancelledError) and exchange.interruption is None
                exchange.error = reason_of(fault, exchange)
                if cancelled_by_server:
                    raise
            if exchange.error is not None:  # not in the handler: compiled code may not wait there
                await self._fail(exchange.error, exchange, downstream, watch)
        finally:
            watch.close()
            downstream.close()
            self._ledger.close(exchange)

    def _serve(self, exchange: Exchange, downstream: Downstream, watch: Watch) -> Served:
        raise NotImplementedError

    def _introduce(self, exchange: Exchange, downstream: Downstream) -> None:
        """Write down who asks for what."""
        exchange.client = peer = downstream.peer
        if downstream.target.query:
            exchange.query = downstream.target.query
        if self._trusted and is_trusted(peer, self._trusted):
            exchange.trusted = True
            if chain := downstream.fields.chain():
                exchange.client = original_client(chain, peer, self._trusted)
        if self._tracer is not None:
            self._tracer.begin(exchange, downstream.headers, downstream.scheme)
        elif traceparent := downstream.fields.noted.get(b"traceparent"):
            parent = parse_traceparent(traceparent)
            exchange.trace_id = parent.trace_id if parent is not None else ""

    async def _fail(self, error: ExchangeError, exchange: Exchange, downstream: Downstream, watch: Watch) -> None:
        """Before the head, answer with the error; after it, abort. A client that left gets neither."""
        if error.note:
            logger.debug("exchange %s: %s", exchange.request_id, error.note)
        if isinstance(error, ClientDisconnected):
            if not downstream.started:
                exchange.status = error.status
            return
        if downstream.started:
            raise ExchangeAborted(error.error) from None
        headers, body = error_response(error, exchange.request_id)
        exchange.answer()
        watch.waits, watch.since = WRITE, monotonic()
        try:
            await downstream.respond(error.status, headers, body)
        except asyncio.CancelledError:
            if exchange.interruption is None:
                raise
            uncancel(exchange)
            raise ExchangeAborted(error.error) from None
        except OSError:
            pass  # the client left


class Nowhere(Exchanger):
    """Answers what no route takes with 404."""

    def _serve(self, exchange: Exchange, downstream: Downstream, watch: Watch) -> Served:
        raise NoRoute()


class Forwarder(Exchanger):
    """Forwards the requests of one route to its upstream."""

    def __init__(self, settings: ForwarderSettings, upstream: Upstream, ledger: Ledger) -> None:
        name, limits, trusted, tracer = settings.name, settings.limits, settings.trusted, settings.tracer
        super().__init__(name, upstream.name, ledger, limits=limits, trusted=trusted, tracer=tracer)
        self._settings = settings
        self._edits = tracer is not None or settings.request_edit is not NO_EDIT
        self._upstream = upstream

    def _serve(self, exchange: Exchange, downstream: Downstream, watch: Watch) -> Served:
        self._open(downstream)
        return self._forward(exchange, downstream, watch)

    def _open(self, downstream: Downstream) -> None:
        """Refuse what may not pass, and begin to listen to the client."""
        settings = self._settings
        if downstream.target.climbs:
            raise BadRequest("The path leads above its route's prefix")
        if downstream.fields.two_hosts:
            raise BadRequest("The request has more than one Host")
        via = downstream.fields.noted.get(b"via")
        if via is not None and hops(via) > MAX_HOPS:
            raise LoopDetected()
        downstream.open(body_limit=settings.max_request_body, read_ahead=settings.buffer)

    async def _forward(self, exchange: Exchange, downstream: Downstream, watch: Watch) -> None:
        settings = self._settings
        request_id = exchange.request_id.encode()
        endpoint = self._upstream.pick(exchange, downstream.headers)
        request = UpstreamRequest(
            downstream.method,
            self._request_headers(exchange, downstream, endpoint.authority, request_id),
            downstream.content,
            {**settings.extensions, "target": self._target(downstream.target), "progress": watch.enter},
        )
        exchange.phase = "connect"
        opened = self._upstream.open(endpoint, request, exchange, settings.retry)
        response = await opened.__aenter__()
        # In place of "async with", and with nothing to wait for in the handlers: compiled code may not wait there.
        relay = Relay(exchange, downstream, watch, settings.relay)
        fault: BaseException | None = None
        try:
            exchange.head_at = monotonic()
            fields = ResponseFields(response.headers.raw)
            fields.pass_on(request_id)
            if settings.response_edit is not NO_EDIT:
                fields = ResponseFields(settings.response_edit.apply(fields.kept))
            downstream.carry_on = settings.carry_on
            downstream.hold(settings.buffer)
            await relay.run(response, fields, response.aiter_raw())
        except BaseException as error:
            fault = error
        if fault is None:
            await opened.__aexit__(None, None, None)
        else:
            try:
                await _leave(opened, relay, fault)
            finally:
                fault = None  # it holds this frame, which would hold it
        if downstream.gone:
            raise ClientDisconnected()

    def _target(self, target: Target) -> bytes:
        settings, path = self._settings, target.path
        if settings.strip_prefix or settings.add_prefix:
            path = rewrite(path, strip=settings.strip_prefix, add=settings.add_prefix)
        return path if target.query is None else path + b"?" + target.query

    def _request_headers(
        self, exchange: Exchange, downstream: Downstream, authority: bytes, request_id: bytes
    ) -> Headers:
        settings, fields = self._settings, downstream.fields
        identity = settings.compression == "identity" or (
            settings.compression == "auto" and accepts_event_stream(fields.noted.get(b"accept", b""))
        )
        headers = request_headers(
            fields,
            host=None if settings.preserve_host else settings.host or authority,
            forwarded=(downstream.peer.encode() or b"unix:", downstream.scheme.encode(), exchange.trusted),
            request_id=request_id,
            identity=identity,
        )
        return self._edited(headers, exchange, downstream) if self._edits else headers

    def _edited(self, headers: Headers, exchange: Exchange, downstream: Downstream) -> Headers:
        """The fields with the trace in them, and as the route's rules want them."""
        trace = exchange.trace
        if trace is not None:
            trace.opened_at, trace.target = monotonic(), self._target(downstream.target)
            headers = trace.carry(headers)
        return self._settings.request_edit.apply(headers)


async def _leave(opened: AbstractAsyncContextManager[Response], relay: Relay, fault: BaseException | None) -> NoReturn:
    """Have the relay end what ``fault`` has broken, close the response, and raise."""
    assert fault is not None
    try:
        await relay.fail(fault)
    except BaseException as another:
        fault = another
    try:
        await opened.__aexit__(type(fault), fault, fault.__traceback__)
        raise fault
    finally:
        fault = None  # it holds this frame, which would hold it


def reason_of(fault: BaseException, exchange: Exchange) -> ExchangeError:
    """Why an exchange failed, from whatever came out of it; a fault of our own is logged with its traceback."""
    if exchange.interruption is not None:
        if isinstance(fault, asyncio.CancelledError):
            uncancel(exchange)
        return exchange.interruption
    if isinstance(fault, ExchangeError):
        return fault
    if isinstance(fault, asyncio.CancelledError):
        return StoppedByShutdown()  # the server cancels what still runs when it stops
    logger.error("exchange %s failed", exchange.request_id, exc_info=fault)
    return InternalError()


def uncancel(exchange: Exchange) -> None:
    """The cancellation was ours, and has been understood: the task goes on."""
    if exchange.task is not None:
        exchange.task.uncancel()
