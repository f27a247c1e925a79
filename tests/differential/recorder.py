"""An upstream that reads by the letter (h11), writes down every request, and says when it was sent something else."""

from __future__ import annotations

import asyncio
import re
from collections import defaultdict
from typing import NamedTuple, Self
from urllib.parse import unquote_to_bytes

import h11

from tests.differential.mutations import response

_ID = re.compile(rb"/d/(\d+)/")


class Seen(NamedTuple):
    """A request as it arrived, with its target as a path."""

    method: bytes
    target: bytes
    body: bytes


class Recorder:
    """Listens on a port of loopback. ``seen`` are the requests by their case; ``malformed`` is what was not HTTP.

    With ``seed`` it answers the first request of each case with a mutated response.
    """

    def __init__(self, seed: int | None = None) -> None:
        self.seen: dict[int, list[Seen]] = defaultdict(list)
        self.malformed: list[str] = []
        self.port = 0
        self._seed = seed
        self._server: asyncio.Server | None = None
        self._served: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._served:
            task.cancel()
        await asyncio.gather(*self._served, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._served.add(task)
        task.add_done_callback(self._served.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection, raw = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20), b""
        try:
            while connection.states[h11.SERVER] is not h11.MUST_CLOSE:
                data = await reader.read(65536)
                raw += data
                connection.receive_data(_ascii(data))
                while (request := self._next(connection, writer)) is not None:
                    self._answer(connection, writer, request)
                if not data:
                    break
        except h11.RemoteProtocolError as error:
            if "peer closed" not in str(error):  # a message that a client did not end
                self.malformed.append(f"{error}: {raw[-2000:]!r}")
        except ConnectionError:
            pass
        finally:
            writer.close()

    def _next(self, connection: h11.Connection, writer: asyncio.StreamWriter) -> Seen | None:
        """The next whole request. An h11 connection keeps what is not whole."""
        body: list[bytes] = getattr(connection, "begun", [])
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED or isinstance(event, h11.ConnectionClosed):
                return None
            if isinstance(event, h11.Request):
                connection.request, connection.begun = event, (body := [])  # type: ignore[attr-defined]
                if connection.they_are_waiting_for_100_continue:
                    writer.write(
                        connection.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue"))
                        or b""
                    )
            elif isinstance(event, h11.Data):
                body.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                head: h11.Request = connection.request  # type: ignore[attr-defined]
                return Seen(bytes(head.method), as_path(bytes(head.target)), b"".join(body))

    def _answer(self, connection: h11.Connection, writer: asyncio.StreamWriter, request: Seen) -> None:
        match = _ID.search(request.target)
        number = int(match[1]) if match else -1
        self.seen[number].append(request)
        if self._seed is not None and request.target.endswith(b"/first"):
            writer.write(response(number, self._seed))
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
        else:
            name = request.target.rpartition(b"/")[2]
            text = b"" if request.method == b"HEAD" else b"answer to %d %s" % (number, name[:20])
            head = h11.Response(status_code=200, headers=[("Content-Length", str(len(text)))])
            writer.write(connection.send(head) or b"")
            if text:
                writer.write(connection.send(h11.Data(text)) or b"")
            writer.write(connection.send(h11.EndOfMessage()) or b"")
        if connection.states == {h11.CLIENT: h11.DONE, h11.SERVER: h11.DONE}:
            connection.start_next_cycle()


def as_path(target: bytes) -> bytes:
    """A target as a path without percent-encoding: some proxies pass absolute forms on, and some encode anew."""
    if target[:7].lower() == b"http://":
        begin = target.find(b"/", 7)
        target = target[begin:] if begin > 0 else b"/"
    return _ascii(unquote_to_bytes(target))


def _ascii(data: bytes) -> bytes:
    """h11 takes targets in ASCII only, where a proxy may pass any byte on, so others are replaced."""
    return data if data.isascii() else bytes(byte if byte < 0x80 else 0x7E for byte in data)
