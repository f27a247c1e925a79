"""The limit on open files and sockets of the process."""

from __future__ import annotations

import contextlib
import resource


def raise_limit() -> None:
    """Raises the limit to the hard limit; child processes inherit it.

    A stream needs two descriptors. Shells and service managers start programs with a limit of 1024 because of older
    programs that use select(2).
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError, ValueError):  # not every system allows an unlimited number
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
