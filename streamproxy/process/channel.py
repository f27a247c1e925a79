"""The private connection between the supervisor and a worker: a socket pair and its messages.

Messages are pickled named tuples with a length prefix of four bytes. Both ends are processes of the same program and
user, and no other process can hold an end, so messages are trusted. When a process dies, the kernel closes its end.
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
import socket
import struct
from collections import Counter
from operator import attrgetter
from typing import NamedTuple

from streamproxy.config import Config
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.carried import attributes
from streamproxy.observe.ended import Ending
from streamproxy.observe.series import Totals

_LENGTH = struct.Struct("!I")

# The facts of a live exchange that the supervisor sees; other fields are objects of the worker's process.
_OWN = {"error", "gap", "gaps", "inspector", "interruption", "task", "trace"}
FIELDS = tuple(name for name in attributes(Exchange) if name not in _OWN)
row_of = attrgetter(*FIELDS)


class Boot(NamedTuple):
    """To the worker, first of all: what to serve, and the descriptors it has inherited.

    These are the listening sockets, and the memory of the sticky sessions that all workers share.
    """

    config: Config
    listeners: tuple[int, ...]
    sessions: int


class Ready(NamedTuple):
    """From the worker: it accepts connections."""


class Failed(NamedTuple):
    """From the worker: it could not start, and why."""

    why: str


class Question(NamedTuple):
    """To the worker, which sends an `Answer` with the same ``number``."""

    number: int
    ask: ReportRequest | Prepare


class Answer(NamedTuple):
    """From the worker."""

    number: int
    content: Report | Prepared


class ReportRequest(NamedTuple):
    """Requests a `Report`, with or without the live exchanges."""

    streams: bool


class Prepare(NamedTuple):
    """Requests to prepare a configuration, which `Commit` puts into force and `Discard` drops."""

    config: Config


class Prepared(NamedTuple):
    """Whether the configuration can come into force; otherwise why not."""

    problem: str | None


class Commit(NamedTuple):
    """To the worker: put the prepared configuration into force."""


class Discard(NamedTuple):
    """To the worker: drop the prepared configuration."""


class Interrupt(NamedTuple):
    """To the worker: the operator ends the exchange with this id."""

    id: str


class Stop(NamedTuple):
    """To the worker: drain, or end at once; ``replaced`` if another process serves on its sockets."""

    at_once: bool
    replaced: bool = False


class Closed(NamedTuple):
    """From the worker: it accepts no more connections."""


class Report(NamedTuple):
    """From the worker, on request, every second, and at its end: its current numbers.

    ``finished`` are the totals of ended exchanges, ``running`` those of the live ones. ``live`` are batches of rows,
    each pickled; None if they were not requested. ``ended`` are the last ended exchanges, ``ends`` counts all by how
    they ended; ``reasons`` is why the worker is not ready.
    """

    finished: Totals
    running: Totals
    live: tuple[bytes, ...] | None
    ended: tuple[Ending, ...]
    ends: Counter[str]
    reasons: tuple[str, ...]


Message = Boot | Ready | Failed | Question | Answer | Commit | Discard | Interrupt | Stop | Closed | Report


def frame(message: Message) -> bytes:
    """Returns the bytes of a message."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def read_boot(line: socket.socket) -> Boot:
    """Returns the first message, before the worker has an event loop. Raises EOFError if the supervisor has exited."""
    message = pickle.loads(_exactly(line, _LENGTH.unpack(_exactly(line, _LENGTH.size))[0]))
    assert isinstance(message, Boot)
    return message


def _exactly(line: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = line.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class Line:
    """One end of the connection, inside an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Line:
        """Returns the end over a socket, which it then owns."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Sends without waiting. Messages to a process that has exited are lost."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def receive(self) -> Message | None:
        """Returns the next message, or None at the end of the connection."""
        try:
            size = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))[0]
            message: Message = pickle.loads(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return message

    async def flush(self) -> None:
        """Waits until all messages were sent."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def aclose(self) -> None:
        """Closes the connection after all messages were sent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
