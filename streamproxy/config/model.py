"""The configuration model: every key and its default.

Attributes have the names of the keys in the file. Durations are float seconds, sizes are int bytes, and None means
``off``. Defaults are written as in a file and parsed the same way. Models are frozen: a `Config` is read once and never
changed. In a config from `streamproxy.config.load_config`, ``route.upstreams`` are always keys of ``config.upstreams``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    WithJsonSchema,
    model_validator,
)

from streamproxy.config import types as t
from streamproxy.config import units, values
from streamproxy.config.redact import Path, redact
from streamproxy.config.route import Auth, Cors, Limits, bearer_token
from streamproxy.config.section import OrOff, Section, setting
from streamproxy.config.shares import Shares, UpstreamChoice, UpstreamShare, short_shares
from streamproxy.config.tracing import Tracing


class ServerTls(Section):
    """TLS of the main listener; paths of PEM files."""

    cert: t.FilePath = Field(description="the certificate, with its chain")
    key: t.FilePath = Field(description="the private key")
    client_ca: t.OptionalFile = setting(None, "CA certificates for client authentication")


class Server(Section):
    """The main listener."""

    listen: t.Listen = setting("127.0.0.1:8080", "host:port, [v6]:port, unix:/path.sock, or a list of them")
    engine: Literal["uvicorn", "hypercorn"] = setting("uvicorn", "the ASGI server")
    workers: t.Count = setting(1, "processes")
    tls: Annotated[ServerTls | None, OrOff] = setting(None, "TLS; off: plain HTTP")
    http2: t.Switch = setting("on", "HTTP/2, by ALPN with TLS and by prior knowledge without; not with hypercorn")
    proxy_protocol: t.Networks = setting(
        [], "networks whose connections must begin with a PROXY header (version 1 or 2); others must not"
    )
    trusted_proxies: t.Networks = setting([], "networks whose X-Forwarded-* headers are trusted")
    max_header_size: t.Size = setting("64KiB", "the maximum size of a request head")
    max_connections: t.Count = setting(10000, "the maximum number of connections; more wait in the listen queue")
    head_timeout: t.Timeout = setting("30s", "how long a client may take to send a request head")
    keepalive_timeout: t.Timeout = setting("75s", "how long an idle client connection stays open")
    drain_timeout: t.Timeout = setting("30s", "how long streams may continue after SIGTERM; off: until they end")
    drain_delay: t.Duration = setting("0s", "how long to accept requests while not ready, before the drain begins")

    @model_validator(mode="before")
    @classmethod
    def _has_no_http2(cls, values: Any) -> Any:
        """With hypercorn, the default is off."""
        if isinstance(values, dict) and values.get("engine") == "hypercorn" and "http2" not in values:
            return {**values, "http2": "off"}
        return values

    @property
    def serves_http2(self) -> bool:
        """Whether clients may use HTTP/2."""
        return self.http2 and self.engine == "uvicorn"


class Admin(Section):
    """The admin listener: metrics, health, live streams."""

    listen: t.ListenOrOff = setting("127.0.0.1:9090", "an address as in server.listen, or off")
    mount: t.OptionalPrefix = setting(
        "off", "a path prefix on the main listener, for an ASGI server that runs the app itself"
    )
    hosts: t.Hosts = setting([], "further Host names under which the page, streams and commands are served")
    token: Annotated[
        str | None,
        BeforeValidator(t.off_or(bearer_token)),
        WithJsonSchema({"anyOf": [{"type": "string"}, t.OFF_SCHEMA]}),
    ] = Field(
        default=None,
        description="bearer token that is required for everything except /metrics, /healthz and /readyz",
        repr=False,
    )


class Log(Section):
    """Logging."""

    level: Literal["debug", "info", "warning", "error"] = setting("info", "the lowest level that is logged")
    format: Literal["auto", "console", "json"] = setting("auto", "auto: console on a terminal, otherwise json")
    access: t.Switch = setting("on", "one line for each exchange when it ends")


class Endpoint(Section):
    """One server of an upstream; a URL alone is the short form."""

    url: t.Origin = Field(description="http://host:port or https://host:port")
    weight: t.Count = setting(1, "its relative share of the streams")
    socket: t.SocketPath = setting(None, "a Unix socket to connect to instead of the URL's host")
    resolve: Annotated[Literal["each"] | None, OrOff] = setting(
        "off", "each: one endpoint for each address of the name"
    )

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
    """TLS with https endpoints; paths of PEM files."""

    ca: t.OptionalFile = setting("off", "CA certificates to trust instead of the system's")
    cert: t.OptionalFile = setting("off", "a client certificate")
    key: t.OptionalFile = setting("off", "its private key")
    server_name: t.OptionalText = setting("off", "the name for SNI and certificate checks, instead of the URL's host")
    verify: t.Switch = setting("on", "verify the certificate")

    @model_validator(mode="after")
    def _pair(self) -> UpstreamTls:
        if (self.cert is None) != (self.key is None):
            raise ValueError("needs cert and key together")
        return self


class Connections(Section):
    """The connection pool of each endpoint."""

    max: t.Count = setting(10000, "the maximum number of connections")
    max_idle: t.Number = setting(100, "the maximum number of idle connections kept open")
    idle_timeout: t.Timeout = setting("30s", "how long an idle connection is kept")


class Health(Section):
    """Active health checks."""

    path: Annotated[str, BeforeValidator(values.route_path)] = setting("/health", "the path to request")
    interval: t.Interval = setting("5s", "the time between two probes")
    timeout: t.Interval = setting("2s", "how long to wait for the response")
    healthy_after: t.Count = setting(2, "successful probes in a row until an endpoint is healthy")
    unhealthy_after: t.Count = setting(3, "failed probes in a row until it is unhealthy")
    status: Annotated[tuple[t.FinalStatus, ...], BeforeValidator(t.some)] = setting(
        [200], "the status codes of a successful probe"
    )


class Outlier(Section):
    """Passive ejection of failing endpoints."""

    consecutive_failures: t.Count = setting(5, "failures in a row until an endpoint is ejected")
    eject_for: t.Interval = setting("30s", "how long the first ejection lasts; later ones last longer")
    max_ejected_percent: t.Percent = setting(50, "the maximum share of an upstream's endpoints")
    error_events: t.Switch = setting("off", "also count errors that a stream reports in its events")


class Hash(Section):
    """Balancing that sends a client, session or key to the same endpoint."""

    hash: t.HashSource = Field(description="header:NAME, cookie:NAME, query:NAME or client_ip")


class PrefixRing(Section):
    """Balancing by a hash of the beginning of a conversation."""

    bytes: t.Size = setting("4KiB", "how much of the beginning of a plain prompt is hashed")
    load_factor: Annotated[float, BeforeValidator(values.load_factor), WithJsonSchema(t.FACTOR_SCHEMA)] = setting(
        1.25, "the maximum load of an endpoint, as a multiple of the mean number of live streams"
    )


class Prefix(Section):
    """Balancing that sends a conversation to the endpoint that has its beginning in its cache."""

    prefix: PrefixRing = setting({}, "how conversations are distributed over the endpoints")


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
    """The names of metrics of an engine that is not built in."""

    path: Annotated[str, BeforeValidator(values.route_path)] = setting("/metrics", "the path of the metrics")
    running: t.MetricName = Field(description="the metric of running requests")
    waiting: t.MetricName = Field(description="the metric of waiting requests")
    cache: t.OptionalMetricName = setting("off", "the metric of the share of the cache in use, from 0 to 1")


class Load(Section):
    """The load that an engine reports."""

    source: Annotated[
        Annotated[Literal["vllm", "sglang", "trtllm", "tgi"], Tag("text")] | Annotated[LoadSource, Tag("mapping")],
        Discriminator(lambda value: "text" if isinstance(value, str) else "mapping"),
    ] = Field(description="vllm, sglang, trtllm, tgi, or a mapping with path, running, waiting and cache")
    interval: t.Interval = setting("500ms", "the time between two readings")
    stale: t.Interval = setting("3s", "the age at which a reading is ignored")

    @model_validator(mode="after")
    def _fresh_at_times(self) -> Load:
        if self.stale <= self.interval:
            raise ValueError("has readings that are stale before the next one is due: make stale longer than interval")
        return self


class Sticky(Section):
    """Sticky sessions: the endpoint names the session in its response."""

    learn: t.LearnSource = Field(description="header:NAME, the response header that names the session")
    ttl: t.Interval = setting("1h", "how long a session is kept after its last use")


class HeaderRules(Section):
    """Changes to header fields.

    First the fields of ``remove`` and ``set`` are deleted, then the fields of ``set`` and ``add`` are appended.
    """

    set: t.HeaderValues = Field(default={}, description="replace a field, or add it", repr=False)
    add: t.HeaderValues = Field(default={}, description="add a field and keep existing ones of that name", repr=False)
    remove: t.HeaderNames = setting([], "remove fields")


class RedisSource(Section):
    """Events that are published in Redis, instead of endpoints."""

    url: Annotated[str, BeforeValidator(values.redis_url)] = Field(
        description="redis://, rediss:// or unix://", repr=False
    )
    channel: Annotated[str, BeforeValidator(values.channel)] = Field(
        description="the channel or stream; may contain {principal}, {path.N}, {query.NAME} and {header.NAME}"
    )
    kind: Literal["pubsub", "stream"] = setting("pubsub", "pubsub: published messages; stream: the entries of a stream")
    event: t.OptionalText = setting("off", "the event type of pubsub messages")
    max_clients: t.CountLimit = setting("off", "the maximum number of clients of one process; more get 503")

    @model_validator(mode="after")
    def _entries_have_types(self) -> RedisSource:
        if self.event is not None and self.kind == "stream":
            raise ValueError("has event, which is for pubsub: an entry of a stream has a field event of its own")
        return self


class Upstream(Section):
    """A named group of endpoints, or a Redis server."""

    model_config = ConfigDict(json_schema_extra={"anyOf": [{"required": ["endpoints"]}, {"required": ["redis"]}]})

    endpoints: Annotated[tuple[Endpoint, ...], BeforeValidator(t.one_or_more)] = Field(
        default=(), description="URLs, or mappings with url, weight, socket and resolve"
    )
    redis: Annotated[RedisSource | None, OrOff] = setting("off", "events from Redis, instead of endpoints")
    client: Literal["auto", "native", "httpx"] = setting("auto", "auto: native, or httpx with an egress proxy")
    http2: t.Switch = setting("off", "HTTP/2 with the endpoints: by ALPN over https, by prior knowledge over http")
    models: t.ModelNames = setting({}, "model names to replace in requests: {name: name at this upstream}")
    balance: Annotated[Policy | Hash | Prefix, BeforeValidator(_balance)] = setting(
        "least_streams", "how an endpoint is picked"
    )
    sticky: Annotated[Sticky | None, OrOff] = setting("off", "sticky sessions, named by the endpoint")
    load: Annotated[Load | None, OrOff] = setting("off", "the load that the engines report")
    host: t.HostHeader = setting("upstream", "Host: upstream (the URL's), preserve (the client's), or a literal")
    tls: UpstreamTls = setting({}, "TLS with https endpoints")
    proxy: t.ProxyUrl = Field(
        default=None, description="an egress proxy: http://, https://, socks5:// or socks5h://", repr=False
    )
    connections: Connections = setting({}, "the connections to each endpoint")
    health: Annotated[Health | None, OrOff] = setting("off", "active health checks")
    outlier: Annotated[Outlier | None, OrOff] = setting({}, "passive ejection of failing endpoints")
    request_headers: HeaderRules = setting({}, "changes to requests to this upstream, after those of the route")

    @model_validator(mode="after")
    def _has_one_source(self) -> Upstream:
        if not self.endpoints and self.redis is None:
            raise ValueError("needs endpoints, or redis in place of them")
        if self.endpoints and self.redis is not None:
            raise ValueError("has endpoints and redis; leave one of the two out")
        if self.redis is not None:
            plain = Upstream(endpoints=(Endpoint(url="http://unused"),))
            others = self.model_fields_set - {"redis", "endpoints"}
            useless = sorted(key for key in others if getattr(self, key) != getattr(plain, key))
            if useless:
                raise ValueError(f"has redis, which has no use for {', '.join(useless)}")
        return self

    @model_validator(mode="after")
    def _client_can(self) -> Upstream:
        if self.client == "native" and self.proxy is not None:
            raise ValueError("has client: native, which uses no egress proxy; write client: auto or httpx")
        if self.http2 and self.client == "httpx":
            raise ValueError("has client: httpx and http2: on; httpx does not reset streams, write client: auto")
        if self.http2 and self.proxy is not None:
            raise ValueError("has http2: on and an egress proxy, which is only spoken through in HTTP/1.1")
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
        """The literal value of Host if ``host`` is one; None for ``upstream`` and ``preserve``."""
        return None if self.host in ("upstream", "preserve") else self.host.encode()


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
    store: Annotated[str, BeforeValidator(values.store)] = setting("memory", "memory, or redis://host:port/db")


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
    def shares(self) -> tuple[UpstreamShare, ...]:
        """The upstreams that share the requests, with their weights; usually one."""
        chosen = self.upstream
        return chosen.shares if isinstance(chosen, Shares) else (UpstreamShare(name=chosen),)


class Config(Section):
    """The whole configuration."""

    server: Server = setting({}, "the main listener")
    admin: Admin = setting({}, "the admin listener")
    log: Log = setting({}, "logging")
    tracing: Annotated[Tracing | None, OrOff] = setting("off", "OpenTelemetry spans for each exchange")
    upstreams: Annotated[dict[t.Name, Upstream], BeforeValidator(t.none_is_empty)] = setting({}, "by name")
    routes: Annotated[tuple[Route, ...], BeforeValidator(t.one_route_or_more)] = Field(
        description="tried in order; the first match serves the request", json_schema_extra={"minItems": 1}
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
        """Returns a copy that never shows the values at these paths, which came from outside the file."""
        copy = self.model_copy()
        copy._interpolated = frozenset(interpolated)
        return copy

    def plain(self) -> dict[str, Any]:
        """Returns the configuration, secrets included, as plain data that a file could hold; None means off."""
        data = self.model_dump(mode="json", by_alias=True)
        data["upstreams"] = {name: value for name, value in data["upstreams"].items() if "://" not in name}
        return data

    def redacted(self) -> dict[str, Any]:
        """Returns the configuration as JSON-compatible data with secrets as ``***``; durations are in seconds."""
        return redact(self.model_dump(mode="json", by_alias=True), self._interpolated)
