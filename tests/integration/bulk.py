"""Downloads of gigabytes: a source and a sink on blocking sockets in threads, fast enough not to be what is measured.

Every block of the source has its number in it, and the sink compares each with what it must be, so that a lost, doubled
or swapped block shows, as does a changed byte.
"""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from tests.doubles.connection import GUARD

BLOCK = 1024 * 1024
GIGABYTE = 1024 * BLOCK


class Pattern:
    """The blocks of a download: bytes by chance behind the block's number."""

    def __init__(self) -> None:
        self._block = bytearray(random.Random(0).randbytes(BLOCK))

    def block(self, number: int) -> bytearray:
        """Block ``number``, until the next one is asked for."""
        self._block[:8] = number.to_bytes(8)
        return self._block


class BulkSource:
    """An upstream that answers each connection's first request with ``size`` bytes (a multiple of `BLOCK`)."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.written = 0  # bytes of body that the kernel took
        self.cut_off = threading.Event()  # set when the peer left before the end
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._connection: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            self._connection, _ = self._listener.accept()
        except OSError:
            return  # closed before anybody came
        with self._connection as connection:
            head = b""
            while b"\r\n\r\n" not in head:
                head += connection.recv(65536)
            head = f"HTTP/1.1 200 OK\r\nContent-Length: {self.size}\r\n\r\n".encode()
            connection.sendall(head)
            self._send_body(connection)

    def _send_body(self, connection: socket.socket) -> None:
        pattern = Pattern()
        try:
            for number in range(self.size // BLOCK):
                block = memoryview(pattern.block(number))
                sent = 0
                while sent < BLOCK:
                    count = connection.send(block[sent:])
                    sent += count
                    self.written += count
        except OSError:
            self.cut_off.set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sock in (self._listener, self._connection):
            if sock is not None and sock.fileno() >= 0:
                with contextlib.suppress(OSError):  # not connected any more
                    sock.shutdown(socket.SHUT_RDWR)
                sock.close()
        self._thread.join(GUARD)


def open_download(url: str, *, receive_buffer: int | None = None) -> tuple[socket.socket, bytes, bytes]:
    """Ask for ``url``; the socket, the response's head, and what came of the body with it."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    sink = socket.socket()
    try:
        sink.settimeout(GUARD)
        if receive_buffer is not None:
            sink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sink.connect((parts.hostname, parts.port or 80))
        sink.sendall(b"GET /download HTTP/1.1\r\nHost: proxy.test\r\n\r\n")
        data = b""
        while b"\r\n\r\n" not in data:
            piece = sink.recv(4096)
            assert piece, f"the connection ended inside the head: {data!r}"
            data += piece
    except BaseException:
        sink.close()
        raise
    head, _, rest = data.partition(b"\r\n\r\n")
    return sink, head, rest


def download(url: str, size: int) -> int:
    """Read ``size`` bytes of body; return how many came that are right, up to the first block that is not whole."""
    sink, _, rest = open_download(url)
    buffer, pattern = bytearray(BLOCK), Pattern()
    buffer[: len(rest)] = rest
    view, filled = memoryview(buffer), len(rest)
    with sink:
        for number in range(size // BLOCK):
            while filled < BLOCK and (count := sink.recv_into(view[filled:])):
                filled += count
            if filled < BLOCK or buffer != pattern.block(number):
                return number * BLOCK
            filled = 0
    return size
