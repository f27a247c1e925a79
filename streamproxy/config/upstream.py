"""An upstream: its endpoints, how they are chosen and judged, and the connections to them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag, WithJsonSchema, model_validator

from streamproxy.config import redis, values
from streamproxy.config import types as t
from streamproxy.config.section import OrOff, Section, setting


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

    hash: t.HashSource = Field(description="header:NAME, cookie:NAME, query:NAME, client_ip or principal")


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

    url: Annotated[str, BeforeValidator(redis.redis_url)] = Field(description=redis.SHORT_FORMS, repr=False)
    channel: Annotated[str, BeforeValidator(redis.channel)] = Field(
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
