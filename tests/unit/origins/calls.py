"""Calls without a server: a request that is all there, for the origins."""

from __future__ import annotations

from typing import Any

from streamproxy.config.model import Retry
from streamproxy.exchange.body import RequestBody
from streamproxy.exchange.call import Call
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.target import make_target
from streamproxy.exchange.timer import SharedTimer, TimeLimits, Timer
from streamproxy.origins.attempts import RetryingOrigin
from streamproxy.origins.base import Origin, OriginResponse
from streamproxy.origins.upstream import RequestPlan, UpstreamOrigin
from streamproxy.upstream import Upstream
from streamproxy.wire.edits import NO_EDIT
from streamproxy.wire.headers import Headers, RequestFields


def call_of(exchange: Exchange, *chunks: bytes, headers: Headers | None = None) -> Call:
    """A request of the exchange's method with these fields and a body of these chunks, None if there are none."""
    fields: Headers = [(b"host", b"proxy"), *(headers or [])]
    if chunks:
        fields.append((b"transfer-encoding", b"chunked"))
    pending = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    pending.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> Any:
        return pending.pop(0) if pending else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        raise AssertionError(f"nothing is sent here: {message}")

    scope = {
        "type": "http",
        "method": exchange.method,
        "scheme": "http",
        "http_version": "1.1",
        "headers": fields,
        "client": ("192.0.2.1", 1),
    }
    limits = TimeLimits()
    timer = Timer(limits, exchange, SharedTimer(limits))
    downstream = Downstream().prepare(
        scope, receive, send, make_target(b"/", None), RequestFields().prepare(fields), timer
    )
    if chunks:
        downstream.body = RequestBody(receive, exchange, timer, None)
    call = Call()
    call.exchange, call.downstream, call.timer = exchange, downstream, timer
    call.peeked = call.on_close = call.on_connected = None
    return call


def origin_of(upstream: Upstream, retry: Retry | None = None, *, preserve_host: bool = False) -> Origin:
    plan = RequestPlan(
        host=None,
        preserve_host=preserve_host,
        strip_prefix=b"",
        add_prefix=b"",
        extensions={},
        compression="pass",
        edit=NO_EDIT,
    )
    origin = UpstreamOrigin(plan, upstream, traced=False)
    return origin if retry is None else RetryingOrigin(origin, retry)


async def open_at(upstream: Upstream, exchange: Exchange) -> OriginResponse:
    """A response that is still to be closed."""
    return await origin_of(upstream).open(call_of(exchange))
