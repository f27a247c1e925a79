"""The loads over HTTP/2, from a client to the proxy; the upstream is the same HTTP/1.1 one.

Requests come from h2load (of nghttp2), events go to the client in `benchmarks.http2_client`.
"""

from __future__ import annotations

import re
import shutil
import sys
from typing import Final

from benchmarks.programs import BenchError
from benchmarks.rig import Numbers, Session, steady

CONNECTIONS: Final = 4
STREAMS: Final = 8  # of each connection, so that there are 32 requests at once, as over HTTP/1.1
_DONE = re.compile(r"requests: (\d+) total.* (\d+) succeeded, (\d+) failed")
_RATE = re.compile(r"finished in .*?, ([\d.]+) req/s")


def requests(port: int, option: str, value: str) -> list[str]:
    """The command of h2load that asks for one-event responses; an option of its own says how many, or how long.

    Raises BenchError if it is not installed.
    """
    if shutil.which("h2load") is None:
        raise BenchError("h2load is not installed (the package nghttp2-client)")
    streams = ["-c", str(CONNECTIONS), "-m", str(STREAMS), "-H", "accept: text/event-stream"]
    return ["h2load", *streams, option, value, f"http://127.0.0.1:{port}/tiny"]


def tiny(session: Session) -> Numbers:
    """One-event responses, 4 connections with 8 streams each, each stream's next request after its response."""
    port = session.place.http2
    session.run(requests(port, "-n", "500"))  # what a proxy makes once is not the requests'
    seconds, text = session.run(requests(port, "-D", f"{session.sizes.seconds * 1000:.0f}ms"))
    done, rate = _DONE.search(text), _RATE.search(text)
    if done is None or rate is None or not int(done[2]):
        raise BenchError(f"h2load said {text!r}")
    return {
        "cpu_us": seconds * 1e6 / int(done[2]),
        "per_second": float(rate[1]),
        "errors": int(done[3]),
        "pss_mb": session.memory() / 1e6,
        "limit": 0.0,
    }


def events(session: Session) -> Numbers:
    """100 streams of one connection with 50 events a second each."""
    streams = session.peer.streams
    command = [sys.executable, "-m", "benchmarks.http2_client", str(session.place.http2), "/events?rate=50"]
    with session.generator([*command, str(streams)]) as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["events"], session)
        dropped = session.upstream.stats()["dropped"]
    return numbers | {
        "streams": streams,
        "per_second": result["events"] / result["seconds"],
        "p50_us": result["delay"]["p50"],
        "p99_us": result["delay"]["p99"],
        "errors": result["errors"] + dropped,
    }
