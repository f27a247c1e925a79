"""`streamproxy run`: the process is prepared, its listeners are opened, and it serves.

The listeners are opened first, so that a port in use is an error at once. `streamproxy.process.lifecycle` has the order
of everything after that.

In a container the process may be number 1. The kernel ignores a signal for it that has no handler, and every orphan
becomes its child: so it has a handler for each signal that matters from its first moment on, and lets the kernel reap
orphans.
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
    """Serve until a signal ends it; ``say`` takes one line for each listener once it accepts.

    With ``takeover`` the listeners are those of the process that serves, which ends its streams once this one serves.
    Listeners that the service manager has passed on are used in place of the configured addresses. With a ``source``,
    which ``config`` came from, the configuration is reloaded. Raises StreamproxyError for an address that can't be
    listened on or a file that can't be used.
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
            signal.signal(number, signal.SIG_IGN)  # a closed loop has given them back, and the end is near
        listeners.close()


def _handle_signals(*, reloads: bool) -> None:
    """Handle signals until the event loop has its own handlers."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: sys.exit(0))
    if reloads:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a file that changes meanwhile is seen to have changed
    if os.getpid() == 1:
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are never waited for
