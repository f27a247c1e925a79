"""The sections of the process: ``server``, ``admin`` and ``log``."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from streamproxy.config import types as t
from streamproxy.config.auth import bearer_token
from streamproxy.config.section import OrOff, Section, setting


class ServerTls(Section):
    """TLS of the main listener; paths of PEM files."""

    cert: t.FilePath = Field(description="the certificate, with its chain")
    key: t.FilePath = Field(description="the private key")
    client_ca: t.OptionalFile = setting(None, "CA certificates for client authentication")


class Server(Section):
    """The main listener."""

    listen: t.Listen = setting("127.0.0.1:8080", "host:port, [v6]:port, unix:/path.sock, or a list of them")
    engine: Literal["uvicorn", "hypercorn"] = setting("uvicorn", "the ASGI server")
    workers: t.Workers = setting(1, f"processes, at most {t.MOST_WORKERS}")
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
