"""Listening sockets. They are opened before anything is served, so that a port in use is an error at the start."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from typing import Any

from streamproxy.config import Address
from streamproxy.errors import StreamproxyError

BACKLOG = 2048
_ADVICE = {
    errno.EADDRINUSE: "another program listens there: stop it, or take another port with --listen or --admin",
    errno.EACCES: "a port below 1024 needs root, or the capability CAP_NET_BIND_SERVICE",
    errno.EADDRNOTAVAIL: "it is no address of this machine; 0.0.0.0 is all of them, 127.0.0.1 this machine alone",
}
UNIX_MODE = 0o660  # the owner and the group of the socket may connect


class Listener(socket.socket):
    """A listening socket. ``owned`` is False if another process will remove the file of a Unix socket."""

    owned = True


class BindError(StreamproxyError):
    """An address cannot be listened on; the text says which and why."""


def _why(address: Address, error: OSError) -> str:
    reason = f"can't listen on {address}: {error.strerror or error}"
    advice = _ADVICE.get(error.errno or 0) if address.path is None else None
    if error.errno == errno.ENOENT:
        advice = "the directory of the socket has to exist"
    return f"{reason}; {advice}" if advice else reason


def bind(address: Address, *, reuse_port: bool = False) -> socket.socket:
    """Returns a listening, non-blocking socket for a host and port (0 picks a free one) or a Unix socket path.

    A stale Unix socket is replaced; a new one has mode 0660. With ``reuse_port``, other sockets with this option may
    listen on the same port. Raises BindError.
    """
    try:
        if address.path is not None:
            _remove_stale(address.path)
            listener = Listener(socket.AF_UNIX, socket.SOCK_STREAM)
            target: object = address.path
        else:
            family, kind, proto, _, target = _resolve(address)
            listener = Listener(family, kind, proto)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    except OSError as error:
        raise BindError(_why(address, error)) from error
    try:
        listener.bind(target)  # type: ignore[arg-type]  # getaddrinfo's address or a path, as the family wants
        if address.path is not None:
            os.chmod(address.path, UNIX_MODE)  # no client can connect before it listens
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise BindError(_why(address, error)) from error
    return listener


def _resolve(address: Address) -> tuple[int, int, int, str, tuple[Any, ...]]:
    return socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]


def where(address: Address) -> object:
    """Returns what `socket.getsockname` returns for a listener on this address. Raises BindError."""
    if address.path is not None:
        return address.path
    try:
        return _resolve(address)[-1]
    except OSError as error:
        raise BindError(_why(address, error)) from error


def bind_several(address: Address, count: int) -> list[socket.socket]:
    """Returns ``count`` listeners on one port, over which the kernel spreads connections evenly; one for a Unix path.

    Raises BindError, also if another program listens there with SO_REUSEPORT.
    """
    if address.path is not None or count == 1:
        return [bind(address)]
    if address.port:
        bind(address).close()
    listeners = [bind(address, reuse_port=True)]
    try:
        while len(listeners) < count:
            listeners.append(beside(listeners[0]))
    except BindError:
        for listener in listeners:
            listener.close()
        raise
    return listeners


def beside(listener: socket.socket) -> socket.socket:
    """Returns another listener on the port of one with SO_REUSEPORT. Raises BindError."""
    host, port = listener.getsockname()[:2]
    return bind(Address(host=host, port=port), reuse_port=True)


def widen(listeners: list[socket.socket], count: int) -> list[socket.socket]:
    """Adds listeners on the port of an address until there are ``count``; a Unix socket stays the only one.

    Raises BindError.
    """
    if listeners[0].family == socket.AF_UNIX or len(listeners) >= count:
        return listeners
    for listener in listeners:  # it was the only one until now
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return listeners + [beside(listeners[0]) for _ in range(count - len(listeners))]


def inherit(number: int) -> Listener:
    """Returns the listening socket that another process passed on as this file descriptor. Raises OSError."""
    listener = Listener(fileno=number)
    listener.owned = False
    listener.setblocking(False)
    listener.set_inheritable(False)
    return listener


def _remove_stale(path: str) -> None:
    """Removes a socket file on which no process listens. A socket in use or another file stays."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            raise OSError(errno.EEXIST, "the file exists and is not a socket")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)


def url_of(listener: socket.socket, scheme: str = "http") -> str:
    """Returns the URL of a listener."""
    if listener.family == socket.AF_UNIX:
        return f"{scheme}+unix:{listener.getsockname()}"
    host, port = listener.getsockname()[:2]
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def unlink(listener: socket.socket) -> None:
    """Removes the file of a Unix socket that still listens; later the file may belong to another process."""
    if listener.family == socket.AF_UNIX and listener.fileno() != -1 and getattr(listener, "owned", True):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(listener.getsockname())


def close(listener: socket.socket) -> None:
    """Closes a listener, and removes the file of a Unix socket. Closing twice has no effect."""
    unlink(listener)
    listener.close()
