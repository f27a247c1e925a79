"""The heads of a connection's HTTP/1.1 requests, from bytes.

httptools (llhttp, strict) checks the syntax as the bytes come, so that garbage is refused at once. It is given the
head and nothing else: where the head ends is found here, by its empty line, which a strict parser can't see anywhere
else. What comes after that is therefore never taken for a part of the head, whatever an Upgrade field, CONNECT, or a
trailer section would make of it, and the head's size is known to the byte.

To make a parser costs more than to parse a short head with one, so a parser that has seen a request end goes on to the
next. After a head that announces a body, or says anything of its connection but keep-alive, it would expect something
that it is not given; then the next head gets a new one.
"""

from __future__ import annotations

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from streamproxy.errors import BadRequest, HeadTooLarge, NotImplementedHere
from streamproxy.wire.headers import Headers
from streamproxy.wire.http1 import NO_BODY, AmbiguousHead, Framing, connection_options, origin_form, request_framing

_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
# What frames a request, and what llhttp takes for Connection.
_NOTED = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"proxy-connection"})
_METHODS = {name.encode(): name for name in ("GET", "POST", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS")}


class RequestHead:
    """Reads one request head after the other, and holds the last.

    ``max_size`` is in bytes. After `feed` has given what follows the head, and until `forget`: ``method`` in upper
    case, ``target`` in origin form (the exact bytes), ``version`` ("1.0" or "1.1"), ``headers`` with lower-case names,
    ``framing`` of the body, ``raw``, the head as it came, and ``wants_websocket``, whether it is a WebSocket handshake
    (RFC 6455 section 4.1), in so far as a server must know it.
    """

    __slots__ = (
        "_complete",
        "_max_fields",
        "_max_size",
        "_noted",
        "_parser",
        "_upgrade",
        "framing",
        "headers",
        "method",
        "raw",
        "target",
        "version",
        "wants_websocket",
    )

    framing: Framing
    method: str
    target: bytes
    version: str

    # httptools looks for each of its callbacks, and what is not there takes longest to find.
    on_url = on_body = on_message_begin = on_message_complete = on_chunk_header = on_chunk_complete = None

    def __init__(self, max_size: int, max_fields: int) -> None:
        self._max_size = max_size
        self._max_fields = max_fields
        self._parser: HttpRequestParser | None = None  # None: the next head needs a new one
        self.forget()

    def forget(self) -> None:
        """Hold nothing of the last head, and be ready for the next."""
        self._complete = False
        self._upgrade = False  # the fields ask for another protocol
        self._noted: Headers = []
        self.headers: Headers = []
        self.raw: bytes | bytearray = b""
        self.wants_websocket = False

    def close(self) -> None:
        """No head will be read any more: let go of the parser, which refers back."""
        self.forget()
        self._parser = None

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
        if self._parser is None:
            self._parser = HttpRequestParser(self)
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._upgrade = True  # whoever reads the head decides about that
        except HttpParserError as error:
            raise BadRequest(f"The request is malformed: {error}") from None

    def _finish(self) -> None:
        """Check what a parser of the syntax alone lets through."""
        raw = self.raw
        line = raw[: raw.find(b"\r\n")].split(b" ")
        # Exactly this: single spaces, and no version but 1.x (llhttp also takes 0.9, 2.0, RTSP and ICE).
        version = _VERSIONS.get(line[-1])
        if version is None or len(line) != 3 or not self._complete:
            raise BadRequest("The request line is malformed")
        if len(self.headers) > self._max_fields:
            raise HeadTooLarge(f"The request has more than {self._max_fields} fields")
        if b" \r\n" in raw or b"\t" in raw:
            self._strip()
        method, target, _ = line
        name = _METHODS.get(method)
        if name is None:
            if method == b"CONNECT":
                raise NotImplementedHere("CONNECT is not served here")
            name = method.decode("ascii")
        self.version = version
        self.method = name
        authority = None
        try:
            if target[:1] != b"/" or b"#" in target:
                target, authority = origin_form(method, target)
            self.target = target
            self.framing = framing = request_framing(version, self._noted)
        except AmbiguousHead as error:
            raise BadRequest(f"The request is refused: {error}") from None
        if authority is not None:
            self._replace_host(authority)
        if framing is not NO_BODY or len(self._noted) != 1 or self._upgrade or version != "1.1":
            self._finish_unusual()

    def _strip(self) -> None:
        """Take the white space off the ends of the fields' values (RFC 9112 section 5.1)."""
        self.headers = [(name, value.rstrip(b" \t")) for name, value in self.headers]
        self._noted = [pair for pair in self.headers if pair[0] in _NOTED]

    def _finish_unusual(self) -> None:
        """After a head that says more of its framing than Host: what it asks for, and whether the parser can go on."""
        if self._upgrade:
            self.wants_websocket = self._is_websocket()
        if (
            self._upgrade
            or self.framing is not NO_BODY
            or self.version != "1.1"
            or any(name[-10:] == b"connection" and value.lower() != b"keep-alive" for name, value in self._noted)
        ):
            self._parser = None

    def _replace_host(self, authority: bytes) -> None:
        """The authority of a target in absolute form overrules Host (RFC 9112 section 3.2.2)."""
        headers = self.headers
        for index, (name, _) in enumerate(headers):
            if name == b"host":
                headers[index] = (b"host", authority)
                return
        headers.insert(0, (b"host", authority))

    def _is_websocket(self) -> bool:
        return (
            self.method == "GET"
            and self.version == "1.1"
            and self.framing.length == 0
            and any(name == b"upgrade" and value.lower() == b"websocket" for name, value in self.headers)
            and b"upgrade" in connection_options(self.headers)
        )

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        self.headers.append((name, value))
        if name in _NOTED:
            self._noted.append((name, value))

    def on_headers_complete(self) -> None:
        self._complete = True
