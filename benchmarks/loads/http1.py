"""The loads over HTTP/1.1, driven by the generator in C."""

from __future__ import annotations

import time

from benchmarks.rig import MB, SETTLE, Numbers, Session, Window, steady


def tiny(session: Session) -> Numbers:
    """One-event responses over 32 connections, each asking again as soon as it has its answer."""
    return _asking_again(session, "/tiny")


def fresh(session: Session) -> Numbers:
    """The same with heads of requests and responses that are never the same twice."""
    return _asking_again(session, "/fresh", "fresh=1")


def _asking_again(session: Session, path: str, *options: str) -> Numbers:
    with session.load("closed", path, "conns=32", *options) as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["responses"], session)
    return numbers | {
        "per_second": result["responses"] / result["seconds"],
        "p50_us": result["first_byte"]["p50"],
        "p99_us": result["first_byte"]["p99"],
        "errors": result["errors"],
    }


def ttfb(session: Session) -> Numbers:
    """Time to the first byte, one request at a time, 200 a second: nothing waits for anything else."""
    with session.load("paced", "/tiny", "conns=1", "rate=200") as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["responses"], session)
    first = result["first_byte"]
    return numbers | {"p50_us": first["p50"], "p99_us": first["p99"], "errors": result["errors"]}


def events(session: Session) -> Numbers:
    """100 streams with 50 events a second each, or as many as the peer can carry.

    The delay is from the upstream's stamp to the client's read.
    """
    streams = session.peer.streams
    with session.load("streams", "/events?rate=50", f"conns={streams}") as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["events"], session)
        dropped = session.upstream.stats()["dropped"]
    delay = result["delay"]
    return numbers | {
        "streams": streams,
        "per_second": result["events"] / result["seconds"],
        "p50_us": delay["p50"],
        "p99_us": delay["p99"],
        "p999_us": delay["p999"],
        "errors": result["errors"] + result["lost"] + dropped,
    }


def flood(session: Session) -> Numbers:
    """8 streams of events of 1 KiB, as fast as the proxy carries them. A unit is a megabyte."""
    with session.load("flood", "/flood", "conns=8") as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["bytes"] / MB, session)
    return numbers | {
        "mb_per_second": result["bytes"] / MB / result["seconds"],
        "errors": result["errors"] + result["lost"],
    }


def idle(session: Session) -> Numbers:
    """Thousands of streams that are silent, but for a keepalive. A unit is one stream for one second."""
    streams, keepalive = session.sizes.idle_streams, session.sizes.keepalive
    with session.load("closed", "/tiny", "conns=32") as generator:
        steady(session, generator, 0.3)  # what a proxy makes once is not the streams'
    before = session.memory()
    # Who sends no keepalives itself carries those of the upstream.
    path = "/idle" if session.peer.keepalive else f"/idle?keepalive={keepalive}"
    with session.load("idle", path, f"conns={streams}") as generator:
        time.sleep(SETTLE)
        memory = session.memory()
        window, result = steady(session, generator, keepalive)
        numbers = window.numbers(streams * result["seconds"], session)
    return numbers | {
        "streams": streams,
        "kib_a_stream": (memory - before) / 1024 / streams,
        "keepalives_a_stream": result["reads"] / streams,
        "errors": result["errors"] + result["lost"],
    }


def _bulk(session: Session, mode: str, path: str, *arguments: str) -> Numbers:
    with session.load(mode, path, *arguments) as generator:
        window = Window(session, generator)
        result = generator.result()
        window.close()
        numbers = window.numbers(session.sizes.download / MB, session)
    return numbers | {
        "cpu_s": window.cpu,
        "mb_per_second": session.sizes.download / MB / result["seconds"],
        "errors": result["errors"],
    }


def download(session: Session) -> Numbers:
    """One response of 1 GB with its length. A unit is a megabyte."""
    return _bulk(session, "download", f"/download?bytes={session.sizes.download}", "count=1")


def upload(session: Session) -> Numbers:
    """Four requests, one after the other, with a body of 250 MB each. A unit is a megabyte."""
    return _bulk(session, "upload", "/upload", "method=POST", "count=4", f"bytes={session.sizes.download // 4}")


def abort(session: Session) -> Numbers:
    """Connect, ask for a stream, take its first event, leave; 16 clients at once. A unit is one of those."""
    count = session.sizes.aborts
    with session.load("abort", "/idle", "conns=16", f"count={count}") as generator:
        window = Window(session, generator)
        result = generator.result()
        deadline = time.monotonic() + 10.0
        while (left := session.upstream.stats()["open_streams"]) and time.monotonic() < deadline:
            time.sleep(0.02)
        window.close()
        numbers = window.numbers(count, session)
    return numbers | {
        "per_second": result["responses"] / result["seconds"],
        "left_open": left,
        "errors": result["errors"],
    }
