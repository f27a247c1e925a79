"""WebSocket messages: the measurement of `benchmarks.websocket`, as a load among the others."""

from __future__ import annotations

import argparse

from benchmarks.rig import Numbers, Session


def messages(session: Session) -> Numbers:
    """100 sockets that send 20 messages of 200 bytes a second each, which the upstream echoes."""
    from benchmarks.websocket import measure  # it imports the peers of the command line

    options = argparse.Namespace(size=200, sockets=100, rate=20.0, seconds=session.sizes.seconds)
    return {"cpu_us": measure(session.peer, options, session.cores), "limit": 0.0, "errors": 0}
