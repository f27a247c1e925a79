"""The HTTP/1.1 protocol of the server: bytes in, whole requests out. The oracle is h11.

Every request that the application gets whole is one that h11 reads from the same bytes, in the same order and with the
same body. One more would be a smuggled request. Whatever comes, the answer is HTTP and the application's fault is none.
Every input begins with no head remembered.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import h11

from fuzz.reads import reads_of
from fuzz.rig import Rig
from streamproxy.server.http1.limits import Http11Limits
from streamproxy.server.http1.protocol import http11_protocol
from streamproxy.wire.request import known_heads
from tests.unit.server.harness import Receive, Scope, Send, body_message, start_message

DICTIONARY = (
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"POST /p HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc",
    b"POST /c HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Upgrade: h2c\r\n", b"HTTP/1.0\r\n", b"0\r\n\r\n", b"\r\n", b"Content-Length: 0\r\n",
    b"HEAD", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n",
)  # fmt: skip


class Request(NamedTuple):
    method: bytes
    target: bytes
    body: bytes


class Application:
    """Reads each request to its end, and answers with the size of its body."""

    def __init__(self) -> None:
        self.requests: list[Request] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            if not message["more_body"]:
                break
        target = scope["raw_path"] + (b"?" + scope["query_string"] if scope["query_string"] else b"")
        self.requests.append(Request(scope["method"].encode(), target, body))
        await send(start_message(200, (b"content-type", b"text/plain")))
        await send(body_message(b"%d" % len(body)))


@cache
def rig() -> tuple[Application, Rig]:
    app = Application()
    return app, Rig(app, http11_protocol(Http11Limits(max_header_size=4096)), patience=46)


def check(data: bytes) -> None:
    if not data:
        return
    expected, unread = by_h11(data)
    app, here = rig()
    known_heads.clear()
    for reads in ([data], reads_of(data)):
        app.requests.clear()
        out = here.run(reads).out
        got = app.requests
        if unread:
            got = got[: len(expected)]
        assert [same_form(one) for one in got] == expected[: len(got)], (got, expected)
        assert not out or out.startswith(b"HTTP/1.1 "), out
        assert b" 500 " not in out.split(b"\r\n", 1)[0], out
        assert len(out) <= 1024 * (2 + data.count(b"\n"))


def same_form(request: Request) -> Request:
    return request._replace(target=ascii_only(request.target), body=ascii_only(request.body))


def ascii_only(data: bytes) -> bytes:
    """h11 reads targets in ASCII only, so both sides are compared with other letters replaced."""
    return bytes(byte if byte < 0x80 else 0x7E for byte in data)


def by_h11(data: bytes) -> tuple[list[Request], bool]:
    """The requests that h11 reads, with targets in absolute form as paths, and whether it gave up at a trailer field.

    It reads Content-Length and Transfer-Encoding in trailers as if they framed the body, where we drop them.
    """
    requests: list[Request] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(ascii_only(data.lstrip(b"\r\n")))
    in_body = False
    try:
        while isinstance(head := connection.next_event(), h11.Request) and head.method != b"CONNECT":
            in_body, body = True, b""
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if not isinstance(event, h11.Data):
                    return requests, False
                body += bytes(event.data)
            in_body = False
            requests.append(Request(bytes(head.method), path_of(bytes(head.target), bytes(head.method)), body))
            connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
            connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE:
                break
            rest = connection.trailing_data[0].lstrip(b"\r\n")
            connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
            connection.receive_data(rest)
    except h11.RemoteProtocolError as error:
        return requests, in_body and ("Content-Length" in str(error) or "Transfer-Encoding" in str(error))
    return requests, False


def path_of(target: bytes, method: bytes) -> bytes:
    scheme, mark, rest = target.partition(b"://")
    if not mark or scheme.lower() not in (b"http", b"https"):
        return target.removesuffix(b"?") if target.endswith(b"?") and target.count(b"?") == 1 else target
    begin = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    path = rest[begin:]
    if not path and method == b"OPTIONS":
        return b"*"
    path = path if path.startswith(b"/") else b"/" + path
    return path.removesuffix(b"?") if path.endswith(b"?") and path.count(b"?") == 1 else path
