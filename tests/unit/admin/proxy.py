"""A proxy as its admin application sees it, without listeners."""

from __future__ import annotations

import time

from streamproxy.config import Config, parse_config
from streamproxy.control import Control, Predecessor
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.ended import Ended
from streamproxy.observe.metrics import EndpointView, Metrics
from streamproxy.store.base import StopResult
from streamproxy.upstream.load import LoadReading
from tests.unit.observe.exchanges import new_exchange


class OneEndpoint:
    """An endpoint whose health a test sets."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.up = True
        self.streams = 1
        self.idle = 2
        self.active = 1
        self.load: LoadReading | None = None


class OneUpstream:
    def __init__(self, name: str, *endpoints: EndpointView) -> None:
        self.name = name
        self.endpoints = list(endpoints)


def admin_config(admin: str = "{hosts: [admin.example]}") -> Config:
    return parse_config(f"routes: [{{name: chat, path: /*, upstream: http://a}}]\nadmin: {admin}\n", name="f.yaml")


class Before(Predecessor):
    """A process that drains. Its exchanges are seen after the next `refresh`, which adds those of ``then``."""

    def __init__(self, *then: Exchange) -> None:
        self.live: dict[str, Exchange] = {}
        self._then = then

    async def refresh(self, *, streams: bool) -> None:
        self.live |= {exchange.id: exchange for exchange in self._then}

    async def stop_kept(self, stream: str, owner: bytes) -> StopResult:
        return "unknown"


class SeenProxy(Control):
    """Its exchanges end and begin as a test says; ``reasons`` are why it is not ready."""

    def __init__(self) -> None:
        super().__init__()
        self.configuration = admin_config()
        self.upstreams: list[OneUpstream] = []
        self.metrics = Metrics(self.ledger, lambda: self.upstreams, engine="uvicorn")
        self.ended = Ended()
        self.ledger.observers += [self.metrics.observe, self.ended.observe]
        self.reasons: list[str] = []

    @property
    def in_force(self) -> Config:
        return self.configuration

    async def _refresh(self, *, streams: bool) -> None:
        pass

    async def adopt(self, config: Config) -> None:
        self.configuration = config

    def _not_serving(self) -> list[str]:
        return self.reasons

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
