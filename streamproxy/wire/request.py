"""The head of one HTTP/1.1 request, from bytes.

httptools (llhttp, strict) checks the syntax as the bytes come, so that garbage is refused at once. It is given the
head and nothing else: where the head ends is found here, by its empty line, which a strict parser can't see anywhere
else. What comes after that is therefore never taken for a part of the head, whatever an Upgrade field, CONNECT, or a
trailer section would make of it, and the head's size is known to the byte.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from streamproxy.errors import BadRequest, HeadTooLarge, NotImplementedHere
from streamproxy.wire.headers import Headers
from streamproxy.wire.http1 import AmbiguousHead, Framing, connection_options, origin_form, request_framing

_ONE = ord("1")


class RequestHead:
    """Reads one request head, then holds it.

    ``max_size`` is in bytes. After `feed` has given what follows the head: ``method`` in upper case, ``target`` in
    origin form (the exact bytes), ``version`` ("1.0" or "1.1"), ``headers`` with lower-case names, ``framing`` of the
    body, and ``raw``, the head as it came.
    """

    __slots__ = (
        "_complete",
        "_max_fields",
        "_max_size",
        "_parser",
        "_upgrade",
        "_url",
        "framing",
        "headers",
        "method",
        "raw",
        "target",
        "version",
    )

    framing: Framing

    def __init__(self, max_size: int, max_fields: int) -> None:
        self._max_size = max_size
        self._max_fields = max_fields
        self._parser = HttpRequestParser(self)
        self._complete = False
        self._upgrade = False  # the fields ask for another protocol
        self._url = b""
        self.method = ""
        self.target = b""
        self.version = "1.1"
        self.headers: Headers = []
        self.raw: bytes | bytearray = b""

    @property
    def begun(self) -> bool:
        """Whether a byte of the head has come."""
        return bool(self.raw)

    def feed(self, data: bytes) -> bytes | None:
        """Read on. Gives the bytes after the head once it is whole, None while it is not.

        Raises BadRequest, HeadTooLarge or NotImplementedHere; nothing can be read after that.
        """
        if not self.raw:
            if data[0] in b"\r\n":
                data = data.lstrip(b"\r\n")  # RFC 9112 section 2.2: empty lines before a request are ignored
                if not data:
                    return None
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                self.raw = bytearray(data)
                self._parse(data)
                return None
            # The usual is that one read is one head; then neither slice copies.
            self.raw, rest = data[:end], data[end:]
            self._parse(self.raw)
        else:
            held = self.raw
            assert isinstance(held, bytearray)
            before = len(held)
            held += data
            end = held.find(b"\r\n\r\n", max(0, before - 3)) + 4
            if end < 4:
                self._parse(data)
                return None
            rest = data[end - before :]
            self.raw = bytes(held[:end])
            self._parse(data[: end - before])
        self._finish()
        return rest

    def _parse(self, data: bytes) -> None:
        if len(self.raw) > self._max_size:
            raise HeadTooLarge(f"The request head is over {self._max_size} bytes")
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._upgrade = True  # whoever reads the head decides about that
        except HttpParserError as error:
            raise BadRequest(f"The request is malformed: {error}") from None

    def _finish(self) -> None:
        """Check what a parser of the syntax alone lets through."""
        method, url = self._parser.get_method(), self._url
        del self._parser
        line = b"%b %b HTTP/1." % (method, url)
        # Exactly this: single spaces, and no version but 1.x (llhttp also takes 0.9, 2.0, RTSP and ICE).
        if not self._complete or not self.raw.startswith(line):
            raise BadRequest("The request line is malformed")
        self.version = "1.1" if self.raw[len(line)] == _ONE else "1.0"
        if len(self.headers) > self._max_fields:
            raise HeadTooLarge(f"The request has more than {self._max_fields} fields")
        if method == b"CONNECT":
            raise NotImplementedHere("CONNECT is not served here")
        try:
            self.target, authority = (url, None) if url[0] == 47 and b"#" not in url else origin_form(method, url)
            self.framing = request_framing(self.version, self.headers)
        except AmbiguousHead as error:
            raise BadRequest(f"The request is refused: {error}") from None
        if authority is not None:
            self._replace_host(authority)
        self.method = method.decode("ascii")

    def _replace_host(self, authority: bytes) -> None:
        """The authority of a target in absolute form overrules Host (RFC 9112 section 3.2.2)."""
        headers = self.headers
        for index, (name, _) in enumerate(headers):
            if name == b"host":
                headers[index] = (b"host", authority)
                return
        headers.insert(0, (b"host", authority))

    @property
    def wants_websocket(self) -> bool:
        """Whether this is a WebSocket handshake (RFC 6455 section 4.1), in so far as a server must know it."""
        return (
            self._upgrade
            and self.method == "GET"
            and self.version == "1.1"
            and self.framing.length == 0
            and any(name == b"upgrade" and value.lower() == b"websocket" for name, value in self.headers)
            and b"upgrade" in connection_options(self.headers)
        )

    # Called by the parser.

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))

    def on_headers_complete(self) -> None:
        self._complete = True
