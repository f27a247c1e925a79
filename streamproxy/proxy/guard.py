"""What stands in front of a route: CORS, the check of its credential, its limits.

A route that has none of them is served by a plain `Forwarder` and pays nothing. One that has some is a
`GuardedForwarder`, which does in this order what its guard has: answer a preflight, dress every response for browsers,
let in who has a valid credential, and give a place to who is let in. So a stranger learns nothing of the limits and
takes no place, and a browser can read every refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial
from time import monotonic
from typing import NamedTuple

from streamproxy.auth import Authenticator, build_authenticator
from streamproxy.auth.watched import File
from streamproxy.config import Limits, Route
from streamproxy.errors import ClientDisconnected
from streamproxy.exchange.downstream import Downstream
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.exchange.timer import FOREVER, WRITE, Watch
from streamproxy.proxy.admission import Admission, AdmissionLimits
from streamproxy.proxy.handle import Forwarder, ForwarderSettings
from streamproxy.routing.route import Served
from streamproxy.upstream import Upstream
from streamproxy.wire.cors import Cors, is_preflight
from streamproxy.wire.headers import Headers, RequestFields, first

ClientKey = Callable[[Exchange, Headers], Hashable]


class Guard(NamedTuple):
    """The parts that a route has; None for those it has not. ``client`` tells clients apart for their own limits."""

    cors: Cors | None
    auth: Authenticator | None
    admission: Admission | None
    client: ClientKey

    def take_over(self, previous: Guard) -> None:
        """Count with whom the guard of another configuration has let in already: they hold their places still."""
        if self.admission is not None and previous.admission is not None:
            self.admission.take_over(previous.admission)


class GuardedForwarder(Forwarder):
    """A forwarder with a guard in front."""

    def __init__(self, settings: ForwarderSettings, upstream: Upstream, ledger: Ledger, guard: Guard) -> None:
        super().__init__(settings, upstream, ledger)
        self._guard = guard

    def _serve(self, exchange: Exchange, downstream: Downstream, watch: Watch) -> Served:
        guard, headers = self._guard, downstream.headers
        if guard.cors is not None:
            downstream.dress = partial(guard.cors.dress, first(headers, b"origin"))
            if is_preflight(downstream.method, headers):
                downstream.dress = None
                watch.waits, watch.since = WRITE, monotonic()
                return self._answer_preflight(guard.cors.preflight(headers), exchange, downstream)
        if guard.auth is not None:
            passed = guard.auth.check(headers, downstream.target.query)
            exchange.principal = passed.principal
            downstream.target.query = passed.query
            downstream.headers = passed.headers
            downstream.fields = RequestFields(passed.headers)
        return super()._serve(exchange, downstream, watch)

    async def _answer_preflight(self, headers: Headers, exchange: Exchange, downstream: Downstream) -> None:
        own = [(b"via", b"1.1 streamproxy"), (b"x-request-id", exchange.request_id.encode())]
        try:
            await downstream.respond(204, headers + own, b"")
        except OSError as fault:
            raise ClientDisconnected() from fault

    async def _forward(self, exchange: Exchange, downstream: Downstream, watch: Watch) -> None:
        guard = self._guard
        if guard.admission is None:
            await super()._forward(exchange, downstream, watch)
            return
        ticket = await guard.admission.enter(guard.client(exchange, downstream.headers), exchange)
        try:
            await super()._forward(exchange, downstream, watch)
        finally:
            guard.admission.leave(ticket)


def build_guard(route: Route, open_file: Callable[[str], File]) -> Guard | None:
    """The guard of a route, None when there is nothing to guard.

    Raises StreamproxyError when a file of tokens or keys cannot be used.
    """
    limits, cors = route.limits, route.cors
    limited = limits.max_streams is not None or limits.max_streams_per_client is not None
    guard = Guard(
        Cors(cors.origins, credentials=cors.credentials, methods=route.methods) if cors is not None else None,
        build_authenticator(route.auth, open_file) if route.auth is not None else None,
        Admission(admission_limits(limits)) if limited else None,
        client_key(limits.client_key),
    )
    return guard if any(part is not None for part in guard[:3]) else None


def admission_limits(limits: Limits) -> AdmissionLimits:
    """A route's ``limits`` as its admission keeps them."""
    return AdmissionLimits(
        limits.max_streams,
        limits.max_streams_per_client,
        limits.queue,
        limits.queue_timeout if limits.queue_timeout is not None else FOREVER,
    )


def client_key(source: str) -> ClientKey:
    """What tells clients apart: ``client_ip``, ``header:NAME`` or ``principal``.

    Requests without the header are those of one client, and so are all that come over a unix socket.
    """
    if source == "principal":
        return lambda exchange, headers: exchange.principal
    if source.startswith("header:"):
        name = source.removeprefix("header:").lower().encode()
        return lambda exchange, headers: first(headers, name)
    return lambda exchange, headers: exchange.client
