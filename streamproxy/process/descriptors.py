"""How many files and sockets the process may have open."""

from __future__ import annotations

import contextlib
import resource


def raise_limit() -> None:
    """Raise the limit to the hard limit; child processes inherit it.

    A stream needs two descriptors. Shells and service managers start programs with 1024, for the sake of older ones
    that wait with select(2).
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # not every system allows an unlimited number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
