"""A route: its conditions, and what happens to the requests that match them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from streamproxy.config import redis, units, values
from streamproxy.config import types as t
from streamproxy.config.auth import Auth
from streamproxy.config.cors import Cors
from streamproxy.config.limits import Limits
from streamproxy.config.section import OrOff, Section, setting
from streamproxy.config.shares import Shares, UpstreamChoice, UpstreamShare, short_shares
from streamproxy.config.upstream import HeaderRules


class Rewrite(Section):
    """Path rewriting; both prefixes are stored without a final slash and may be empty."""

    strip_prefix: t.Prefix = setting("", "the prefix to remove first")
    add_prefix: t.Prefix = setting("", "the prefix to add afterwards")


class Timeouts(Section):
    """Timeouts in seconds."""

    connect: t.Timeout = setting("5s", "to connect")
    request: t.Timeout = setting("60s", "between two reads of the request body from the client")
    first_byte: t.Timeout = setting("300s", "from sending the request to the response head; spans all attempts")
    first_event: t.Timeout = setting(
        "off",
        "from sending the request to the first event with content; else it is counted, or leads to another attempt",
    )
    available: t.Timeout = setting(
        "off", "how long a request waits for an endpoint, while all refuse connections or are unhealthy"
    )
    idle: t.Timeout = setting("300s", "between two reads of the response body")
    write: t.Timeout = setting("120s", "how long a client may accept no data")
    total: t.Timeout = setting("off", "the whole exchange")


class Keepalive(Section):
    """Keepalives of idle event streams; a duration alone is the short form."""

    interval: t.Interval = setting("15s", "the silence after which a keepalive is sent")
    comment: Annotated[str, BeforeValidator(values.comment)] = setting("keepalive", "the text of the comment")
    shape: Literal["auto", "block", "line", "blank"] = setting(
        "auto", "block: a comment and a blank line; line: the comment alone; blank: an empty line"
    )
    before_headers: t.Timeout = setting(
        "off", "a request for events is answered, and comments begin, when there is no response head after this long"
    )
    ndjson: t.Switch = setting("off", "send a space at the start of a line in an idle NDJSON stream")


def _short_keepalive(value: object) -> object:
    if units.is_off(value):
        return None
    return {"interval": value} if isinstance(value, str | int | float) else value


class WebSocket(Section):
    """WebSocket tunnels; on or off alone is the short form."""

    ping: t.Timeout = setting("off", "the silence in both directions after which both ends are pinged")


def _short_websocket(value: object) -> object:
    if units.is_off(value):
        return None
    return {} if value is True or value == "on" else value


_RETRY_STATUSES = (429, 500, 502, 503, 504, 529)


_RETRY_ON = ["connect", "reset", "first_event", "error_event", *map(str, _RETRY_STATUSES)]


RetryOn = Annotated[
    Literal["connect", "reset", "first_event", "error_event", "429", "500", "502", "503", "504", "529"],
    BeforeValidator(str),
    WithJsonSchema({"anyOf": [{"enum": [*_RETRY_ON, *_RETRY_STATUSES]}, t.REFERENCE_SCHEMA]}),
]


class Retry(Section):
    """Further attempts before the first response byte."""

    attempts: t.Count = setting(1, "the maximum number of attempts, including the first")
    on: tuple[RetryOn, ...] = setting(["connect", "reset", "502", "503", "504"], "which failures are retried")
    until: Literal["head", "first_event"] = setting(
        "head", "first_event: hold the response until its first event with content"
    )
    non_idempotent: t.Switch = setting("off", "also retry POST and other non-idempotent methods")
    buffer: t.Size = setting("1MiB", "the maximum size of a request body that is kept for a retry")
    backoff: t.Duration = setting("100ms", "the pause before the second attempt; doubles each time")


def _auto_or_switch(value: object) -> object:
    """Parses ``auto``, or ``on`` and ``off`` in all their YAML spellings."""
    if value == "auto":
        return value
    try:
        return "on" if units.switch(value) else "off"
    except ValueError:
        raise ValueError("is none of auto, on and off") from None


class Resume(Section):
    """Streams of events or lines that a client can resume after a disconnect."""

    window: t.Interval = setting("5m", "how long a stream is kept after its end")
    max_bytes: t.Size = setting("4MiB", "the maximum bytes kept of one stream")
    max_total: t.Size = setting("256MiB", "the maximum bytes kept in memory for all streams of the route")
    grace: t.Duration = setting("30s", "how long the upstream is read after the client left")
    ids: Annotated[Literal["auto", "on", "off"], BeforeValidator(_auto_or_switch)] = setting(
        "auto", "on: write the cursor as the id of each event; auto: only with protocol http"
    )
    store: Annotated[str, BeforeValidator(redis.store)] = setting("memory", f"memory, or {redis.SHORT_FORMS}")


class Share(Section):
    """One upstream stream shared by several clients."""

    key: Annotated[tuple[Literal["path", "query", "principal"], ...], BeforeValidator(t.some)] = setting(
        ["path", "query", "principal"],
        "the parts of a request that form the key of a stream; without principal all clients share it",
    )
    slow: Literal["disconnect", "skip"] = setting(
        "disconnect", "what happens to a client that lags by more than buffer; skip: it misses whole events"
    )
    max_clients: t.CountLimit = setting("off", "the maximum number of clients of a stream; more get 503")
    linger: t.Duration = setting("0s", "how long the upstream is read after the last client left")


class Reconnect(Section):
    """Reconnects the upstream of a GET event stream when it breaks."""

    attempts: t.Count = setting(5, "the maximum number of attempts in a row without an event")
    backoff: t.Duration = setting("1s", "the pause before each attempt, unless the stream's retry field asks for more")
    on: Annotated[tuple[Literal["truncated", "end"], ...], BeforeValidator(t.some)] = setting(
        ["truncated"], "truncated: after a stream that broke; end: also after one that ended normally"
    )


class Mirror(Section):
    """An upstream that receives a copy of the requests; its responses are dropped."""

    upstream: t.UpstreamName = Field(description="a name of upstreams, or a URL")
    percent: t.Percent = setting(100, "the share of the requests that is copied")


def default_name(route: dict[str, Any]) -> object:
    """Returns the default name of a route: its first path."""
    path = route.get("path")
    return path[0] if isinstance(path, list | tuple) and path else path


class Route(Section):
    """A route. It matches requests that fulfil all of ``path``, ``methods``, ``hosts`` and ``headers``."""

    name: t.Label = Field(default="", description="the name in metrics and logs; defaults to the first path")
    path: t.Paths = Field(description="an exact path, a prefix that ends in /*, or a list of them")
    methods: t.Methods = setting([], "none: all")
    hosts: t.Hosts = setting([], "api.example, or *.example for every name below; none: all")
    headers: t.HeaderConditions = Field(
        default={}, description='header fields that must be present ("*") or have a value', repr=False
    )
    models: t.Models = setting([], "the model of a JSON body: a name, or a prefix that ends in *; none: all")
    upstream: Annotated[UpstreamChoice, BeforeValidator(short_shares)] = Field(
        description="a name of upstreams, a URL, or shares: [{name: NAME, weight: 95}, …]"
    )
    fallback: t.UpstreamNames = setting([], "upstreams to try in order after all attempts at the previous one failed")
    mirror: Annotated[Mirror | None, OrOff] = setting("off", "send a copy of the requests to another upstream")
    rewrite: Rewrite = setting({}, "changes to the path")
    protocol: Literal["http", "auto", "openai", "anthropic", "gemini", "ollama"] = setting(
        "http",
        "the API: determines the format of errors and how streams are read; auto: by path and content",
    )
    timeouts: Timeouts = setting({}, "in seconds")
    keepalive: Annotated[Keepalive | None, BeforeValidator(_short_keepalive)] = setting(
        "15s", "a duration, off, or a mapping"
    )
    buffer: t.Size = setting("64KiB", "the maximum bytes held for a client that is slower than the upstream")
    compression: Literal["auto", "pass", "identity"] = setting(
        "auto", "Accept-Encoding: auto: request streams uncompressed; pass: unchanged; identity: always uncompressed"
    )
    anti_buffering: t.Switch = setting("on", "send headers that tell proxies in front not to buffer streams")
    on_disconnect: Literal["cancel", "continue"] = setting("cancel", "continue: read the upstream to its end")
    on_truncation: Literal["abort", "error_event"] = setting(
        "abort", "error_event: first send a final event that reports it"
    )
    request_headers: HeaderRules = setting({}, "changes to the request headers")
    response_headers: HeaderRules = setting({}, "changes to the response headers")
    limits: Limits = setting({}, "limits on concurrency, rates and sizes")
    retry: Retry = setting({}, "retries before the first response byte")
    auth: Annotated[Auth | None, OrOff] = setting("off", "authentication")
    cors: Annotated[Cors | None, OrOff] = setting("off", "CORS for browsers")
    usage: Annotated[Literal["ask"] | None, OrOff] = setting(
        "off", "ask: request usage from streaming OpenAI completions if the client does not"
    )
    websocket: Annotated[WebSocket | None, BeforeValidator(_short_websocket)] = setting(
        "on", "on, off, or a mapping; off refuses handshakes with 501"
    )
    resume: Annotated[Resume | None, OrOff] = setting("off", "event streams that clients can resume")
    share: Annotated[Share | None, OrOff] = setting("off", "one upstream stream shared by several clients")
    reconnect: Annotated[Reconnect | None, OrOff] = setting("off", "reconnect a GET stream that broke")

    @model_validator(mode="before")
    @classmethod
    def _name(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("name") is None:
            return value | {"name": default_name(value)}
        return value

    @model_validator(mode="after")
    def _failures_that_show(self) -> Route:
        if "error_event" in self.retry.on and self.retry.until == "head":
            raise ValueError("has error_event in retry.on, which needs retry.until: first_event")
        return self

    @model_validator(mode="after")
    def _fallbacks_are_others(self) -> Route:
        asked = [share.name for share in self.shares] if len(self.shares) == 1 else []
        asked += self.fallback
        for name in self.fallback:
            if asked.count(name) > 1:
                raise ValueError(f"has the fallback {name}, which has been asked before it")
        return self

    @model_validator(mode="after")
    def _usage_of_completions(self) -> Route:
        if self.usage is not None and self.protocol not in ("openai", "auto", "ollama"):
            raise ValueError("has usage: ask, which is for OpenAI's completions; set protocol: openai, auto or ollama")
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The patterns of ``path``."""
        return self.path

    @property
    def upstreams(self) -> tuple[str, ...]:
        """The names of all upstreams that may serve the route."""
        return (*(share.name for share in self.shares), *self.fallback)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The names of route and upstream under which the exchanges of the route are counted."""
        own = tuple((self.name, name) for name in self.upstreams)
        return own if self.mirror is None else (*own, (self.mirror_name, self.mirror.upstream))

    @property
    def mirror_name(self) -> str:
        """The name of the copies of its requests in metrics and logs."""
        return f"{self.name}~mirror"

    @property
    def shares(self) -> tuple[UpstreamShare, ...]:
        """The upstreams that share the requests, with their weights; usually one."""
        chosen = self.upstream
        return chosen.shares if isinstance(chosen, Shares) else (UpstreamShare(name=chosen),)
