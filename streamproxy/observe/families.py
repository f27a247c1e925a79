"""The declarations of all metrics: name, labels, the question it answers, and the source of its numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any, Final, NamedTuple

from streamproxy.exchange.histogram import SECONDS, Histogram
from streamproxy.observe.series import Totals

Labels = tuple[str, ...]
Numbers = Iterable[tuple[Labels, float]]
Histograms = Iterable[tuple[Labels, Histogram]]


class Counts(NamedTuple):
    """A counter: its name without ``_total``, its labels, and the function that reads its samples from the totals.

    ``help`` appears in the exposition, ``question`` in docs/metrics.md.
    """

    name: str
    labels: Labels
    help: str
    question: str
    read: Callable[[Totals], Numbers]


class Gauges(NamedTuple):
    """A gauge; see `Counts` for its fields."""

    name: str
    labels: Labels
    help: str
    question: str
    read: Callable[[Totals], Numbers]


class Distributions(NamedTuple):
    """A histogram. Its bounds are the published ones of the `Histogram` that is read."""

    name: str
    labels: Labels
    help: str
    question: str
    read: Callable[[Totals], Histograms]


Family = Counts | Gauges | Distributions


def _by_pair(slot: str) -> Callable[[Totals], Iterable[tuple[Labels, Any]]]:
    def read(totals: Totals) -> Iterable[tuple[Labels, Any]]:
        return ((pair, getattr(series, slot)) for pair, series in totals.series.items())

    return read


def _by_route(slot: str) -> Callable[[Totals], Numbers]:
    def read(totals: Totals) -> Numbers:
        sums: Counter[str] = Counter()
        for (route, _), series in totals.series.items():
            sums[route] += getattr(series, slot)
        return (((route,), value) for route, value in sums.items())

    return read


def _queue_seconds(totals: Totals) -> Histograms:
    merged: dict[str, Histogram] = {}
    for (route, _), series in totals.series.items():
        merged.setdefault(route, Histogram(SECONDS)).add(series.queue.counts, series.queue.sum)
    return (((route,), histogram) for route, histogram in merged.items())


def _requests(totals: Totals) -> Numbers:
    return (((route, method, str(code)), count) for (route, method, code), count in totals.requests.items())


def _counted(name: str) -> Callable[[Totals], Numbers]:
    """Reads the counter of this name from `Totals.counts`."""
    return lambda totals: ((key[1:], count) for key, count in totals.counts.items() if key[0] == name)


def _upstream_errors(totals: Totals) -> Numbers:
    """Adds up the errors that ended exchanges, and those after which an exchange continued."""
    errors = totals.upstream_errors.copy()
    for key, count in _counted("upstream_errors")(totals):
        errors[key] += int(count)  # type: ignore[index]
    return errors.items()


def _level(name: str) -> Callable[[Totals], Numbers]:
    """Reads the gauge of this name from `Totals.levels`."""
    return lambda totals: ((key[1:], level) for key, level in totals.levels.items() if key[0] == name)


def _by_model(slot: str) -> Callable[[Totals], Histograms]:
    return lambda totals: ((labels, getattr(genai, slot)) for labels, genai in totals.genai.items())


def _tokens(totals: Totals) -> Histograms:
    for labels, genai in totals.genai.items():
        for kind, histogram in genai.tokens.items():
            yield (*labels, kind), histogram


_PAIR = ("route", "upstream")
_MODEL = ("gen_ai_operation_name", "gen_ai_provider_name", "gen_ai_request_model")

_OURS: Final[tuple[Family, ...]] = (
    Counts(
        "requests",
        ("route", "method", "code"),
        "Finished exchanges.",
        "How many requests come, and how do they end? 499 is a client that left before the head.",
        _requests,
    ),
    Gauges(
        "streams_active",
        _PAIR,
        "Exchanges whose response body is under way.",
        "How many streams are open now?",
        _by_pair("active"),
    ),
    Distributions(
        "ttfb_seconds",
        _PAIR,
        "From the request being read until the first byte of the response body was sent.",
        "How long does a client wait for the first byte, once its request has been read?",
        _by_pair("ttfb"),
    ),
    Distributions(
        "upstream_ttfb_seconds",
        _PAIR,
        "From the request being sent to the upstream until its response head.",
        "How long does the upstream take to send its response head?",
        _by_pair("upstream_ttfb"),
    ),
    Distributions(
        "stream_duration_seconds",
        _PAIR,
        "From the response head to the end of a stream, however it ended.",
        "How long do streams run? Do many end at 30, 60 or 100 s, where a proxy in front may cut them?",
        _by_pair("stream_duration"),
    ),
    Distributions(
        "chunk_gap_seconds",
        _PAIR,
        "Between two reads of a streaming response.",
        "How smoothly do responses arrive? Are there silences near `timeouts.idle`?",
        _by_pair("chunk_gap"),
    ),
    Counts(
        "response_bytes",
        _PAIR,
        "Bytes of response bodies, live ones too.",
        "How much is sent to clients?",
        _by_pair("response_bytes"),
    ),
    Counts(
        "request_bytes",
        _PAIR,
        "Bytes of request bodies, live ones too.",
        "How much do clients send?",
        _by_pair("request_bytes"),
    ),
    Distributions(
        "stream_bytes",
        _PAIR,
        "Body bytes of a stream, however it ended.",
        "How large are responses?",
        _by_pair("stream_bytes"),
    ),
    Counts(
        "events",
        _PAIR,
        "Server-sent events and NDJSON lines.",
        "How many events or lines a second do the upstreams produce?",
        _by_pair("events"),
    ),
    Counts(
        "keepalives",
        ("route",),
        "Keepalives sent to clients.",
        "How often is a stream silent for longer than the `keepalive` interval?",
        _by_route("keepalives"),
    ),
    Counts(
        "retries",
        _PAIR,
        "Further attempts at requests whose earlier ones failed.",
        "How often does a request need another attempt?",
        _by_pair("retries"),
    ),
    Counts(
        "disconnects",
        ("route", "side", "phase"),
        "Exchanges that the client or the upstream broke off, by the phase they were in.",
        "Do clients or upstreams break off, and in which phase?",
        lambda totals: totals.disconnects.items(),
    ),
    Counts(
        "upstream_errors",
        ("route", "upstream", "error"),
        "Errors of upstreams, by their RFC 9209 name.",
        "What is wrong with an upstream, in the terms of RFC 9209?",
        _upstream_errors,
    ),
    Counts(
        "config_reloads",
        ("result",),
        "Configurations that were read while the proxy ran, and whether they came into force.",
        "Did the last change of the configuration come into force?",
        lambda totals: (((result,), count) for result, count in totals.reloads.items()),
    ),
    Counts(
        "backpressure_seconds",
        ("route",),
        "Time spent waiting for clients to take what was sent.",
        "Are clients too slow? The rate is the mean number of streams that wait for their client.",
        _by_route("backpressure"),
    ),
    Gauges(
        "queue_depth",
        ("route",),
        "Exchanges that wait for a place in their route's limits.",
        "How many exchanges wait for a place in the limits of the route?",
        _by_route("waiting"),
    ),
    Gauges(
        "request_held_bytes",
        ("route",),
        "Bytes of request bodies in memory: read ahead, kept for another attempt, or not yet sent.",
        "How much memory do the bodies of requests use?",
        _by_route("held"),
    ),
    Distributions(
        "queue_seconds",
        ("route",),
        "Time in the queue of the exchanges that had to wait, whether or not they got a place.",
        "How long did the exchanges wait that had to?",
        _queue_seconds,
    ),
    Gauges(
        "endpoint_up",
        ("upstream", "endpoint"),
        "Whether an endpoint receives requests.",
        "Which endpoints receive requests?",
        lambda totals: ((key, int(up)) for key, (up, _) in totals.endpoints.items()),
    ),
    Gauges(
        "endpoint_streams",
        ("upstream", "endpoint"),
        "Exchanges that an endpoint serves now.",
        "Is the load spread evenly?",
        lambda totals: ((key, streams) for key, (_, streams) in totals.endpoints.items()),
    ),
    Gauges(
        "connections",
        ("upstream", "state"),
        "Connections to an upstream.",
        "How many connections are open, in use (`active`) or kept for reuse (`idle`)?",
        lambda totals: totals.connections.items(),
    ),
    Counts(
        "websocket_messages",
        ("route", "direction"),
        "WebSocket messages, by the side that sent them (client, upstream).",
        "How many messages pass through WebSockets, and in which direction?",
        _counted("websocket_messages"),
    ),
    Counts(
        "fallbacks",
        _PAIR,
        "Requests that this upstream took over from another one that had failed.",
        "How often does a fallback have to answer?",
        _counted("fallbacks"),
    ),
    Counts(
        "error_events",
        _PAIR,
        "Failures that a stream reported of itself after its head.",
        "How often does a model fail in the middle of its answer?",
        _counted("error_events"),
    ),
    Gauges(
        "endpoint_load",
        ("upstream", "endpoint", "kind"),
        "The load of an endpoint, as its engine reports it: requests running and waiting, share of the cache in use.",
        "What does an engine say of itself (running, waiting, cache)?",
        _level("endpoint_load"),
    ),
    Counts(
        "throttled",
        ("route", "limit"),
        "Requests refused and streams ended by a limit (requests, tokens, events).",
        "Which limits do clients run into?",
        _counted("throttled"),
    ),
    Counts(
        "resumed",
        ("route", "result"),
        "Requests with a cursor, by what they got (replayed, live, complete, gone, refused).",
        "How often do clients come back to a stream, and do they get the rest?",
        _counted("resumed"),
    ),
    Gauges(
        "shared_clients",
        ("route",),
        "Clients that read a stream which was opened for another.",
        "How many streams does sharing save?",
        _level("shared_clients"),
    ),
    Counts(
        "store_errors",
        ("store",),
        "Operations of a store that failed (resume, limits, events), or readings of auth.jwt.jwks_url (keys).",
        "Are the stores and the keys reachable?",
        _counted("store_errors"),
    ),
)

# Names from OpenTelemetry's GenAI conventions, which do not have our prefix.
_GENAI: Final[tuple[Distributions, ...]] = (
    Distributions(
        "gen_ai_client_operation_time_to_first_chunk_seconds",
        _MODEL,
        "From the request being read until the first event that says something.",
        "How long does a model think before it answers?",
        _by_model("first_chunk"),
    ),
    Distributions(
        "gen_ai_client_operation_time_per_output_chunk_seconds",
        _MODEL,
        "Between two reads of the stream of a model; a chunk is not a token.",
        "How smoothly does a model write?",
        _by_model("output_chunk"),
    ),
    Distributions(
        "gen_ai_client_operation_duration_seconds",
        _MODEL,
        "From the request to the end of its response.",
        "How long does a whole answer take?",
        _by_model("duration"),
    ),
    Distributions(
        "gen_ai_client_token_usage",
        (*_MODEL, "gen_ai_token_type"),
        "Tokens of an exchange, as its API reported them (input, output, cache_read, cache_write, reasoning).",
        "How many tokens are used, and how many came from a cache?",
        _tokens,
    ),
)

# Families that nothing feeds yet. They appear once something feeds them; the change that does so removes the name here,
# and docs/metrics.md and the dashboard must then include it.
PENDING: Final[frozenset[str]] = frozenset()
# Full names without ``_total``.
BY_NAME: Final[dict[str, Family]] = {
    **{"streamproxy_" + family.name: family for family in _OURS},
    **{family.name: family for family in _GENAI},
}
FAMILIES: Final = tuple(family for family in _OURS if family.name not in PENDING)
GENAI_FAMILIES: Final = tuple(family for family in _GENAI if family.name not in PENDING)
