"""The hand-over of listening sockets to a successor: where the processes meet, and the messages between them.

Theory of operation. A running process listens at a *place*: an abstract Unix socket (unix(7)), which has no file. It is
named after the user and the address of the first listener, so that a successor for an address finds the running
process. Abstract sockets have no file mode. Instead, both ends ask the kernel for the user of the other end, and refuse
others::

    successor                                              running process
    connects, {"takeover": 1}                     ──▶
                                                  ◀──      a line and a descriptor for each socket, then {"pid": …}
    starts, and accepts connections: both do now
    {"serving": true}                             ──▶      accepts no more, and drains
                                                  ◀──      {"totals": …, "answers": true} at once, every second, and
                                                           at the end
    {"ask": 1}                                    ──▶
                                                  ◀──      {"answer": 1, "streams": […], "more": true} in pieces, the
                                                           last of which has false: the live exchanges
    {"stop": ID}                                  ──▶      ends this exchange
    {"ask": 2, "kept": STREAM, "owner": DIGEST}   ──▶      ends this resumable stream if it is that owner's
                                                  ◀──      {"answer": 2, "result": "stopped"}

The sockets themselves are passed on, not other sockets on the same port: those (SO_REUSEPORT) have separate queues, and
closing one resets the connections in its queue. A successor that exits before it serves has changed nothing.

Messages are lines of JSON, because both ends may have different versions. Earlier versions do not answer questions, so
none is asked of a process that does not say that it does.
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
PATIENCE = 10.0  # seconds for a message that the other end can send at once
VERSION = 1
_BACKLOG = 8
_CREDENTIALS = struct.Struct("3i")  # struct ucred: process, user, group
_MOST = 64 * 1024  # the maximum bytes of all messages before the first totals


class TakeoverError(StreamproxyError):
    """The running process cannot be taken over."""


class Listening(NamedTuple):
    """The listening sockets of a process; ``meeting`` is the one at its place."""

    main: list[socket.socket]
    admin: list[socket.socket]
    meeting: socket.socket


class Handed(NamedTuple):
    """What a successor received: sockets, whose files it will own, and the line on which it reports that it serves."""

    main: list[Listener]
    admin: list[Listener]
    meeting: Listener
    to_own: list[Listener]
    line: socket.socket
    pid: int


def place_of(where: str) -> str:
    """Returns the place of the process that serves an address, as the address of a Unix socket."""
    return f"\0streamproxy/{os.geteuid()}/{hashlib.sha256(where.encode()).hexdigest()[:32]}"


def meet(place: str) -> socket.socket:
    """Listens at a place. Raises OSError if another process does, or if the system has no abstract sockets."""
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
    """Returns a message as a line."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Returns the message of a line. Raises ValueError."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError("not a message")
    return message


def give(line: socket.socket, listening: Listening, owned: Collection[socket.socket]) -> None:
    """Sends all sockets to a successor, which will own the files of the ``owned`` ones.

    The line must have a time-out. Raises OSError.
    """
    named = [("main", one) for one in listening.main] + [("admin", one) for one in listening.admin]
    for name, listener in (*named, ("meeting", listening.meeting)):
        rights = array.array("i", [listener.fileno()])
        line.sendmsg([encode(socket=name, owned=listener in owned)], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    line.sendall(encode(pid=os.getpid()))


def take(place: str) -> Handed | None:
    """Requests the sockets of the process at a place; None if there is none. Raises TakeoverError."""
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
        raise TakeoverError(f"the running process does not hand over its sockets: {error}") from error
    except TakeoverError:
        line.close()
        raise


def _received(line: socket.socket) -> Handed:
    said, numbers = b"", list[int]()
    try:
        # The last line has no socket, and nothing follows it.
        while not (said.endswith(b"\n") and "pid" in decode(said.splitlines()[-1])):
            data, more, _, _ = socket.recv_fds(line, _MOST, _MOST // 1024)
            numbers += more
            said += data
            if not data or len(said) > _MOST:
                raise TakeoverError("the running process does not hand over its sockets; its log says why")
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
