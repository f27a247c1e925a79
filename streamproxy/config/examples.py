"""What to write for a section, for messages about another value in its place."""

from __future__ import annotations

from typing import Final

from streamproxy.config.redact import Path

# By section, without the numbers of routes and the names of upstreams.
EXAMPLES: Final[dict[str, str]] = {
    "server": "{listen: 0.0.0.0:8080}",
    "admin": "{listen: 127.0.0.1:9090} or {listen: off}",
    "log": "{level: info}",
    "tracing": "{endpoint: http://127.0.0.1:4318}",
    "upstreams": "{NAME: {endpoints: [http://host:port]}}",
    "upstreams.connections": "{max: 1000}",
    "upstreams.health": "{path: /health}",
    "upstreams.load": "{source: vllm}",
    "upstreams.outlier": "{consecutive_failures: 5, eject_for: 30s}",
    "upstreams.redis": "{url: redis://host:6379/0, channel: NAME}",
    "upstreams.request_headers": "{set: {Name: value}}",
    "upstreams.sticky": "{learn: header:Mcp-Session-Id}",
    "routes.auth": "{bearer: {tokens: [TOKEN]}}",
    "routes.auth.bearer": "{tokens: [TOKEN]}",
    "routes.cors": "{origins: [https://app.example]}",
    "routes.headers": "{x-name: value}",
    "routes.limits": "{max_streams: 64}",
    "routes.limits.requests": "{rate: 100/1m}",
    "routes.limits.tokens": "{rate: 1000000/1h}",
    "routes.mirror": "{upstream: NAME}",
    "routes.request_headers": "{set: {Name: value}}",
    "routes.response_headers": "{set: {Name: value}}",
    "routes.retry": "{attempts: 3}",
    "routes.rewrite": "{strip_prefix: /prefix}",
    "routes.timeouts": "{first_byte: 60s, idle: 5m}",
}


def section_of(path: Path) -> str:
    """Returns the dotted name of the section at a path, without the numbers of routes and the names of upstreams."""
    parts = [str(part) for part in path if isinstance(part, str)]
    if parts[:1] == ["upstreams"]:
        del parts[1:2]
    return ".".join(parts)
