"""Notifies the service manager: sd_notify(3), for units of ``Type=notify``."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

READY = "READY=1"
STOPPING = "STOPPING=1"


def tell(environ: Mapping[str, str], state: str) -> None:
    """Reports a state to the service manager if it requested this. A missing manager is not an error."""
    address = environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as line:
        line.setblocking(False)
        line.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
