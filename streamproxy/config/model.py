"""The configuration model: every key and its default.

Attributes have the names of the keys in the file. Durations are float seconds, sizes are int bytes, and None means
``off``. Defaults are written as in a file and parsed the same way. Models are frozen: a `Config` is read once and never
changed. In a config from `streamproxy.config.load_config`, ``route.upstreams`` are always keys of ``config.upstreams``.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, PrivateAttr, model_validator

from streamproxy.config import types as t
from streamproxy.config.auth import Auth
from streamproxy.config.cors import Cors
from streamproxy.config.limits import Limits
from streamproxy.config.redact import Path, redact
from streamproxy.config.route import (
    Keepalive,
    Mirror,
    Reconnect,
    Resume,
    Retry,
    RetryOn,
    Rewrite,
    Route,
    Share,
    Timeouts,
    WebSocket,
    default_name,
)
from streamproxy.config.section import OrOff, Section, setting
from streamproxy.config.server import Admin, Log, Server, ServerTls
from streamproxy.config.shares import Shares, UpstreamShare
from streamproxy.config.tracing import Tracing
from streamproxy.config.upstream import (
    Connections,
    Endpoint,
    Hash,
    HeaderRules,
    Health,
    Load,
    LoadSource,
    Outlier,
    Policy,
    Prefix,
    PrefixRing,
    RedisSource,
    Sticky,
    Upstream,
    UpstreamTls,
)

__all__ = [
    "Admin",
    "Auth",
    "Config",
    "Connections",
    "Cors",
    "Endpoint",
    "Hash",
    "HeaderRules",
    "Health",
    "Keepalive",
    "Limits",
    "Load",
    "LoadSource",
    "Log",
    "Mirror",
    "Outlier",
    "Policy",
    "Prefix",
    "PrefixRing",
    "Reconnect",
    "RedisSource",
    "Resume",
    "Retry",
    "RetryOn",
    "Rewrite",
    "Route",
    "Server",
    "ServerTls",
    "Share",
    "Shares",
    "Sticky",
    "Timeouts",
    "Tracing",
    "Upstream",
    "UpstreamShare",
    "UpstreamTls",
    "WebSocket",
    "default_name",
]


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
            for _, name in route.pairs:
                if "://" in name and name not in self.upstreams:
                    self.upstreams[name] = Upstream(endpoints=(Endpoint(url=name),))
        return self

    def hiding(self, interpolated: Iterable[Path]) -> Config:
        """Returns a copy that never shows the values at these paths, which came from outside the file."""
        copy = self.model_copy()
        copy._interpolated = frozenset(interpolated)
        return copy

    def is_from_outside(self, path: Path) -> bool:
        """Whether the value at a path has a part that came from outside the file."""
        return path in self._interpolated

    def plain(self) -> dict[str, Any]:
        """Returns the configuration, secrets included, as plain data that a file could hold; None means off."""
        data = self.model_dump(mode="json", by_alias=True)
        data["upstreams"] = {name: value for name, value in data["upstreams"].items() if "://" not in name}
        return data

    def redacted(self) -> dict[str, Any]:
        """Returns the configuration as JSON-compatible data with secrets as ``***``; durations are in seconds."""
        return redact(self.model_dump(mode="json", by_alias=True), self._interpolated)
