"""Listening sockets from the service manager: systemd's socket activation (sd_listen_fds(3)).

Such sockets outlive the process: during a restart, connections wait in their queues and none is refused. Sockets named
``admin`` (``FileDescriptorName=``) belong to the admin listener, all others to the main listener.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from typing import NamedTuple

from streamproxy.errors import StreamproxyError
from streamproxy.server.sockets import inherit

_FIRST = 3  # SD_LISTEN_FDS_START
_ADMIN = "admin"


class ActivationError(StreamproxyError):
    """The service manager passed something that cannot be listened on."""


class Activated(NamedTuple):
    """The sockets passed on; an empty list for a listener that binds its configured addresses."""

    main: list[socket.socket]
    admin: list[socket.socket]


def activated(environ: Mapping[str, str], pid: int) -> Activated:
    """Returns the sockets passed on to the process ``pid``. Raises ActivationError."""
    found = Activated([], [])
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(pid) or not count.isdecimal():
        return found
    names = environ.get("LISTEN_FDNAMES", "").split(":")
    names += [""] * (int(count) - len(names))
    for number, name in zip(range(_FIRST, _FIRST + int(count)), names, strict=False):
        try:
            listener = inherit(number)
            listening = listener.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
        except OSError as error:
            raise ActivationError(f"LISTEN_FDS: descriptor {number} is not a socket: {error.strerror}") from error
        if not listening or listener.type != socket.SOCK_STREAM:
            listener.close()
            raise ActivationError(f"LISTEN_FDS: descriptor {number} is not a listening stream socket")
        (found.admin if name == _ADMIN else found.main).append(listener)
    return found
