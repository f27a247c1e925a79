"""What is decided about a request before it takes a place: credentials, preflights, and what may not pass."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

from streamproxy.auth import Authenticator
from streamproxy.errors import (
    BadRequest,
    LoopDetected,
    MethodRefused,
    NotImplementedHere,
    StoppedByShutdown,
    UnsupportedVersion,
)
from streamproxy.exchange.call import Call
from streamproxy.exchange.downstream import Downstream
from streamproxy.proxy.plan import RoutePlan
from streamproxy.wire.cors import is_preflight
from streamproxy.wire.headers import MAX_HOPS, Headers, RequestFields, first, forwards_left, hops, named_by_connection
from streamproxy.wire.http1 import is_websocket_key
from streamproxy.wire.websocket import VERSION


def prepare_auth(auth: Authenticator, call: Call) -> Coroutine[Any, Any, None]:
    """Wait for keys that the credentials of a request need and that are not known; a client that leaves is gone."""
    downstream = call.downstream
    downstream.expect_disconnect()
    return auth.prepare(downstream.headers, downstream.target.query)


def answer_here(plan: RoutePlan, call: Call, draining: bool) -> tuple[int, Headers] | None:
    """What the proxy answers itself: a preflight, or a request that may not be forwarded any further.

    None for what goes on. Raises an ExchangeError for what is refused.
    """
    downstream = call.downstream
    if plan.cors is not None:
        headers = downstream.headers
        if is_preflight(downstream.method, headers):
            return 204, plan.cors.preflight(headers)
        downstream.transform_response_headers = partial(plan.cors.transform_response_headers, first(headers, b"origin"))
    if plan.auth is not None:
        passed = plan.auth.check(downstream.headers, downstream.target.query)
        call.exchange.principal = passed.principal
        downstream.target.query = passed.query
        downstream.headers = passed.headers
        downstream.fields = RequestFields().prepare(passed.headers)
    fields = downstream.fields
    noted = fields.noted
    if b"upgrade" in noted:
        _screen_upgrade(plan, call, draining)
    if downstream.target.climbs:
        raise BadRequest("The path leads above its route's prefix")
    if fields.two_hosts:
        raise BadRequest("The request has more than one Host")
    if b"via" in noted and hops(noted[b"via"]) > MAX_HOPS:
        raise LoopDetected()
    method = downstream.method
    if method == "TRACE":
        raise MethodRefused()
    return _count_down(plan, downstream) if method == "OPTIONS" and b"max-forwards" in noted else None


def _count_down(plan: RoutePlan, downstream: Downstream) -> tuple[int, Headers] | None:
    """Count down Max-Forwards (RFC 9110 section 7.6.2). Returns the answer where the request may go no further."""
    try:
        left = forwards_left(downstream.fields.noted[b"max-forwards"])
    except ValueError as error:
        raise BadRequest(str(error)) from None
    if left == 0:
        if not plan.allow:
            return None  # no route: nobody will be asked, and an empty Allow would say that there is something
        return 200, [(b"allow", plan.allow), (b"content-length", b"0")]
    downstream.fields = downstream.fields.replaced(b"max-forwards", b"%d" % (left - 1))
    return None


def _screen_upgrade(plan: RoutePlan, call: Call, draining: bool) -> None:
    """Take a WebSocket handshake for one; any other upgrade is not made, and the request goes on without the field.

    Raises what RFC 6455 section 4.4 asks for when a handshake can't be taken.
    """
    downstream = call.downstream
    noted = downstream.fields.noted
    if (
        noted[b"upgrade"].lower() != b"websocket"
        or downstream.method != "GET"
        or downstream.version != "1.1"
        or downstream.fields.has_body
        or b"upgrade" not in named_by_connection(downstream.headers)
    ):
        if downstream.wants_websocket:  # for a server that hands out messages it is one, and has nothing else to give
            raise BadRequest("The WebSocket handshake is malformed")
        return
    call.exchange.protocol = "websocket"
    key = noted.get(b"sec-websocket-key", b"")
    if plan.tunnel is None:
        raise NotImplementedHere("WebSocket is not served here")
    if noted.get(b"sec-websocket-version") != VERSION:
        raise UnsupportedVersion()
    if not is_websocket_key(key):
        raise BadRequest("Sec-WebSocket-Key is not valid")
    if draining:
        raise StoppedByShutdown()
    if not downstream.wants_websocket:
        raise NotImplementedHere("This server cannot carry WebSocket")
    downstream.websocket_key = key
