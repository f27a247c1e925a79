"""A backend as a program of its own, to be killed, stopped, slowed and started again: ``python backend.py NAME PORT``.

``/stream`` is an endless event stream that counts its events; any other path answers with the name at once, or after
`SLOW` seconds once SIGUSR1 has come, until it comes again. It knows of HTTP what the proxy sends: GETs without bodies.
"""

from __future__ import annotations

import asyncio
import signal
import sys

SLOW = 0.25  # seconds
BEAT = 0.1  # seconds between two events


class Connection(asyncio.Protocol):
    """One connection; requests are answered in order."""

    slow = False
    name = b""

    def __init__(self) -> None:
        self.transport: asyncio.Transport
        self.buffer = b""
        self.timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, end, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if not end:
            self.buffer = head
        elif head.split(b" ")[1] == b"/stream":
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
            )
            self.beat(0)
        elif self.slow:
            self.timer = asyncio.get_running_loop().call_later(SLOW, self.answer)
        else:
            self.answer()

    def answer(self) -> None:
        body = self.name
        self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    def beat(self, number: int) -> None:
        event = b"data: %s %d\n\n" % (self.name, number)
        self.transport.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.timer = asyncio.get_running_loop().call_later(BEAT, self.beat, number + 1)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.timer is not None:
            self.timer.cancel()


def toggle() -> None:
    Connection.slow = not Connection.slow


async def main(name: str, port: int) -> None:
    Connection.name = name.encode()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, toggle)
    server = await loop.create_server(Connection, "127.0.0.1", port, backlog=1024)
    print("ready", flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
