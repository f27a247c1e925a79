"""`streamproxy run`: prepares the process, opens its listeners and serves.

The listeners are opened first, so that a port in use is an error at once. See `streamproxy.process.lifecycle` for all
later steps.

In a container the process may have the id 1. The kernel then ignores signals without a handler, and every orphan
becomes a child of the process. So handlers are installed at the very start, and the kernel is told to reap orphans.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from streamproxy.config.model import Config
from streamproxy.process.descriptors import raise_limit
from streamproxy.process.engine import loop_factory
from streamproxy.process.lifecycle import Launch, Say
from streamproxy.process.listeners import ListenerSet
from streamproxy.process.memory import keep_buffers
from streamproxy.process.reload import Source
from streamproxy.process.serve import serve
from streamproxy.process.supervisor import supervise


def run(config: Config, say: Say, source: Source | None = None, *, takeover: bool = False) -> None:
    """Serves until a signal ends it; ``say`` is called with one line for each listener once it accepts.

    With ``takeover``, the listeners are those of the running process, which ends its streams once this one serves.
    Listeners from the service manager replace the configured addresses. With a ``source``, from which ``config`` was
    loaded, the configuration is reloaded. Raises StreamproxyError for an unusable address or file.
    """
    _handle_signals(reloads=source is not None)
    keep_buffers()
    raise_limit()
    listeners = ListenerSet()
    try:
        listeners.open(config, os.environ, say, takeover=takeover)
        start = serve if config.server.workers == 1 else supervise
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(start(config, Launch(listeners, say, source)))
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_IGN)  # a closed loop has removed its handlers, and the process ends
        listeners.close()


def _handle_signals(*, reloads: bool) -> None:
    """Handles signals until the event loop has its own handlers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(0))
    if reloads:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a change of the file meanwhile is detected later
    if os.getpid() == 1:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
