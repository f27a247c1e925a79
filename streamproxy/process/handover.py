"""How the listening sockets of a running process come to its successor: the meeting place, and what is said there.

Theory of operation. A process that serves listens at a *place*: a unix socket without a file (unix(7), abstract),
named after its user and the address of its first listener, so that a process which is to serve an address finds the
one that serves it. Such a socket has no mode; instead both ends ask the kernel for the user at the other end, and talk
to nobody else::

    successor                                              process that serves
    connects, {"takeover": 1}                     ──▶
                                                  ◀──      a line and a descriptor for each socket, then {"pid": …}
    starts, and accepts connections: both do now
    {"serving": true}                             ──▶      accepts no more, and drains
                                                  ◀──      {"totals": …} at once, every second, and at the end

It is the sockets themselves that go over, not others on the same port: those (SO_REUSEPORT) have a queue each, and what
waits in the queue of one that is closed is reset. A successor that goes away before it serves has changed nothing.

What is said are lines of JSON, since the two ends may be of different versions.
"""

from __future__ import annotations

import array
import hashlib
import json
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterable
from typing import Any, NamedTuple

from streamproxy.errors import StreamproxyError
from streamproxy.server.sockets import Listener, inherit

SUPPORTED = sys.platform == "linux"  # abstract sockets, and SO_PEERCRED
PATIENCE = 10.0  # seconds for the other end to say what it can say at once
VERSION = 1
_BACKLOG = 8
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group
_MOST = 64 * 1024  # bytes of all that is said before the first totals


class TakeoverError(StreamproxyError):
    """The process that serves can't be taken over."""


class Listening(NamedTuple):
    """The listening sockets of a process; ``meeting`` is the one at its place."""

    main: list[socket.socket]
    admin: list[socket.socket]
    meeting: socket.socket


class Handed(NamedTuple):
    """What a successor has been given: sockets, the files of which it may call its own later, and the line on which
    it says that it serves."""

    main: list[Listener]
    admin: list[Listener]
    meeting: Listener
    to_own: list[Listener]
    line: socket.socket
    pid: int


def place_of(where: str) -> str:
    """The meeting place of the process that serves an address, as an address of a unix socket."""
    return f"\0streamproxy/{os.geteuid()}/{hashlib.sha256(where.encode()).hexdigest()[:32]}"


def meet(place: str) -> socket.socket:
    """Listen at a place. Raises OSError when somebody else does, or where there are no such places."""
    if not SUPPORTED:
        raise OSError(None, "only Linux has sockets of that kind")
    meeting = Listener(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        meeting.owned = False  # there is no file
        meeting.bind(place)
        meeting.listen(_BACKLOG)
        meeting.setblocking(False)
    except OSError:
        meeting.close()
        raise
    return meeting


def is_own_user(line: socket.socket) -> bool:
    """Whether the other end belongs to the user of this process, or to root."""
    data = line.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return _CREDENTIALS.unpack(data)[1] in (0, os.geteuid())


def encode(**message: Any) -> bytes:
    """A message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A line as a message. Raises ValueError."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def give(line: socket.socket, listening: Listening, owned: Collection[socket.socket]) -> None:
    """Send all sockets to a successor; of the ``owned`` ones the files will be its own.

    The line has a time-out, in seconds. Raises OSError.
    """
    named = [("main", one) for one in listening.main] + [("admin", one) for one in listening.admin]
    for name, listener in (*named, ("meeting", listening.meeting)):
        rights = array.array("i", [listener.fileno()])
        line.sendmsg([encode(socket=name, owned=listener in owned)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    line.sendall(encode(pid=os.getpid()))


def take(place: str) -> Handed | None:
    """Ask the process that listens at a place for its sockets; None when there is none. Raises TakeoverError."""
    if not SUPPORTED:
        raise TakeoverError("--takeover works on Linux only")
    line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    line.settimeout(PATIENCE)
    try:
        line.connect(place)
    except ConnectionRefusedError:
        line.close()
        return None
    try:
        if not is_own_user(line):
            raise TakeoverError("another user's process pretends to be the one that serves")
        line.sendall(encode(takeover=VERSION))
        return _received(line)
    except (OSError, ValueError, LookupError) as error:
        line.close()
        raise TakeoverError(f"the process that serves does not hand over its sockets: {error}") from error
    except TakeoverError:
        line.close()
        raise


def _received(line: socket.socket) -> Handed:
    said, numbers = b"", list[int]()
    try:
        # The last line is the one without a socket, and there is nothing behind it.
        while not (said.endswith(b"\n") and "pid" in decode(said.splitlines()[-1])):
            data, more, _, _ = socket.recv_fds(line, _MOST, _MOST // 1024)
            numbers += more
            said += data
            if not data or len(said) > _MOST:
                raise TakeoverError("the process that serves does not hand over its sockets; its log says why")
        *sockets, last = [decode(one) for one in said.splitlines()]
        if "error" in last:
            raise TakeoverError(str(last["error"]))
        listeners = [(message, inherit(numbers.pop(0))) for message in sockets]
    finally:
        for number in numbers:
            os.close(number)
    (meeting,) = _named("meeting", listeners)
    to_own = [listener for message, listener in listeners if message["owned"] is True]
    return Handed(_named("main", listeners), _named("admin", listeners), meeting, to_own, line, int(last["pid"]))


def _named(name: str, listeners: Iterable[tuple[dict[str, Any], Listener]]) -> list[Listener]:
    return [listener for message, listener in listeners if message["socket"] == name]
