"""Limits the size of reads of connections with large amounts of data.

The loops read up to 256 KiB at once. If the client is slow, one such read waits in the client's transport, in addition
to the data already there. So a connection with large reads makes the loop's transport read into a buffer of `MOST`
bytes. All connections of a thread share the buffer, since its content is copied before the next read. Small reads stay
with the loop, which saves a call.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any, Final

MOST: Final = 32768  # bytes
_RESCUE_READ: Final = 65536  # bytes of a read from a socket that its peer has reset
_RESCUE_READS: Final = 4

_buffers: Final = threading.local()


def _buffer() -> memoryview:
    buffer: memoryview | None = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = memoryview(bytearray(MOST))
    return buffer


class BoundedReads(asyncio.BufferedProtocol):
    """Connects a transport with the ``receiver``, which has the methods of an `asyncio.Protocol`."""

    def __init__(self, receiver: Any) -> None:
        self._receiver = receiver
        self._buffer = _buffer()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._receiver.data_received(bytes(self._buffer[:nbytes]))

    def eof_received(self) -> bool | None:
        result: bool | None = self._receiver.eof_received()
        return result

    def connection_lost(self, exc: Exception | None) -> None:
        self._receiver.connection_lost(exc)

    def pause_writing(self) -> None:
        self._receiver.pause_writing()

    def resume_writing(self) -> None:
        self._receiver.resume_writing()


def bound_reads(transport: asyncio.Transport, receiver: Any, bounded: bool) -> None:
    """Turns bounded reads of an active ``transport`` on or off; ``receiver`` receives the data."""
    transport.pause_reading()  # uvloop determines the kind of protocol only when reading starts
    transport.set_protocol(BoundedReads(receiver) if bounded else receiver)
    transport.resume_reading()


def rescued(sock: socket.socket) -> Iterator[bytes]:
    """Yields what a socket had received before its peer reset it; Linux keeps some of it."""
    for _ in range(_RESCUE_READS):
        try:
            data = sock.recv(_RESCUE_READ, socket.MSG_DONTWAIT)
        except OSError:
            return
        if not data:
            return
        yield data
