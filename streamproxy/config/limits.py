"""How much of a route a client may use: ``limits``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from streamproxy.config import redis
from streamproxy.config import types as t
from streamproxy.config.section import OrOff, Section, setting


class RequestLimit(Section):
    """The rate of requests of one client."""

    rate: t.Rate = Field(description="such as 100/1m")
    burst: t.CountLimit = setting("off", "the maximum burst; off: the count of the rate")


class TokenLimit(Section):
    """The rate of tokens that one client may use, as reported by the upstream."""

    rate: t.Rate = Field(description="such as 1000000/1h")
    count: Literal["total", "input", "output"] = setting("total", "which tokens are counted")


class Limits(Section):
    """Limits on concurrency, rates and sizes; each process counts on its own, except in a store."""

    max_streams: t.CountLimit = setting("off", "the maximum number of concurrent exchanges of the route")
    max_streams_per_client: t.CountLimit = setting("off", "the maximum for one client; more get 429 without queueing")
    client_key: t.ClientSource = setting("client_ip", "how clients are identified: client_ip, header:NAME or principal")
    queue: t.Number = setting(0, "the maximum number of waiting requests")
    queue_timeout: t.Timeout = setting("5s", "how long a request may wait")
    max_request_body: t.SizeLimit = setting("off", "the maximum size of a request body; a larger one gets 413")
    inspect_body: t.Size = setting(
        "16MiB", "the maximum size of a JSON body that is read for its model and stream fields"
    )
    fair_by: Annotated[Literal["client_key"] | None, OrOff] = setting(
        "off", "client_key: clients take turns in the queue; off: first in, first out"
    )
    priority: t.OptionalHeaderSource = setting("off", "header:NAME, an integer; higher values are served first")
    requests: Annotated[RequestLimit | None, OrOff] = setting("off", "the rate of requests of one client")
    tokens: Annotated[TokenLimit | None, OrOff] = setting("off", "the rate of tokens of one client")
    max_events: t.CountLimit = setting("off", "the maximum number of events of a stream, which is then cut")
    store: Annotated[str, BeforeValidator(redis.store)] = setting(
        "memory", f"where requests and tokens are counted: memory (each process on its own), or {redis.SHORT_FORMS}"
    )

    @model_validator(mode="after")
    def _order_of_something(self) -> Limits:
        for key in ("fair_by", "priority"):
            if getattr(self, key) is not None and not self.queue:
                raise ValueError(f"has {key} without a queue, whose order it would be")
        return self

    @model_validator(mode="after")
    def _store_for_something(self) -> Limits:
        if self.store != "memory" and self.requests is None and self.tokens is None:
            raise ValueError("has a store without requests or tokens, which would be counted there")
        return self

    @model_validator(mode="after")
    def _queue_for_something(self) -> Limits:
        if self.queue and self.max_streams is None:
            raise ValueError("has a queue without max_streams, whose places it would be for")
        return self
