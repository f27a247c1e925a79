"""Reads of a bounded size, for connections over which a flood comes.

The loops read up to 256 KiB at once. Of a flood that a slow client can't take, one such read waits in the client's
transport, on top of what that may hold. So a connection whose reads grow large gets the loop's transport to read into a
buffer of `MOST` bytes instead. All connections of a thread share the buffer: what a read has brought is copied out of
it before the next one begins. Small reads are the loop's own, which costs a call less.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any, Final

MOST: Final = 32768  # bytes

_buffers: Final = threading.local()


def _buffer() -> memoryview:
    buffer: memoryview | None = getattr(_buffers, "buffer", None)
    if buffer is None:
        buffer = _buffers.buffer = memoryview(bytearray(MOST))
    return buffer


class BoundedReads(asyncio.BufferedProtocol):
    """Between a transport and the ``receiver``, an `asyncio.Protocol` in all but name, that hears everything."""

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
    """Have reads of ``transport``, which reads now, bounded or not, with ``receiver`` to hear of them."""
    transport.pause_reading()  # uvloop looks only at the start of reading what kind of protocol it has
    transport.set_protocol(BoundedReads(receiver) if bounded else receiver)
    transport.resume_reading()
