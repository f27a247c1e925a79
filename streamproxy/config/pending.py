"""Keys of the format that this version refuses unless they say their default.

A key that was read and then did nothing would be worse than none. Each row is a key that the model has already and
nothing serves yet; whatever serves it takes the row away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from streamproxy.config.document import Document, Finding
from streamproxy.config.fields import field_at, is_default
from streamproxy.config.model import Config


class Pending(NamedTuple):
    """A key as a dotted path, in which ``*`` is any name or place, and what it would be for."""

    key: str
    what: str
    at_most: int | None = None  # of a list: so many items are allowed

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))


PENDING = (
    Pending("server.workers", "several processes"),
    Pending("server.tls", "TLS on the main listener"),
    Pending("server.http2", "HTTP/2"),
    Pending("server.drain_delay", "a delay before draining"),
    Pending("upstreams.*.endpoints", "several endpoints in one upstream", at_most=1),
    Pending("upstreams.*.endpoints.*.weight", "weights"),
    Pending("upstreams.*.endpoints.*.resolve", "an endpoint of every address"),
    Pending("upstreams.*.http2", "HTTP/2"),
    Pending("upstreams.*.balance", "other ways of balancing"),
    Pending("upstreams.*.health", "active probes"),
    Pending("upstreams.*.outlier", "passive ejection"),
    Pending("routes.*.protocol", "the protocols of LLM APIs"),
    Pending("routes.*.keepalive.before_headers", "keepalives before the response head"),
    Pending("routes.*.keepalive.ndjson", "keepalives in NDJSON"),
    Pending("routes.*.limits.max_streams", "limits of streams"),
    Pending("routes.*.limits.max_streams_per_client", "limits of streams"),
    Pending("routes.*.limits.client_key", "limits of streams"),
    Pending("routes.*.limits.queue", "queues"),
    Pending("routes.*.limits.queue_timeout", "queues"),
    Pending("routes.*.retry", "retries"),
    Pending("routes.*.auth", "access control"),
    Pending("routes.*.cors", "CORS"),
    Pending("routes.*.websocket", "WebSocket"),
    Pending("routes.*.resume", "resuming of streams"),
    Pending("routes.*.share", "sharing of streams"),
    Pending("routes.*.reconnect", "reconnecting of streams"),
)


def find(document: Document) -> Iterator[Finding]:
    """The keys of a file that ask for what is not there yet."""
    for row in PENDING:
        for path in document.match(row.path):
            value = document.get(path)
            missing = f"this version does not have {row.what} yet"
            if row.at_most is not None:
                if isinstance(value, list) and len(value) > row.at_most:
                    yield Finding(path, f"{missing}; list no more than {row.at_most}", at_key=True, final=False)
            elif not is_default(field_at(Config, row.path), value):
                yield Finding(path, f"{missing}; leave the key out", at_key=True)
