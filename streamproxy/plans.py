"""Translates a route's section of the configuration to plans for the parts that serve it, with a function for each.

Plans are made when the configuration is loaded, so that requests need no look-ups. These functions make no connections
and keep no state; `streamproxy.deployment` combines their results.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from streamproxy.config import model
from streamproxy.dialects.protocols import DIALECTS
from streamproxy.errors import HeadTimeout
from streamproxy.exchange.tally import Tallies, Tally
from streamproxy.exchange.timer import TimeLimits
from streamproxy.formats.sse import KeepaliveShape
from streamproxy.origins.gate import GatePlan
from streamproxy.origins.redis import EventsPlan
from streamproxy.origins.resume import RESULTS, ResumePlan
from streamproxy.origins.shared_stream import SharePlan
from streamproxy.origins.upstream import RequestPlan
from streamproxy.proxy.early import EarlyPlan
from streamproxy.proxy.plan import RelayPlan
from streamproxy.proxy.tunnel import TunnelPlan
from streamproxy.store.events import ChannelTemplate
from streamproxy.wire.cors import Cors
from streamproxy.wire.edits import Edit, edit
from streamproxy.wire.times import FOREVER


def time_limits(route: model.Route) -> TimeLimits:
    """Returns a route's time-outs."""
    timeouts, keepalive = route.timeouts, route.keepalive
    return TimeLimits(
        request=_seconds(timeouts.request),
        first_byte=_seconds(timeouts.first_byte),
        idle=_seconds(timeouts.idle),
        write=_seconds(timeouts.write),
        total=_seconds(timeouts.total),
        keepalive=keepalive.interval if keepalive is not None else FOREVER,
        early=_seconds(keepalive.before_headers) if keepalive is not None else FOREVER,
    )


def cors_rules(route: model.Route) -> Cors | None:
    """Returns the CORS policy of a route, or None."""
    cors = route.cors
    if cors is None:
        return None
    # Pages may also use the methods of requests with a cursor.
    methods = (*route.methods, "GET", "DELETE") if route.methods and route.resume is not None else route.methods
    return Cors(cors.origins, credentials=cors.credentials, methods=methods)


def request_plan(route: model.Route, upstream: model.Upstream) -> RequestPlan:
    """Returns how a route makes its requests to an upstream."""
    connect = route.timeouts.connect
    extensions: dict[str, Any] = {
        "timeout": {"connect": connect, "pool": connect, "read": None, "write": None},
        "buffer": route.buffer // 2,  # the other half belongs to the server
    }
    edit, upstream_edit = header_edit(route.request_headers), header_edit(upstream.request_headers)
    return RequestPlan(
        host=upstream.literal_host,
        preserve_host=upstream.host == "preserve",
        strip_prefix=(route.rewrite.strip_prefix or "").encode(),
        add_prefix=(route.rewrite.add_prefix or "").encode(),
        extensions=extensions,
        compression=route.compression,
        edit=edit,
        models=upstream.models,
        ask_usage=route.usage is not None,
        dialect=DIALECTS[route.protocol],
        upstream_edit=upstream_edit,
        inspect_body=route.limits.inspect_body,
        not_behind=edit.replaced | upstream_edit.replaced if upstream.http2 else None,
    )


def early_plan(route: model.Route) -> EarlyPlan | None:
    """Returns how a route responds before the upstream does, or None."""
    keepalive = route.keepalive
    if keepalive is None or keepalive.before_headers is None:
        return None
    return EarlyPlan(
        _shape(keepalive),
        header_edit(route.response_headers),
        route.buffer,
        anti_buffering=route.anti_buffering,
    )


def tunnel_plan(route: model.Route, tallies: Tallies) -> TunnelPlan | None:
    """Returns how a route carries WebSockets, or None if it refuses them."""
    if route.websocket is None:
        return None
    return TunnelPlan(
        ping=route.websocket.ping,
        buffer=route.buffer,
        continue_on_disconnect=route.on_disconnect == "continue",
        from_client=tallies.of("websocket_messages", route.name, "client"),
        from_upstream=tallies.of("websocket_messages", route.name, "upstream"),
    )


def gate_plan(route: model.Route, tallies: Tallies) -> GatePlan | None:
    """Returns how long a route waits for first events, or None."""
    first_event, held = route.timeouts.first_event, route.retry.until == "first_event"
    if first_event is None and not held:
        return None
    late = {
        name: tallies.of("upstream_errors", route.name, name, HeadTimeout.error)
        for name in (route.upstreams if first_event is not None else ())
    }
    return GatePlan(DIALECTS[route.protocol], first_event, held, late)


def resume_plan(route: model.Route, resume: model.Resume, tallies: Tallies) -> ResumePlan:
    """Returns how a route keeps its streams."""
    return ResumePlan(
        route=route.name,
        authenticated=route.auth is not None,
        ids=resume.ids == "on" or (resume.ids == "auto" and route.protocol == "http"),
        tallies={result: tallies.of("resumed", route.name, result) for result in RESULTS},
        buffer=min(route.buffer, resume.max_bytes // 2),
        dialect=DIALECTS[route.protocol],
        max_events=route.limits.max_events,
        throttled=_cut_for_events(route, tallies),
    )


def share_plan(route: model.Route, share: model.Share, clients: Counter[str]) -> SharePlan:
    """Returns how a route shares its streams."""
    clients[route.name] += 0  # create the metric now, so that it is shown
    return SharePlan(
        route=route.name,
        key=frozenset(share.key),
        authenticated=route.auth is not None,
        slow=share.slow,
        max_clients=share.max_clients,
        linger=share.linger,
        buffer=route.buffer,
        dialect=DIALECTS[route.protocol],
        clients=clients,
    )


def events_plan(route: model.Route, redis: model.RedisSource) -> EventsPlan:
    """Returns what a route reads from Redis."""
    return EventsPlan(ChannelTemplate(redis.channel), redis.kind == "stream", redis.max_clients, route.buffer)


def relay_plan(route: model.Route, tallies: Tallies) -> RelayPlan:
    """Returns how a route relays responses."""
    keepalive = route.keepalive
    return RelayPlan(
        keepalive=_shape(keepalive) if keepalive is not None else None,
        ndjson=keepalive is not None and keepalive.ndjson,
        anti_buffering=route.anti_buffering,
        error_event=route.on_truncation == "error_event",
        max_events=route.limits.max_events,
        throttled=_cut_for_events(route, tallies),
    )


def header_edit(rules: model.HeaderRules) -> Edit:
    """Returns the changes to the fields of a head."""
    return edit(rules.set, rules.add, rules.remove)


def _shape(keepalive: model.Keepalive) -> KeepaliveShape:
    return KeepaliveShape(keepalive.comment, keepalive.shape)


def _cut_for_events(route: model.Route, tallies: Tallies) -> Tally | None:
    """Returns a counter of the streams that are cut because of ``limits.max_events``."""
    return tallies.of("throttled", route.name, "events") if route.limits.max_events is not None else None


def _seconds(timeout: float | None) -> float:
    return FOREVER if timeout is None else timeout
