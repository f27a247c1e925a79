"""Parses the heads of a connection's HTTP/1.1 requests.

Theory of operation. A head is parsed in two parts. This module parses the request line itself: any token is a method
(RFC 9110 section 9.1), while httptools only knows a list of methods, and targets may contain bytes from 0x80 up, which
are passed on unchanged. httptools (llhttp, strict) parses the fields as they arrive; it receives a fixed request line
in place of the real one. Invalid input is refused at once in both parts, before the head ends.

The parser sees only the head. This module finds the end of the head by its empty line, which a strict parser cannot see
anywhere else. So what follows the head is never taken for a part of it, whatever an Upgrade field or a trailer section
contains, and the size of the head is exact.

A head that came twice in one piece, byte for byte, is not parsed again: clients that poll, reconnect or ask for a list
repeat theirs. One that announces a body is not remembered, since its length is another each time, nor one that ends its
connection, asks for another protocol or takes trailers. What is remembered is true on every connection of every
listener, except for their limits, which are checked each time.

Creating a parser costs more than parsing a short head, so a parser is reused for the next head. If a head announced a
body, the parser is given one of that length first, since it has not seen the real one. After a head with a very long
body, or with any Connection option except keep-alive, the next head gets a new parser.
"""

from __future__ import annotations

import re
from typing import ClassVar, Final
from urllib.parse import unquote_to_bytes

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser

from streamproxy.errors import BadRequest, HeadTooLarge, NotImplementedHere
from streamproxy.wire.chunked import LAST_CHUNK
from streamproxy.wire.headers import SPACE, TOKEN, Headers, KnownFields, lower_name, lower_names
from streamproxy.wire.http1 import (
    ANY_BODY,
    NO_BODY,
    AmbiguousHead,
    Framing,
    connection_options,
    is_host,
    is_websocket_key,
    origin_form,
    request_framing,
    takes_trailers,
)
from streamproxy.wire.remembered import KnownHeads, remember

_VERSIONS: Final = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_CONNECTION_FIELDS: Final = frozenset({b"connection", b"proxy-connection"})  # by llhttp
# Fields that frame a request, that llhttp treats as Connection, or that say how a response may end.
_NOTED: Final = frozenset({b"host", b"connection", b"content-length", b"transfer-encoding", b"proxy-connection", b"te"})


# The request line passed to the parser. It must not contradict any field.
_NEUTRAL: Final = b"GET / HTTP/1.1\r\n"
_TARGET: Final = re.compile(rb"[\x21-\x7e\x80-\xff]+")
_VERSION_BEGUN: Final = rb"(?:H(?:T(?:T(?:P(?:/(?:1(?:\.(?:[01]\r?)?)?)?)?)?)?)?)?"
_LINE_BEGUN: Final = re.compile(rb"(?:%b(?: (?:%b(?: %b)?)?)?)?" % (TOKEN.pattern, _TARGET.pattern, _VERSION_BEGUN))
_LINE_PART: Final = re.compile(rb"[\x20-\x7e\x80-\xff]*\r?")
_CHECKED_UP_TO: Final = 1024  # bytes of an incomplete line; beyond it only the characters are checked

# Method, target, version, the authority of a target in absolute form, and the target's path, raw path and query.
# (A plain tuple, because a named tuple is unpacked item by item.)
RequestLine = tuple[str, bytes, str, bytes | None, str, bytes, bytes]

_MOST_LINES: Final = 256
_LONGEST_LINE: Final = 512
# A cache of checked request lines, since clients repeat a few.
_lines: Final[dict[bytes, RequestLine]] = {}


def _checked_line(line: bytes) -> RequestLine:
    """Parses and caches a request line. Raises BadRequest or NotImplementedHere."""
    parts = line.split(b" ")
    # Strict: single spaces, and only versions 1.0 and 1.1.
    if len(parts) != 3 or parts[2] not in _VERSIONS:
        raise BadRequest("The request line is malformed")
    method, version = parts[0], _VERSIONS[parts[2]]
    if TOKEN.fullmatch(method) is None:
        raise BadRequest("The request's method is malformed")
    if method == b"CONNECT":
        raise NotImplementedHere("CONNECT is not served here")
    if _TARGET.fullmatch(parts[1]) is None:
        raise BadRequest("The request's target is malformed")
    try:
        target, authority = origin_form(method, parts[1])
    except AmbiguousHead as error:
        raise BadRequest(f"The request is refused: {error}") from None
    raw_path, _, query = target.partition(b"?")
    path = unquote_to_bytes(raw_path).decode("utf-8", "replace")
    read = (method.decode("ascii"), target, version, authority, path, raw_path, query)
    return remember(_lines, line, read, _LONGEST_LINE, _MOST_LINES)


# Of requests without a body, on connections that are kept.
known_heads: Final[KnownHeads[tuple[RequestLine, KnownFields]]] = KnownHeads()


class RequestHead:
    """Parses request heads in sequence, and holds the last one.

    ``max_size`` is in bytes. These attributes are valid after `feed` has returned the bytes behind the head, and until
    `forget`: ``method``; ``target`` in origin form (the exact bytes), and its parts ``path`` (decoded), ``raw_path``
    and ``query``; ``version`` ("1.0" or "1.1"); ``headers`` with lower-case names; the ``framing`` of the body;
    ``takes_trailers``, whether the client sent ``TE: trailers``; and ``wants_websocket``, whether the request is a
    valid WebSocket handshake (RFC 6455 section 4.1): Upgrade is exactly ``websocket``, and the key is valid. ``known``
    are its fields if it was looked up, and None if it was parsed. The caller may change the list ``headers``.
    """

    __slots__ = (
        "_authority",
        "_begun",
        "_complete",
        "_max_fields",
        "_max_size",
        "_noted",
        "_owed",
        "_parser",
        "_read",
        "_size",
        "_upgrade",
        "framing",
        "headers",
        "known",
        "method",
        "path",
        "query",
        "raw_path",
        "takes_trailers",
        "target",
        "version",
        "wants_websocket",
    )

    framing: Framing
    method: str
    target: bytes
    version: str
    path: str
    raw_path: bytes
    query: bytes

    # httptools looks up each of its callbacks, and a missing one is the slowest to look up.
    on_url: ClassVar[None] = None
    on_body: ClassVar[None] = None
    on_message_begin: ClassVar[None] = None
    on_message_complete: ClassVar[None] = None
    on_chunk_header: ClassVar[None] = None
    on_chunk_complete: ClassVar[None] = None

    def __init__(self, max_size: int, max_fields: int) -> None:
        self._max_size = max_size
        self._max_fields = max_fields
        self._parser: HttpRequestParser | None = None  # None: the next head needs a new one
        self._owed: memoryview | bytes | None = None  # the body that the parser expects before the next head
        self._authority: bytes | None = None  # the authority of a target in absolute form
        self.forget()

    def forget(self) -> None:
        """Drops the last head, and prepares for the next."""
        self._complete = False
        self._noted: Headers = []
        self.headers: Headers = []
        self.known: KnownFields | None = None
        if self._parser is None or self._begun is not None or self._owed is not None:
            self._forget_rest()

    def _forget_rest(self) -> None:
        """Resets what only a head in pieces sets, or one with more than the usual fields."""
        self._begun: bytearray | None = None
        # For a head that arrives in pieces: its last bytes, or its first line while that is incomplete.
        self._size = 0
        self._read = False  # whether its first line was parsed
        self._upgrade = False  # the fields ask for another protocol
        self.takes_trailers = False
        self.wants_websocket = False

    def close(self) -> None:
        """Releases the parser, which refers back to this object. No head can be parsed afterwards."""
        self.forget()
        self._parser = None

    @property
    def begun(self) -> bool:
        """Whether a byte of the head has arrived."""
        return self._begun is not None or self._complete

    def feed(self, data: bytes) -> bytes | None:
        """Takes the next bytes. Returns the bytes after the head once it is complete, otherwise None.

        Raises BadRequest, HeadTooLarge or NotImplementedHere; nothing can be parsed after that.
        """
        if self._begun is not None:
            return self._feed_more(self._begun, data)
        if data[0] in b"\r\n":
            data = data.lstrip(b"\r\n")  # RFC 9112 section 2.2: empty lines before a request are ignored
            if not data:
                return None
        _, end, rest = data.partition(b"\r\n\r\n")  # faster than `find` on CPython 3.11
        if not end:
            self._begun = bytearray()
            return self._feed_more(self._begun, data)
        if rest:
            data = data[: -len(rest)]
        if len(data) > self._max_size:
            self._limit(len(data))
        known = known_heads.known.get(data)
        if known is not None and len(known[1].headers) <= self._max_fields:
            line, self.known = known
            self.method, self.target, self.version, self._authority, self.path, self.raw_path, self.query = line
            self.headers = known[1].headers.copy()
            self.framing = NO_BODY
            self._complete = True
            return rest
        begin, _, fields = data.partition(b"\r\n")
        line = _lines.get(begin) or _checked_line(begin)
        self.method, self.target, self.version, self._authority, self.path, self.raw_path, self.query = line
        self._parse(_NEUTRAL + fields, True)
        lasting = self.framing is NO_BODY and not self._upgrade and not self.takes_trailers
        if lasting and known_heads.came_before(data):
            known_heads.remember(data, (line, KnownFields(self.headers.copy())))
        return rest

    def _feed_more(self, begun: bytearray, data: bytes) -> bytes | None:
        """Continues a head that arrives in pieces.

        Only the last bytes of the parsed part are kept, to find the end, so a slow head is held in memory only once.
        """
        before = len(begun)
        end = self._find_end(begun, data)
        piece = data if end < 0 else data[:end]
        self._size += len(piece)
        self._limit(self._size)
        if self._read:
            self._parse(piece, end >= 0)
            begun += piece
            del begun[:-3]
        else:
            begun += piece
            line_end = begun.find(b"\r\n", max(0, before - 1))
            if line_end < 0:
                self._check_line(begun, data)
                return None
            line = _checked_line(bytes(begun[:line_end]))
            self.method, self.target, self.version, self._authority, self.path, self.raw_path, self.query = line
            self._read = True
            self._parse(_NEUTRAL + begun[line_end + 2 :], end >= 0)
            del begun[:-3]
        return data[end:] if end >= 0 else None

    @staticmethod
    def _find_end(begun: bytearray, data: bytes) -> int:
        """Returns the index in ``data`` where the head ends; ``begun`` are its last bytes before.

        Negative if it does not.
        """
        tail = bytes(begun[-3:])
        across = (tail + data[:3]).find(b"\r\n\r\n")
        if across >= 0:
            return across + 4 - len(tail)
        at = data.find(b"\r\n\r\n")
        return at + 4 if at >= 0 else -1

    def _limit(self, size: int) -> None:
        if size > self._max_size:
            raise HeadTooLarge(f"The request head is over {self._max_size} bytes")

    def _check_line(self, begun: bytearray, data: bytes) -> None:
        """Refuses an incomplete first line that cannot become valid, at a bounded cost for each read."""
        if len(begun) <= _CHECKED_UP_TO:
            good = _LINE_BEGUN.fullmatch(begun) is not None
        else:
            good = _LINE_PART.fullmatch(data) is not None
        if not good:
            raise BadRequest("The request line is malformed")

    def _parse(self, data: bytes, last: bool) -> None:
        """Passes a part of a head to the parser, and after the ``last`` one checks what a syntax parser does not."""
        if self._parser is None:
            self._parser = HttpRequestParser(self)
        elif self._owed is not None:
            self._parser.feed_data(self._owed)
        self._owed = None
        try:
            self._parser.feed_data(data)
        except HttpParserUpgrade:
            self._upgrade = True  # handled by the connection
        except HttpParserError as error:
            raise BadRequest(f"The request is malformed: {error}") from None
        if len(self.headers) > self._max_fields:
            raise HeadTooLarge(f"The request has more than {self._max_fields} fields")
        if not last:
            return
        if not self._complete:
            raise BadRequest("The request is malformed")
        try:
            # Of most requests, Host is the only field that counts here. They have no body and keep their connection.
            noted = self._noted
            if len(noted) == 1 and noted[0][0] == b"host" and not self._upgrade and self.version == "1.1":
                if not is_host(noted[0][1]):
                    raise AmbiguousHead("Host is not a host")
                self.framing = NO_BODY
            elif not self._is_plain():
                self._finish_framing()
        except AmbiguousHead as error:
            raise BadRequest(f"The request is refused: {error}") from None
        if self._authority is not None:
            self._replace_host(self._authority)

    def _is_plain(self) -> bool:
        """Whether the request has no body and its connection is kept, so that its framing is known."""
        host = None
        for name, value in self._noted:
            if name == b"host" and host is None:
                host = value
            elif name != b"connection" or value.lower() != b"keep-alive":
                return False
        if host is None or self._upgrade or self.version != "1.1" or not is_host(host):
            return False
        self.framing = NO_BODY
        return True

    def _finish_framing(self) -> None:
        self.framing = framing = request_framing(self.version, self._noted)
        self._owed = self._unseen_body(framing)
        if self._owed is None:
            self._parser = None
        self.takes_trailers = self.version == "1.1" and takes_trailers(self._noted)
        if self._upgrade:
            self.wants_websocket = self._is_websocket()

    def _unseen_body(self, framing: Framing) -> memoryview | bytes | None:
        """Returns a body such as the head announced, or None if the parser can't be used for another head."""
        if self._upgrade or self.version != "1.1":
            return None
        for name, value in self._noted:
            if name in _CONNECTION_FIELDS and value.lower() != b"keep-alive":
                return None
        if framing.chunked:
            return LAST_CHUNK
        length = framing.length or 0
        return ANY_BODY[:length] if length <= len(ANY_BODY) else None

    def _replace_host(self, authority: bytes) -> None:
        """Replaces Host by the authority of a target in absolute form (RFC 9112 section 3.2.2)."""
        headers = self.headers
        for index, (name, _) in enumerate(headers):
            if name == b"host":
                headers[index] = (b"host", authority)
                return
        headers.insert(0, (b"host", authority))

    def _is_websocket(self) -> bool:
        if self.method != "GET" or self.version != "1.1" or self.framing.length != 0:
            return False
        asked = [value.lower() for name, value in self.headers if name == b"upgrade"]
        keys = [value for name, value in self.headers if name == b"sec-websocket-key"]
        return (
            asked == [b"websocket"]
            and b"upgrade" in connection_options(self._noted)
            and len(keys) == 1
            and is_websocket_key(keys[0])
        )

    # Called by the parser.

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = lower_names.get(name)
        if lower is None:
            lower = lower_name(name)
        if value and value[-1] <= SPACE:
            value = value.rstrip()  # the parser accepts no other white space than spaces and tabs
        pair = (lower, value)
        self.headers.append(pair)
        if lower in _NOTED:
            self._noted.append(pair)

    def on_headers_complete(self) -> None:
        self._complete = True
