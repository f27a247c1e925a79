"""The listening sockets of a process: from the service manager, from the process it takes over from, or its own."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterable, Mapping

from streamproxy.config import Address, Config
from streamproxy.process.activation import activated
from streamproxy.process.handover import Handed, place_of, take
from streamproxy.process.succession import Succession
from streamproxy.server.sockets import Listener, bind_several, close, where, widen


class ListenerSet:
    """The sockets of the main listener and of the admin listener, and the succession to the process before."""

    def __init__(self) -> None:
        self.main: list[socket.socket] = []
        self.admin: list[socket.socket] = []
        self.succession = Succession()

    def open(self, config: Config, environ: Mapping[str, str], say: Callable[[str], None], *, takeover: bool) -> None:
        """Opens the listeners of ``config``. Raises StreamproxyError, after which some may be open.

        Sockets from the service manager replace the configured addresses. With ``takeover``, the sockets of the running
        process are used for those configured addresses that it serves.
        """
        passed = activated(environ, os.getpid())
        self.main += passed.main
        self.admin += passed.admin
        handed = None
        if takeover:
            first = self.main[0].getsockname() if self.main else where(config.server.listen[0])
            handed = take(_place(first))
            say(f"takes over from process {handed.pid}" if handed else "there is no process to take over from")
        if not passed.main:
            self._listen(self.main, config.server.listen, config.server.workers, handed.main if handed else ())
        if not passed.admin:
            self._listen(self.admin, config.admin.listen, 1, handed.admin if handed else ())
        if handed is not None:
            self._drop_rest(handed)
        self.succession = Succession(_place(self.main[0].getsockname()), handed)

    def _listen(
        self, listeners: list[socket.socket], addresses: Iterable[Address], count: int, handed: Iterable[Listener]
    ) -> None:
        for address in addresses:
            there: list[socket.socket] = [one for one in handed if one.getsockname() == where(address)]
            listeners += there
            listeners += widen(there, count)[len(there) :] if there else bind_several(address, count)

    def _drop_rest(self, handed: Handed) -> None:
        for listener in (*handed.main, *handed.admin):
            if listener not in self.main and listener not in self.admin:
                listener.close()

    def close(self) -> None:
        """Closes all sockets, and removes the files of Unix sockets that this process owns."""
        for listener in (*self.main, *self.admin):
            close(listener)


def _place(address: object) -> str:
    """Returns the place for an address as returned by `socket.getsockname`."""
    return place_of(os.path.abspath(address) if isinstance(address, str) else str(address))
