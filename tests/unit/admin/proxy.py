"""A proxy as its admin application sees it, without listeners."""

from __future__ import annotations

import time

from streamproxy.admin.app import Reloaded
from streamproxy.exchange.exchange import Exchange
from streamproxy.exchange.ledger import Ledger
from streamproxy.observe.metrics import EndpointView, Metrics
from streamproxy.wire.hosts import Hosts
from tests.unit.observe.exchanges import new_exchange


class OneEndpoint:
    """An endpoint whose health a test sets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.up = True
        self.streams = 1
        self.idle = 2
        self.active = 1


class OneUpstream:
    def __init__(self, name: str, *endpoints: EndpointView) -> None:
        self.name = name
        self.endpoints = list(endpoints)


class SeenProxy:
    """Its exchanges end and begin as a test says; ``reasons`` are why it is not ready."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        self.upstreams: list[OneUpstream] = []
        self.metrics = Metrics(self.ledger, lambda: self.upstreams, engine="uvicorn")
        self.ledger.observers.append(self.metrics.observe)
        self.reasons: list[str] = []
        self.reload_problems: tuple[str, ...] = ()
        self.hosts = Hosts(["admin.example"])

    async def refresh(self, *, streams: bool) -> None:
        pass

    def ready(self) -> list[str]:
        return self.reasons

    def config(self) -> dict[str, object]:
        return {}

    async def reload(self) -> Reloaded | None:
        return None

    def begin(self, request_id: str, *, route: str = "chat", age: float = 0.0, path: str = "/v1/x") -> Exchange:
        """A live exchange that began ``age`` seconds ago."""
        exchange = new_exchange(route=route, path=path)
        exchange.request_id = exchange.id = request_id
        exchange.started_at = time.monotonic() - age
        self.ledger.open(exchange)
        return exchange

    def stream(self, request_id: str, *, events: int = 0, size: int = 0, route: str = "chat") -> Exchange:
        """A live exchange whose response is under way: its first byte took a quarter of a second."""
        exchange = self.begin(request_id, route=route, age=10.0)
        began = exchange.started_at
        exchange.request_read_at = exchange.sent_at = began
        exchange.head_at, exchange.first_byte_at = began + 0.2, began + 0.25
        exchange.phase, exchange.status = "body", 200
        exchange.events, exchange.response_bytes = events, size
        return exchange
