"""What a feature costs: the same work through a route with it and one without, in the same round."""

from __future__ import annotations

import json
from typing import Final

from benchmarks.rig import Numbers, Session, steady

_PROMPT: Final = 8192  # bytes of a request's body
# Milliseconds. Between two beginnings are 10.2, or 1.02, so that the events of the streams, 20 apart in each, come one
# by one. Where streams begin as fast as they can, a proxy that opens them faster finds more events at once.
_SPREAD: Final = 1020


def models(session: Session) -> Numbers:
    """One-event responses to requests with a JSON body of 8 KiB, over 32 connections."""
    with session.load("closed", "/tiny", "conns=32", *model_request()) as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["responses"], session)
    return numbers | {"per_second": result["responses"] / result["seconds"], "errors": result["errors"]}


def model_request() -> tuple[str, ...]:
    """What the load generator is told of the requests of `models`."""
    body = json.dumps({"messages": [{"role": "user", "content": "p" * (_PROMPT - 80)}], "model": "bench"})
    return ("method=POST", "header=Content-Type: application/json", f"body={body}")


def kept(session: Session) -> Numbers:
    """The events of 100 streams, 50 a second each, kept for clients that come back."""
    return _events(session, session.peer.streams, "/events?rate=50")


def shared(session: Session) -> Numbers:
    """One stream with 50 events a second, for 1,000 clients; a route without `share` reads 100 streams."""
    return _events(session, session.peer.streams, "/events?rate=50")


def _events(session: Session, streams: int, path: str) -> Numbers:
    before = session.memory()
    with session.load("streams", path, f"conns={streams}", f"spread={_SPREAD}") as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["events"], session)
        dropped = session.upstream.stats()["dropped"]
    return numbers | {
        "streams": streams,
        "per_second": result["events"] / result["seconds"],
        "kib_a_stream": (numbers.get("pss_mb", 0.0) * 1e6 - before) / 1024 / streams,
        "p50_us": result["delay"]["p50"],
        "p99_us": result["delay"]["p99"],
        "errors": result["errors"] + result["lost"] + dropped,
    }
