"""The configuration: what may be said, and every default.

An attribute is named as its key in the file. Durations are float seconds and sizes int bytes; None is ``off``. Defaults
are written as in a file and parsed like one. Models are frozen: a `Config` is read once and never changed. In one made
by `streamproxy.config.load_config`, ``route.upstreams`` are always keys of ``config.upstreams``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, PrivateAttr, Tag, WithJsonSchema, model_validator

from streamproxy.config import types as t
from streamproxy.config import units, values
from streamproxy.config.redact import Path, redact
from streamproxy.config.route import Auth, Cors, Limits, bearer_token
from streamproxy.config.section import OrOff, Section, setting
from streamproxy.config.shares import Shares, UpstreamChoice, UpstreamShare, short_shares
from streamproxy.config.tracing import Tracing


class ServerTls(Section):
    """TLS of the main listener; the paths are those of PEM files."""

    cert: t.FilePath = Field(description="the certificate, with its chain")
    key: t.FilePath = Field(description="the private key")
    client_ca: t.OptionalFile = setting(None, "authorities whose client certificates are asked for")


class Server(Section):
    """The main listener."""

    listen: t.Listen = setting("127.0.0.1:8080", "host:port, [v6]:port, unix:/path.sock, or a list of them")
    engine: Literal["uvicorn", "hypercorn"] = setting("uvicorn", "the ASGI server")
    workers: t.Count = setting(1, "processes")
    tls: Annotated[ServerTls | None, OrOff] = setting(None, "serve TLS; off: plain HTTP")
    http2: t.Switch = setting("on", "HTTP/2, by ALPN over TLS and by prior knowledge without; hypercorn has none")
    proxy_protocol: t.Networks = setting(
        [], "networks whose connections must begin with a PROXY header, version 1 or 2; nobody else's may"
    )
    trusted_proxies: t.Networks = setting([], "networks whose X-Forwarded-* fields are believed")
    max_header_size: t.Size = setting("64KiB", "the largest request head")
    max_connections: t.Count = setting(10000, "past it, connections wait in the listen queue")
    head_timeout: t.Timeout = setting("30s", "for a client to finish its request head")
    keepalive_timeout: t.Timeout = setting("75s", "for an idle client connection")
    drain_timeout: t.Timeout = setting("30s", "how long streams may go on after SIGTERM; off: until they end")
    drain_delay: t.Duration = setting("0s", "stay open, but not ready, this long first")

    @model_validator(mode="before")
    @classmethod
    def _http2_of_the_engine(cls, value: object) -> object:
        """Off by default where the engine has none."""
        if isinstance(value, dict) and value.get("engine") == "hypercorn" and "http2" not in value:
            return value | {"http2": "off"}
        return value

    @property
    def serves_http2(self) -> bool:
        """Whether HTTP/2 is spoken to clients."""
        return self.http2 and self.engine == "uvicorn"


class Admin(Section):
    """The admin listener: metrics, health, live streams."""

    listen: t.ListenOrOff = setting("127.0.0.1:9090", "off, or as server.listen")
    mount: t.OptionalPrefix = setting(
        "off", "a path prefix on the main listener, for servers that run the app themselves"
    )
    hosts: t.Hosts = setting(
        [], "names that its page, streams and commands may be asked by, beside its own, localhost and addresses"
    )
    token: Annotated[
        str | None,
        BeforeValidator(t.off_or(bearer_token)),
        WithJsonSchema({"anyOf": [{"type": "string"}, t.OFF_SCHEMA]}),
    ] = Field(
        default=None,
        description="asked as a bearer token for everything but /metrics, /healthz and /readyz",
        repr=False,
    )


class Log(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "the least that is logged")
    format: Literal["auto", "console", "json"] = setting("auto", "auto: console on a terminal, else json")
    access: t.Switch = setting("on", "one line for every exchange, at its end")


class Endpoint(Section):
    """One server of an upstream; a URL alone is its short form."""

    url: t.Origin = Field(description="http://host:port or https://host:port")
    weight: t.Count = setting(1, "its share of the streams")
    socket: t.SocketPath = setting(None, "a unix socket to connect to instead of the URL's host")
    resolve: Annotated[Literal["each"] | None, OrOff] = setting("off", "each: an endpoint of every address of the name")

    @model_validator(mode="before")
    @classmethod
    def _short_form(cls, value: object) -> object:
        return {"url": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _one_way(self) -> Endpoint:
        if self.socket is not None and self.resolve is not None:
            raise ValueError("has a socket, so there is no name to resolve; leave one of the two out")
        return self


class UpstreamTls(Section):
    """TLS with https endpoints; the paths are those of PEM files."""

    ca: t.OptionalFile = setting("off", "authorities to trust instead of the system's")
    cert: t.OptionalFile = setting("off", "a client certificate")
    key: t.OptionalFile = setting("off", "its private key")
    server_name: t.OptionalText = setting("off", "the name in SNI and in the certificate, instead of the URL's host")
    verify: t.Switch = setting("on", "whether the certificate is checked")

    @model_validator(mode="after")
    def _pair(self) -> UpstreamTls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("needs cert and key together")
        return self


class Connections(Section):
    """The connections to each endpoint."""

    max: t.Count = setting(10000, "at most so many at once")
    max_idle: t.Number = setting(100, "kept for further requests")
    idle_timeout: t.Timeout = setting("30s", "how long they are kept")


class Health(Section):
    """Active probes."""

    path: Annotated[str, BeforeValidator(values.route_path)] = setting("/health", "what is asked for")
    interval: t.Interval = setting("5s", "between two probes")
    timeout: t.Interval = setting("2s", "for the answer")
    healthy_after: t.Count = setting(2, "good probes in a row")
    unhealthy_after: t.Count = setting(3, "bad probes in a row")
    status: Annotated[tuple[t.FinalStatus, ...], BeforeValidator(t.some)] = setting([200], "the statuses that are good")


class Outlier(Section):
    """Passive ejection of endpoints that fail."""

    consecutive_failures: t.Count = setting(5, "failures in a row until an endpoint is ejected")
    eject_for: t.Interval = setting("30s", "the first time; it grows")
    max_ejected_percent: t.Percent = setting(50, "of an upstream's endpoints")
    error_events: t.Switch = setting("off", "a failure that a stream reports of itself counts, too")


class Hash(Section):
    """Balancing that keeps a client, session or key on one endpoint."""

    hash: t.HashSource = Field(description="header:NAME, cookie:NAME, query:NAME or client_ip")


class PrefixRing(Section):
    """How conversations are spread over the endpoints."""

    bytes: t.Size = setting("4KiB", "of a plain prompt, how much of its beginning is hashed")
    load_factor: Annotated[float, BeforeValidator(values.load_factor), WithJsonSchema(t.FACTOR_SCHEMA)] = setting(
        1.25, "an endpoint never has more than this times the mean of live streams"
    )


class Prefix(Section):
    """Balancing that keeps conversations where their beginning is cached."""

    prefix: PrefixRing = setting({}, "how conversations are spread over the endpoints")


Policy = Literal["least_streams", "round_robin", "random_two", "least_load"]


def _balance(value: object) -> object:
    if isinstance(value, Hash | Prefix) or value in ("least_streams", "round_robin", "random_two", "least_load"):
        return value
    if isinstance(value, dict) and set(value) == {"prefix"}:
        return Prefix.model_validate(value)
    source = value.get("hash") if isinstance(value, dict) and set(value) == {"hash"} else None
    if source is None:
        raise ValueError(
            "must be least_streams, round_robin, random_two, least_load, {hash: header:NAME} or {prefix: {}}"
        )
    return Hash(hash=values.hash_source(source))


class LoadSource(Section):
    """The metrics of an engine that has no name here."""

    path: Annotated[str, BeforeValidator(values.route_path)] = setting("/metrics", "where they are")
    running: t.MetricName = Field(description="the requests that run")
    waiting: t.MetricName = Field(description="the requests that wait")
    cache: t.OptionalMetricName = setting("off", "the share of the cache in use, from 0 to 1")


class Load(Section):
    """Where an engine says how much it has to do."""

    source: Annotated[
        Annotated[Literal["vllm", "sglang", "trtllm", "tgi"], Tag("text")] | Annotated[LoadSource, Tag("mapping")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "mapping"),
    ] = Field(description="vllm, sglang, trtllm, tgi, or a mapping with path, running, waiting and cache")
    interval: t.Interval = setting("500ms", "between two readings")
    stale: t.Interval = setting("3s", "the age from which on a reading counts for nothing")

    @model_validator(mode="after")
    def _fresh_at_times(self) -> Load:
        if self.stale <= self.interval:
            raise ValueError("has readings that are stale before the next one is due: make stale longer than interval")
        return self


class Sticky(Section):
    """Sessions that their endpoint has named."""

    learn: t.LearnSource = Field(description="header:NAME, the response's field that names a session")
    ttl: t.Interval = setting("1h", "how long a session is kept after its last use")


class HeaderRules(Section):
    """First ``remove`` and ``set`` take fields away, then those of ``set`` and ``add`` come at the end."""

    set: t.HeaderValues = Field(default={}, description="replace a field, or add it", repr=False)
    add: t.HeaderValues = Field(default={}, description="add a field beside those there are", repr=False)
    remove: t.HeaderNames = setting([], "take fields away")


class Upstream(Section):
    """A named group of endpoints."""

    endpoints: Annotated[tuple[Endpoint, ...], BeforeValidator(t.one_or_more)] = Field(
        description="URLs, or mappings with url, weight, socket and resolve"
    )
    client: Literal["auto", "native", "httpx"] = setting("auto", "auto: native, unless there is an egress proxy")
    http2: t.Switch = setting("off", "HTTP/2 with the endpoints")
    models: t.ModelNames = setting({}, "what a request's model is called here: {name: name here}")
    balance: Annotated[Policy | Hash | Prefix, BeforeValidator(_balance)] = setting(
        "least_streams", "how an endpoint is picked"
    )
    sticky: Annotated[Sticky | None, OrOff] = setting("off", "sessions that stay on the endpoint that has named them")
    load: Annotated[Load | None, OrOff] = setting("off", "where the engines say how much they have to do")
    host: t.HostHeader = setting("upstream", "Host: upstream (the URL's), preserve (the client's), or a literal")
    tls: UpstreamTls = setting({}, "TLS with https endpoints")
    proxy: t.ProxyUrl = Field(
        default=None, description="an egress proxy: http://, https://, socks5:// or socks5h://", repr=False
    )
    connections: Connections = setting({}, "the connections to each endpoint")
    health: Annotated[Health | None, OrOff] = setting("off", "active probes; off: none")
    outlier: Annotated[Outlier | None, OrOff] = setting({}, "passive ejection of endpoints that fail")
    request_headers: HeaderRules = setting({}, "changes to what goes to this upstream, after the route's")

    @model_validator(mode="after")
    def _client_can(self) -> Upstream:
        if self.client == "native" and self.proxy is not None:
            raise ValueError("has client: native, which uses no egress proxy; write client: auto or httpx")
        return self

    @model_validator(mode="after")
    def _knows_the_load(self) -> Upstream:
        if self.balance == "least_load" and self.load is None:
            raise ValueError(
                "has balance: least_load, and no load to go by; add load: {source: vllm} or another engine"
            )
        return self

    @property
    def literal_host(self) -> bytes | None:
        """What Host says if ``host`` is a text of its own; None for ``upstream`` and ``preserve``."""
        return None if self.host in ("upstream", "preserve") else self.host.encode()


class Rewrite(Section):
    """What becomes of the path; both prefixes are without a final slash, empty for none."""

    strip_prefix: t.Prefix = setting("", "taken away first")
    add_prefix: t.Prefix = setting("", "put in front then")


class Timeouts(Section):
    """In seconds."""

    connect: t.Timeout = setting("5s", "to connect")
    request: t.Timeout = setting("60s", "between two reads of the request body")
    first_byte: t.Timeout = setting(
        "300s", "request sent, until the response head; with retries over all attempts, from the first on"
    )
    first_event: t.Timeout = setting(
        "off",
        "request sent, until the first event that says something; else it is counted, or leads to another attempt",
    )
    available: t.Timeout = setting(
        "off", "how long a request waits for an endpoint, while all refuse connections or are unhealthy"
    )
    idle: t.Timeout = setting("300s", "between two reads of the response body")
    write: t.Timeout = setting("120s", "a client that takes nothing")
    total: t.Timeout = setting("off", "the whole exchange")


class Keepalive(Section):
    """What an idle event stream is sent; a duration alone is its short form."""

    interval: t.Interval = setting("15s", "of silence, until a keepalive is sent")
    comment: Annotated[str, BeforeValidator(values.comment)] = setting("keepalive", "the text of the comment")
    shape: Literal["auto", "block", "line", "blank"] = setting(
        "auto", "block: a comment and a blank line; line: the comment alone; blank: an empty line"
    )
    before_headers: t.Timeout = setting(
        "off", "a request for events is answered, and comments begin, when there is no response head after this long"
    )
    ndjson: t.Switch = setting("off", "a space at the start of a line of an idle NDJSON stream")


def _short_keepalive(value: object) -> object:
    if units.is_off(value):
        return None
    return {"interval": value} if isinstance(value, str | int | float) else value


class WebSocket(Section):
    """What is done for the WebSockets of a route; on or off alone is its short form."""

    ping: t.Timeout = setting("off", "silence of both directions until both ends are pinged")


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

    attempts: t.Count = setting(1, "with the first")
    on: tuple[RetryOn, ...] = setting(["connect", "reset", "502", "503", "504"], "what is worth another")
    until: Literal["head", "first_event"] = setting(
        "head", "first_event: hold the response until its stream has said something"
    )
    non_idempotent: t.Switch = setting("off", "also POST and its like")
    buffer: t.Size = setting("1MiB", "the most of a request body that is kept")
    backoff: t.Duration = setting("100ms", "before the second")


def _auto_or_switch(value: object) -> object:
    """``auto``, or ``on`` and ``off`` in all the ways of YAML."""
    if value == "auto":
        return value
    try:
        return "on" if units.switch(value) else "off"
    except ValueError:
        raise ValueError("is none of auto, on and off") from None


class Resume(Section):
    """Streams of events or lines that a client can come back to."""

    window: t.Interval = setting("5m", "how long a stream is kept after its end")
    max_bytes: t.Size = setting("4MiB", "how much of one stream is kept")
    max_total: t.Size = setting("256MiB", "how much of all streams of the route is kept in memory")
    grace: t.Duration = setting("30s", "how long the upstream is read on without a client")
    ids: Annotated[Literal["auto", "on", "off"], BeforeValidator(_auto_or_switch)] = setting(
        "auto", "on: write the cursor into each event as its id; auto: with protocol http only"
    )
    store: Annotated[str, BeforeValidator(values.store)] = setting("memory", "memory, or redis://host:port/db")


class Share(Section):
    """One upstream stream for several clients."""

    key: tuple[Literal["path", "query"], ...] = setting(["path", "query"], "what makes requests the same")


class Reconnect(Section):
    """GET event streams that are asked for again when the upstream breaks them."""

    attempts: t.Count = setting(5, "in a row")
    backoff: t.Duration = setting("1s", "before the second")


def default_name(route: dict[str, Any]) -> object:
    """The name of a route that was given none: its first path."""
    path = route.get("path")
    return path[0] if isinstance(path, list | tuple) and path else path


class Route(Section):
    """What happens to the requests that match it: all of ``path``, ``methods``, ``hosts`` and ``headers``."""

    name: t.Label = Field(default="", description="stands in metrics and logs; its first path when absent")
    path: t.Paths = Field(description="exact, or a prefix that ends in /*; or a list of them")
    methods: t.Methods = setting([], "none: all")
    hosts: t.Hosts = setting([], "api.example, or *.example for every name below; none: all")
    headers: t.HeaderConditions = Field(
        default={}, description='fields that must be there ("*") or equal a text', repr=False
    )
    models: t.Models = setting([], "the model of a JSON body: a name, or a prefix that ends in *; none: all")
    upstream: Annotated[UpstreamChoice, BeforeValidator(short_shares)] = Field(
        description="a name of upstreams, a URL, or shares: [{name: NAME, weight: 95}, …]"
    )
    fallback: t.UpstreamNames = setting([], "asked in order once the attempts at the one before are spent")
    rewrite: Rewrite = setting({}, "what becomes of the path")
    protocol: Literal["http", "auto", "openai", "anthropic", "gemini", "ollama"] = setting(
        "http",
        "the API that passes: the form of errors, what is understood of streams; auto: by path and by what comes",
    )
    timeouts: Timeouts = setting({}, "in seconds")
    keepalive: Annotated[Keepalive | None, BeforeValidator(_short_keepalive)] = setting(
        "15s", "a duration, off, or a mapping"
    )
    buffer: t.Size = setting("64KiB", "the most that is held for a client slower than its upstream")
    compression: Literal["auto", "pass", "identity"] = setting(
        "auto", "auto: streams are asked for uncompressed; pass: never; identity: always"
    )
    anti_buffering: t.Switch = setting("on", "tell proxies in front to pass streams on at once")
    on_disconnect: Literal["cancel", "continue"] = setting("cancel", "continue: read the upstream to its end")
    on_truncation: Literal["abort", "error_event"] = setting("abort", "error_event: say so in a last event first")
    request_headers: HeaderRules = setting({}, "changes to what goes upstream")
    response_headers: HeaderRules = setting({}, "changes to what goes downstream")
    limits: Limits = setting({}, "how much is let through at once, and how large")
    retry: Retry = setting({}, "further attempts before the first response byte")
    auth: Annotated[Auth | None, OrOff] = setting("off", "who may use the route")
    cors: Annotated[Cors | None, OrOff] = setting("off", "cross-origin requests of browsers")
    usage: Annotated[Literal["ask"] | None, OrOff] = setting(
        "off", "ask: OpenAI completions that stream are asked for their usage, where they don't say so themselves"
    )
    websocket: Annotated[WebSocket | None, BeforeValidator(_short_websocket)] = setting(
        "on", "on, off, or a mapping; off refuses handshakes with 501"
    )
    resume: Annotated[Resume | None, OrOff] = setting("off", "event streams that can be taken up again")
    share: Annotated[Share | None, OrOff] = setting("off", "one upstream stream for several clients")
    reconnect: Annotated[Reconnect | None, OrOff] = setting("off", "ask again for a GET stream that broke")

    @model_validator(mode="before")
    @classmethod
    def _name(cls, value: object) -> object:
        if isinstance(value, dict) and value.get("name") is None:
            return value | {"name": default_name(value)}
        return value

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
        """The names of all upstreams that may answer."""
        return (*(share.name for share in self.shares), *self.fallback)

    @property
    def shares(self) -> tuple[UpstreamShare, ...]:
        """The upstreams that are asked first, each for its share of the requests: one, as a rule."""
        chosen = self.upstream
        return chosen.shares if isinstance(chosen, Shares) else (UpstreamShare(name=chosen),)

    @model_validator(mode="after")
    def _no_cursor_early(self) -> Route:
        if self.resume is not None and self.keepalive is not None and self.keepalive.before_headers is not None:
            raise ValueError("has resume and keepalive.before_headers, whose head comes before there is a cursor")
        return self


class Config(Section):
    """The whole of a file."""

    server: Server = setting({}, "the main listener")
    admin: Admin = setting({}, "the admin listener")
    log: Log = setting({}, "what is logged, and how")
    tracing: Annotated[Tracing | None, OrOff] = setting("off", "OpenTelemetry spans of every exchange")
    upstreams: Annotated[dict[t.Name, Upstream], BeforeValidator(t.none_is_empty)] = setting({}, "by name")
    routes: Annotated[tuple[Route, ...], BeforeValidator(t.one_route_or_more)] = Field(
        description="tried in order; the first that matches serves", json_schema_extra={"minItems": 1}
    )

    _interpolated: frozenset[Path] = PrivateAttr(default=frozenset())

    @model_validator(mode="after")
    def _implicit_upstreams(self) -> Config:
        for route in self.routes:
            for name in route.upstreams:
                if "://" in name and name not in self.upstreams:
                    self.upstreams[name] = Upstream(endpoints=(Endpoint(url=name),))
        return self

    def hiding(self, interpolated: Iterable[Path]) -> Config:
        """The same configuration, whose values at these paths came from outside the file and are never shown."""
        copy = self.model_copy()
        copy._interpolated = frozenset(interpolated)
        return copy

    def plain(self) -> dict[str, Any]:
        """The configuration as plain data that a file could hold, secrets and all: every default, None for off."""
        data = self.model_dump(mode="json", by_alias=True)
        data["upstreams"] = {name: value for name, value in data["upstreams"].items() if "://" not in name}
        return data

    def redacted(self) -> dict[str, Any]:
        """The configuration in force as plain data fit for JSON, with secrets as ``***``; durations are seconds."""
        return redact(self.model_dump(mode="json", by_alias=True), self._interpolated)
