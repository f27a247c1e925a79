"""One message for many clients, which is published and comes from no upstream."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Final

from benchmarks.peers.base import Publish
from benchmarks.programs import BenchError
from benchmarks.rig import Numbers, Session, steady

_RATE: Final = 50  # messages a second
_START: Final = 10.0  # seconds


def published(session: Session) -> Numbers:
    """50 messages a second, for 1,000 clients of one channel. A unit is a message and client."""
    assert session.peer.publish is not None
    clients = session.peer.streams
    publish = session.peer.publish(session.place)
    with publishing(publish):
        _wait_for_message(session)
    before = session.memory()
    with publishing(publish), session.load("streams", "/events", f"conns={clients}") as generator:
        window, result = steady(session, generator, session.sizes.seconds)
        numbers = window.numbers(result["events"], session)
    expected = clients * _RATE * result["seconds"]
    if result["events"] < expected * 0.9:
        raise BenchError(f"{result['events']} of about {expected:.0f} messages came")
    return numbers | {
        "streams": clients,
        "per_second": result["events"] / result["seconds"],
        "kib_a_stream": (numbers["pss_mb"] * 1e6 - before) / 1024 / clients,
        "p50_us": result["delay"]["p50"],
        "p99_us": result["delay"]["p99"],
        "errors": result["errors"] + result["lost"],
    }


def _wait_for_message(session: Session) -> None:
    """A proxy that answers has not always reached what its messages come through. Raises BenchError."""
    path = session.peer.ask("/events", session.place).path
    deadline = time.monotonic() + _START
    while time.monotonic() < deadline:
        with closing(http.client.HTTPConnection("127.0.0.1", session.place.listen, timeout=_START)) as connection:
            connection.request("GET", path, headers={"Accept": "text/event-stream"})
            response = connection.getresponse()
            if response.status == 200 and any(b"@" in line for line in response):
                return
        time.sleep(0.05)
    raise BenchError("no message came")


@contextmanager
def publishing(publish: Publish) -> Iterator[None]:
    """Publish texts that say when they were sent, as the upstream in C does, until the block ends."""
    over = threading.Event()

    def run() -> None:
        due = time.monotonic()
        while not over.wait(max(0.0, due - time.monotonic())):
            publish(f"@{time.monotonic_ns():019d} {'x' * 180}")
            due += 1 / _RATE

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
