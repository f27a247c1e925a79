"""Loopback ports that nobody else on the machine is given while a test counts on them."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager


def hold(host: str, port: int = 0) -> socket.socket:
    """A socket that is bound to ``port``, or to any, and does not listen: whoever connects is refused.

    While it is open the kernel gives the port to nobody else. A program that sets SO_REUSEADDR, as servers do, can bind
    it too and listen.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind((host, port))
    return holder


@contextmanager
def reserved_port() -> Iterator[int]:
    """A loopback port for a program that can't pick one itself, or that refuses until then."""
    with hold("127.0.0.1") as holder:
        port: int = holder.getsockname()[1]
        yield port
