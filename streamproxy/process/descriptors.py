"""How many files and sockets the process may have open."""

from __future__ import annotations

import contextlib
import resource


def raise_limit() -> None:
    """Take as many as the system gives without asking: a stream needs two, and shells and service managers start
    programs with 1024, which older ones need that wait with select(2). Processes that are started inherit it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # what is unlimited can't be had everywhere
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
