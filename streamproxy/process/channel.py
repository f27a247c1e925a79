"""The private line between the supervisor and one of its workers: a socket pair, and what goes over it.

Messages are named tuples, pickled, behind four bytes of length. Both ends are processes of one program and one user,
and nobody else can hold an end, so there is nothing to distrust. The end of the line is the end of the process behind
it: the kernel closes a dead process's sockets.
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

# What the supervisor sees of a live exchange; the other fields are objects of the worker's process, or secret.
_OWN = {"error", "gap", "gaps", "inspector", "interruption", "principal", "task", "trace"}
FIELDS = tuple(name for name in attributes(Exchange) if name not in _OWN)
row_of = attrgetter(*FIELDS)


class Boot(NamedTuple):
    """To the worker, before anything else: what to serve, and the numbers of the descriptors it has inherited: the
    listening sockets, and the memory of the sessions that all workers share."""

    config: Config
    listeners: tuple[int, ...]
    sessions: int


class Ready(NamedTuple):
    """From the worker: it accepts connections."""


class Failed(NamedTuple):
    """From the worker: it could not start, and why."""

    why: str


class Question(NamedTuple):
    """To the worker; it answers with the same ``number``."""

    number: int
    ask: ReportRequest | Prepare


class Answer(NamedTuple):
    """From the worker."""

    number: int
    content: Report | Prepared


class ReportRequest(NamedTuple):
    """Asks for a `Report`, with the live exchanges or without."""

    streams: bool


class Prepare(NamedTuple):
    """Asks to make ready another configuration, which comes into force with `Commit`, or is dropped with `Discard`."""

    config: Config


class Prepared(NamedTuple):
    """Whether a configuration can come into force; else why not."""

    problem: str | None


class Commit(NamedTuple):
    """To the worker: put into force what is prepared."""


class Discard(NamedTuple):
    """To the worker: forget what is prepared."""


class Interrupt(NamedTuple):
    """To the worker: the operator ends the exchange with this id."""

    id: str


class Stop(NamedTuple):
    """To the worker: drain, or end at once; ``replaced`` when another process serves on its sockets."""

    at_once: bool
    replaced: bool = False


class Closed(NamedTuple):
    """From the worker: it accepts no more connections."""


class Report(NamedTuple):
    """From the worker, when asked, every second, and at its end: its numbers of one moment.

    ``finished`` are those of the exchanges that have ended, ``running`` those of the live ones so far. ``live`` are
    batches of rows, each batch pickled; None when nobody asked for them. ``ended`` are the last ends, ``ends`` counts
    all of them by their word; ``reasons`` are why the worker is not ready.
    """

    finished: Totals
    running: Totals
    live: tuple[bytes, ...] | None
    ended: tuple[Ending, ...]
    ends: Counter[str]
    reasons: tuple[str, ...]


Message = Boot | Ready | Failed | Question | Answer | Commit | Discard | Interrupt | Stop | Closed | Report


def frame(message: Message) -> bytes:
    """A message as it goes over the line."""
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    return _LENGTH.pack(len(data)) + data


def read_boot(line: socket.socket) -> Boot:
    """The first message, read by a worker that has no event loop yet. Raises EOFError when the supervisor is gone."""
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
    """One end of the line, inside an event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, end: socket.socket) -> Line:
        """The end that a socket is; the socket belongs to it from here on."""
        end.setblocking(False)
        return cls(*await asyncio.open_unix_connection(sock=end))

    def send(self, message: Message) -> None:
        """Send without waiting. What is sent to a process that is gone is lost."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def receive(self) -> Message | None:
        """The next message; None at the end of the line."""
        try:
            size = _LENGTH.unpack(await self._reader.readexactly(_LENGTH.size))[0]
            message: Message = pickle.loads(await self._reader.readexactly(size))
        except (asyncio.IncompleteReadError, OSError):
            return None
        return message

    async def flush(self) -> None:
        """Wait until what was sent is on its way."""
        with contextlib.suppress(OSError):
            await self._writer.drain()

    async def aclose(self) -> None:
        """Close the line after what was sent."""
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()
