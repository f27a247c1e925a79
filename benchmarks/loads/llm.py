"""Chat completions as an LLM server streams them: 64 events, one every 20 ms, then the finish, the usage and the end.

This is the work of github.com/GetBusbar/benchmarking ("On the Bench"), but that 100 run at once, and begin evenly
spread over the time of one: where all begin together, they end together, and what is measured is how long the last one
waits for the others.
"""

from __future__ import annotations

import time
from typing import Final

from benchmarks.programs import BenchError
from benchmarks.rig import Numbers, Session, steady

_SPREAD: Final = 64 * 20  # milliseconds
STALLED_US: Final = 200_000.0  # ten times the time between two events
LATE_US: Final = 20_000.0  # that time itself


def chats(session: Session) -> Numbers:
    """100 chats at once, 50 events a second each; a new one begins when one has ended.

    A chat's first event is the time to its first token (``ttft``), ``gap`` the time between two of its events.
    """
    streams = session.peer.streams
    with session.load("chats", "/chat", f"conns={streams}", f"spread={_SPREAD}") as generator:
        window, result = steady(session, generator, 2 * session.sizes.seconds)
        numbers = window.numbers(result["events"], session)
        dropped = session.upstream.stats()["dropped"]
    first, gap = result["first_byte"], result["gap"]
    return numbers | {
        "streams": streams,
        "per_second": result["events"] / result["seconds"],
        "p50_us": first["p50"],
        "p99_us": first["p99"],
        "gap_p50_us": gap["p50"],
        "gap_p99_us": gap["p99"],
        "errors": result["errors"] + dropped,
    }


def sustained(session: Session) -> Numbers:
    """The most chats at once whose events come in time.

    None may be lost, no stream may stall for ten times the time between two events, and 99 of 100 events must be there
    within that time itself. Tried with numbers that double, then with two between the last that went and the first
    that did not.
    """
    most, failed = 0, session.sizes.sustained * 2
    limit = 0.0
    count = max(session.peer.streams // 2, 1)
    while count < failed and count <= session.sizes.sustained:
        good, limit = _holds(session, count)
        most, failed = (count, failed) if good else (most, count)
        count *= 2
    for _ in range(2):
        between = (most + failed) // 2
        if not most or failed > session.sizes.sustained or between == most:
            break
        good, found = _holds(session, between)
        most, failed = (between, failed) if good else (most, between)
        limit = max(limit, found)
    if not most:
        raise BenchError(f"not even {max(session.peer.streams // 2, 1)} chats at once")
    return {"most": most, "cpu_us": 0.0, "limit": limit, "errors": 0}


def _holds(session: Session, count: int) -> tuple[bool, float]:
    before = session.upstream.stats()["dropped"]
    try:
        with session.load("chats", "/chat", f"conns={count}", f"spread={_SPREAD}") as generator:
            window, result = steady(session, generator, session.sizes.seconds)
    except BenchError:
        return False, 0.0  # they do not even all begin
    finally:
        time.sleep(0.2)
    lost = session.upstream.stats()["dropped"] - before
    in_time = result["gap"]["max"] <= STALLED_US and result["delay"]["p99"] <= LATE_US
    return in_time and result["events"] > 0 and not (result["errors"] or lost), window.limit
