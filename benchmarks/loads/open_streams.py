"""What an open stream costs, by how many there are."""

from __future__ import annotations

import contextlib
import time

from benchmarks.rig import SETTLE, Numbers, Session, Window, steady


def streams(session: Session) -> Numbers:
    """10, 100 and so on to 10,000 open streams with one event a second each: memory and CPU of each.

    A unit is a stream for a second. The streams of one number stay open for the next.
    """
    with session.load("closed", "/tiny", "conns=32") as generator:
        steady(session, generator, 0.3)  # what a proxy makes once is not the streams'
    before = session.memory()
    numbers: Numbers = {"errors": 0, "limit": 0.0}
    with contextlib.ExitStack() as stack:
        there = 0
        for count in session.sizes.streams:
            load = session.load("streams", "/events?rate=1", f"conns={count - there}")
            generator = stack.enter_context(load)
            there = count
            time.sleep(SETTLE)
            window = Window(session, generator)
            time.sleep(session.sizes.seconds)
            window.close()
            found = window.numbers(count * session.sizes.seconds, session)
            numbers["limit"] = max(numbers["limit"], found["limit"])
            if session.peer.launch is not None:
                numbers[f"kib_{count}"] = (session.memory() - before) / 1024 / count
                numbers[f"cpu_{count}_us"] = found["cpu_us"]
        numbers["errors"] = session.upstream.stats()["dropped"]
    return numbers
