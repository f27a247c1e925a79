"""Every metric, declared once: its name, its labels, the question it answers, and where its numbers are."""

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
    """A counter: its name without ``_total``, its labels, and how its samples are read from the totals.

    ``help`` is for the exposition, ``question`` for docs/metrics.md.
    """

    name: str
    labels: Labels
    help: str
    question: str
    read: Callable[[Totals], Numbers]


class Gauges(NamedTuple):
    """A gauge."""

    name: str
    labels: Labels
    help: str
    question: str
    read: Callable[[Totals], Numbers]


class Distributions(NamedTuple):
    """A histogram; its bounds are the shown ones of the `Histogram` that is read."""

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
    """What `Totals.counts` has under this name."""
    return lambda totals: ((key[1:], count) for key, count in totals.counts.items() if key[0] == name)


def _level(name: str) -> Callable[[Totals], Numbers]:
    """What `Totals.levels` has under this name."""
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
        "How much comes, and how does it end? 499 is a client that left before the head.",
        _requests,
    ),
    Gauges(
        "streams_active",
        _PAIR,
        "Exchanges whose response body is under way.",
        "How many streams run now?",
        _by_pair("active"),
    ),
    Distributions(
        "ttfb_seconds",
        _PAIR,
        "From the request being read until the first byte of the response body was sent.",
        "How long does a client wait for its first byte, once its request is sent?",
        _by_pair("ttfb"),
    ),
    Distributions(
        "upstream_ttfb_seconds",
        _PAIR,
        "From the request being sent to the upstream until its response head.",
        "How much of that is the upstream's, up to its response head?",
        _by_pair("upstream_ttfb"),
    ),
    Distributions(
        "stream_duration_seconds",
        _PAIR,
        "From the response head to the end of a stream, however it ended.",
        "How long do streams run? Is there a wall at 30, 60 or 100 s that something in front puts up?",
        _by_pair("stream_duration"),
    ),
    Distributions(
        "chunk_gap_seconds",
        _PAIR,
        "Between two reads of a streaming response.",
        "How smoothly do tokens come? Are silences near `timeouts.idle`?",
        _by_pair("chunk_gap"),
    ),
    Counts(
        "response_bytes",
        _PAIR,
        "Bytes of response bodies, live ones too.",
        "How much goes to clients?",
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
        "How many events or lines a second: what do the models produce?",
        _by_pair("events"),
    ),
    Counts(
        "keepalives",
        ("route",),
        "Keepalives sent to clients.",
        "How often is a stream silent for longer than `keepalive`?",
        _by_route("keepalives"),
    ),
    Counts(
        "retries",
        _PAIR,
        "Further attempts at requests whose earlier ones failed.",
        "How often is an upstream saved by another endpoint?",
        _by_pair("retries"),
    ),
    Counts(
        "disconnects",
        ("route", "side", "phase"),
        "Exchanges that the client or the upstream broke off, by the phase they were in.",
        "Who breaks off, clients or upstreams, and when?",
        lambda totals: totals.disconnects.items(),
    ),
    Counts(
        "upstream_errors",
        ("route", "upstream", "error"),
        "Errors of upstreams, by their RFC 9209 name.",
        "What is wrong with an upstream, in the words of RFC 9209?",
        lambda totals: totals.upstream_errors.items(),
    ),
    Counts(
        "config_reloads",
        ("result",),
        "Configurations that were read while the proxy ran, and whether they came into force.",
        "Was the last change of the configuration taken?",
        lambda totals: (((result,), count) for result, count in totals.reloads.items()),
    ),
    Counts(
        "backpressure_seconds",
        ("route",),
        "Time spent waiting for clients to take what was sent.",
        "Are clients too slow? Its rate is the mean number of streams that wait for one.",
        _by_route("backpressure"),
    ),
    Gauges(
        "queue_depth",
        ("route",),
        "Exchanges that wait for a place in their route's limits.",
        "How many wait for a place in the route's limits?",
        _by_route("waiting"),
    ),
    Distributions(
        "queue_seconds",
        ("route",),
        "Time in the queue of the exchanges that had to wait, whether or not they got a place.",
        "How long did they wait, those who had to?",
        _queue_seconds,
    ),
    Gauges(
        "endpoint_up",
        ("upstream", "endpoint"),
        "Whether an endpoint is given requests.",
        "Which endpoints are given requests?",
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
        "How many connections are open, in use (`active`) or kept (`idle`)?",
        lambda totals: totals.connections.items(),
    ),
    Counts(
        "websocket_messages",
        ("route", "direction"),
        "WebSocket messages, by the side that they go to (client, upstream).",
        "How much goes through a WebSocket, and in which direction?",
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
        "Operations of a store that failed (resume, limits, events).",
        "Is the store reachable?",
        _counted("store_errors"),
    ),
)

# Names of OpenTelemetry's GenAI conventions, which have no prefix of ours.
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

# Families that nothing feeds yet. They show as soon as something does; the part of the proxy that comes to feed one
# takes its name out of here, and docs/metrics.md and the dashboard must have it then.
PENDING: Final = frozenset(
    {
        "endpoint_load",
        "fallbacks",
        "resumed",
        "shared_clients",
        "store_errors",
        "throttled",
        "websocket_messages",
        *(family.name for family in _GENAI),
    }
)
# By their full names, without ``_total``.
BY_NAME: Final[dict[str, Family]] = {
    **{"streamproxy_" + family.name: family for family in _OURS},
    **{family.name: family for family in _GENAI},
}
FAMILIES: Final = tuple(family for family in _OURS if family.name not in PENDING)
GENAI_FAMILIES: Final = tuple(family for family in _GENAI if family.name not in PENDING)
