"""One request, top to bottom.

`Handler.handle` opens an exchange, brings it to its one end whatever happens, and tells the ledger. What a route does
was bound when the configuration was loaded (`RoutePlan`): a request decides nothing that the file has decided already.
A request is first looked at as a preflight, then authenticated, refused if it may not pass, given a place, answered by
the route's origin, and its response relayed. So a stranger learns nothing of the limits and takes no place, and a
browser can read every refusal.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from starlette.types import Receive, Send

from streamproxy.dialects.grpc import grpc_error, is_grpc
from streamproxy.errors import (
    ClientDisconnected,
    ExchangeAborted,
    ExchangeError,
    InternalError,
    StoppedByShutdown,
    UpstreamReportedError,
)
from streamproxy.exchange.call import Call
from streamproxy.exchange.clock import http_date, monotonic
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange, new_request_id
from streamproxy.exchange.extension import fields_of
from streamproxy.exchange.ledger import Ledger
from streamproxy.exchange.target import Scope, Target
from streamproxy.exchange.timer import WRITE, SharedTimer, Timer
from streamproxy.origins.base import OriginResponse
from streamproxy.proxy.admission import Admission, Ticket
from streamproxy.proxy.early import EarlyHead, EarlyPlan, wants_events
from streamproxy.proxy.peek import peek
from streamproxy.proxy.plan import Chooser, RoutePlan
from streamproxy.proxy.relay import Relay
from streamproxy.proxy.screen import answer_here, prepare_auth
from streamproxy.proxy.tunnel import Tunnel
from streamproxy.wire.edits import NO_EDIT
from streamproxy.wire.forwarded import is_trusted, original_client
from streamproxy.wire.headers import Headers, sane_request_id, via
from streamproxy.wire.response_fields import ResponseFields
from streamproxy.wire.trace import parse_traceparent

logger = logging.getLogger("streamproxy.proxy")

_PROTOCOLS: Final = {"1.0": "HTTP/1.0", "1.1": "HTTP/1.1", "2": "HTTP/2", "3": "HTTP/3"}  # by ASGI's http_version


class Handler:
    """Serves the requests of one route, each as one exchange in the ledger.

    With a ``chooser`` it serves those of the route that this one chooses.
    """

    def __init__(self, plan: RoutePlan, ledger: Ledger, chooser: Chooser | None = None) -> None:
        self._plan = plan
        self._chooser = chooser
        self._ledger = ledger
        self._shared_timer = SharedTimer(plan.limits)

    async def handle(self, target: Target, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, to its one end."""
        plan, chooser = self._plan, self._chooser
        call = self.begin(target, scope, receive, send)
        exchange, downstream = call.exchange, call.downstream
        place = response = relay = charged = early = None
        fault: BaseException | None = None
        self._ledger.open(exchange)
        try:
            # Nothing waits in a handler of exceptions: compiled code may not.
            try:
                if chooser is not None:
                    plan = await chooser.choose(call)
                if plan.auth is not None and plan.auth.waits and chooser is None:
                    await prepare_auth(plan.auth, call)
                answer = answer_here(plan, call, self._ledger.draining)
                if answer is None:
                    if chooser is None:
                        downstream.open(plan.max_request_body, plan.buffer)
                    if plan.limited and not plan.origin.replays(call):
                        if plan.quota is not None:
                            client = str(plan.client_key(exchange, downstream.headers))
                            await plan.quota.admit(client, monotonic())
                            charged = client
                        if plan.admission is not None:
                            place = _place(plan, plan.admission, call)
                    if plan.early is not None and not plan.origin.replays(call):  # whose 404 or 410 is a status
                        early = await _early(plan, plan.early, call, chooser is None)
                    if place is not None and plan.admission is not None:
                        await plan.admission.wait(place, exchange)
                    if plan.peek is not None and chooser is None and plan.early is None:
                        peeking = peek(call, plan.peek)
                        if peeking is not None:
                            await peeking
                    if early is not None:
                        early.opening = plan.origin
                    response = await plan.origin.open(call)
                    if early is not None and early.sent:
                        unfit, response = response, None
                        response = await _fitting(early, unfit)
                    elif early is not None:
                        early.stop()
                    fields = _prepare(plan, call, response, place)
                    if response.tunnel is not None and plan.tunnel is not None:
                        await Tunnel(call, response.tunnel, plan.tunnel).run(fields.kept)
                    else:
                        dialect = plan.dialect.for_path(target.path)
                        relay = Relay()
                        running = relay.run(call, response, fields, plan.relay, dialect, early)
                        if running is not None:
                            await running
                    finished, response = response, None
                    closing = finished.end()
                    if closing is not None:
                        await closing
                else:
                    await _respond(call, answer[0], answer[1], b"")
            except (Exception, asyncio.CancelledError) as error:
                fault = error
            if response is not None:
                fault = await _close(response, relay, fault)
            if fault is None and downstream.gone:
                fault = ClientDisconnected()
            if fault is not None:
                await _fail(plan, call, fault, early if relay is None else None)
        finally:
            fault = None  # it holds this frame, which would hold it
            if early is not None:
                early.close()
            if place is not None and plan.admission is not None:
                plan.admission.leave(place)
            if charged is not None and plan.quota is not None:
                plan.quota.charge(charged, exchange, monotonic())
            call.close()
            self._ledger.close(exchange)

    def begin(self, target: Target, scope: Scope, receive: Receive, send: Send) -> Call:
        """The call of a request, with what is known of it before anything is done."""
        plan = self._plan
        fields = fields_of(scope)
        noted = fields.noted
        request_id = noted.get(b"x-request-id")
        exchange = Exchange(
            request_id.decode() if request_id and sane_request_id(request_id) else new_request_id(),
            plan.name,
            plan.upstream,
            scope["method"],
            target.path.decode("latin-1"),
        )
        timer = Timer(plan.limits, exchange, self._shared_timer)
        downstream = Downstream().prepare(scope, receive, send, target, fields, timer)
        direct = downstream.direct  # middleware before it may have created another task
        exchange.task = direct.task if direct is not None else asyncio.current_task()
        exchange.client = peer = downstream.peer
        exchange.protocol = _PROTOCOLS.get(downstream.version, "")
        if target.query:
            exchange.query = target.query
        if plan.trusted and is_trusted(peer, plan.trusted):
            exchange.trusted = True
            if chain := fields.chain():
                exchange.client = original_client(chain, peer, plan.trusted)
        if plan.tracer is not None:
            plan.tracer.begin(exchange, downstream.headers, downstream.scheme)
        elif b"traceparent" in noted:
            parent = parse_traceparent(noted[b"traceparent"])
            exchange.trace_id = parent.trace_id if parent is not None else ""
        call = Call()
        call.exchange = exchange
        call.downstream = downstream
        call.timer = timer
        call.peeked = call.on_close = call.on_connected = None
        return call


def _place(plan: RoutePlan, admission: Admission, call: Call) -> Ticket:
    """Ask for a place for the request; it may have to be waited for."""
    exchange, headers = call.exchange, call.downstream.headers
    priority = plan.priority(headers) if plan.priority is not None else 0
    return admission.ask(plan.client_key(exchange, headers), exchange, priority)


async def _early(plan: RoutePlan, early: EarlyPlan, call: Call, peeks: bool) -> EarlyHead | None:
    """Begin to wait for an early head, where the request asks for events.

    Its body is looked at while it stands in the queue, so that it is answered there too; nothing is read of one that
    is refused.
    """
    if peeks and plan.peek is not None:
        peeking = peek(call, plan.peek)
        if peeking is not None:
            await peeking
    dialect = plan.dialect.for_path(call.downstream.target.path)
    return EarlyHead(call, early, dialect) if wants_events(call, dialect) else None


async def _fitting(early: EarlyHead, response: OriginResponse) -> OriginResponse:
    """The response, if it may follow an early head. Raises what the client is told instead, with it closed.

    Comments go on until that is known: the upstream's error may come slowly.
    """
    fault: BaseException | None = None
    try:
        fault = await early.mismatch(response)
    except (Exception, asyncio.CancelledError) as error:
        fault = error
    early.stop()
    if fault is None:
        return response
    # An answer that is no stream is no fault of its endpoint.
    await response.aclose(InternalError() if isinstance(fault, UpstreamReportedError) else fault)
    raise fault


async def _respond(call: Call, status: int, headers: Headers, body: bytes) -> None:
    """Answer in the upstream's place."""
    own = [(b"date", http_date()), via("1.1"), (b"x-request-id", call.exchange.request_id.encode())]
    call.timer.waits_for(WRITE, monotonic())
    try:
        await call.downstream.respond(status, headers + own, body)
    except OSError as fault:
        raise ClientDisconnected() from fault


def _prepare(plan: RoutePlan, call: Call, response: OriginResponse, place: Ticket | None) -> ResponseFields:
    """The fields that the response goes on with; from here on the client's side has its limit."""
    exchange, downstream, fields = call.exchange, call.downstream, response.fields
    if not exchange.head_at:
        exchange.head_at = monotonic()
    date = b"" if b"date" in fields.noted else http_date()
    fields.pass_on(exchange.request_id.encode(), date, response.version)
    if plan.response_edit is not NO_EDIT:
        fields = ResponseFields().prepare(plan.response_edit.apply(fields.kept))
    downstream.continue_on_disconnect = plan.continue_on_disconnect
    read_on = response.on_client_left
    if read_on is not None:
        downstream.continue_on_disconnect = True
        downstream.on_gone = read_on
        call.timer.spare_blocked(downstream.cut)
        if plan.admission is not None and place is not None:
            downstream.on_gone = partial(_goes_on, read_on, plan.admission, place)
    if downstream.connection is not None:
        downstream.connection.set_write_limit(plan.buffer // 2)  # the other half is the upstream connection's
    return fields


def _goes_on(read_on: Callable[[], None], admission: Admission, place: Ticket) -> None:
    """The client has left, and its stream is read on."""
    admission.places.client_left(place)
    read_on()


async def _close(response: OriginResponse, relay: Relay | None, fault: BaseException | None) -> BaseException | None:
    """Have the relay end what ``fault`` has broken, and let go of the response. Returns the fault that stands."""
    if fault is not None and relay is not None:
        try:
            await relay.fail(fault)
        except (Exception, asyncio.CancelledError) as another:
            fault = another
    try:
        await response.aclose(fault)
    except (Exception, asyncio.CancelledError) as another:
        fault = fault or another
    return fault


async def _fail(plan: RoutePlan, call: Call, fault: BaseException, early: EarlyHead | None) -> None:
    """Before the head, answer with the error; after it, abort. A client that left gets neither.

    Behind an ``early`` head that nothing has followed, it is told in an event first.

    Raises ExchangeAborted for the server, and a cancellation that was the server's own.
    """
    exchange, downstream = call.exchange, call.downstream
    cancelled_by_server = isinstance(fault, asyncio.CancelledError) and exchange.interruption is None
    exchange.error = error = reason_of(fault, exchange)
    if cancelled_by_server:
        raise fault
    if error.note:
        logger.debug("exchange %s: %s", exchange.request_id, error.note)
    if isinstance(error, ClientDisconnected):
        if not downstream.started:
            exchange.status = error.status
        return
    if early is not None and early.stop():
        await early.explain(error)
        raise ExchangeAborted(error.error) from None
    if downstream.started:
        raise ExchangeAborted(error.error) from None
    if is_grpc(downstream.headers):
        status, headers, body = 200, grpc_error(error, exchange.request_id), b""
    else:
        status, (headers, body) = (
            error.status,
            plan.dialect.for_path(downstream.target.path).error(error, exchange.request_id),
        )
    headers.append((b"date", http_date()))
    exchange.answer()
    call.timer.waits_for(WRITE, monotonic())
    try:
        await downstream.respond(status, headers, body)
    except asyncio.CancelledError:
        if exchange.interruption is None:
            raise
        uncancel(exchange)
        raise ExchangeAborted(error.error) from None
    except OSError:
        pass  # the client left


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
