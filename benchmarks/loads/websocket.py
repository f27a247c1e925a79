"""WebSocket: the measurements of `benchmarks.websocket`, as a load among the others."""

from __future__ import annotations

import argparse

from benchmarks.rig import Numbers, Session


def messages(session: Session) -> Numbers:
    """100 sockets that send 20 messages of 200 bytes a second each, which the upstream echoes, and silent ones."""
    from benchmarks.websocket import measure_cpu, measure_memory  # which imports the command line

    options = argparse.Namespace(
        size=200, sockets=100, rate=20.0, seconds=session.sizes.seconds, silent=min(session.sizes.idle_streams, 1000)
    )
    return {
        "cpu_us": measure_cpu(session.peer, options, session.cores),
        "kib_a_socket": measure_memory(session.peer, options, session.cores),
        "limit": 0.0,
        "errors": 0,
    }
