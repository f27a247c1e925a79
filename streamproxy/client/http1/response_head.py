"""Parses the heads of a connection's HTTP/1.1 responses, without I/O.

Theory of operation. httptools (llhttp, strict) checks heads as their bytes arrive, so that garbage is refused at once.
It receives heads only: this module finds the end of a head by its empty line, which a strict parser accepts nowhere
else. Anything that the parser accepts but RFC 9112 does not is refused here, mostly by `streamproxy.wire.http1`:
protocols that look like HTTP, invalid versions, statuses and codings, and NUL in the status line. All heads of one
response may have 64 KiB together.

The parser of a connection is told about the bodies that it has not seen, or replaced if that costs more. It has as few
callbacks as possible. It is not asked about a final head that came in one piece and had come twice, unless the request
was HEAD: what such a head says depends on nothing but its bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

import httptools

from streamproxy.client.http1.known import KnownResponse, known_heads
from streamproxy.wire.chunked import LAST_CHUNK
from streamproxy.wire.headers import SPACE, Headers, lower_name, lower_names
from streamproxy.wire.http1 import ANY_BODY, MAX_FIELDS, AmbiguousHead, Framing, connection_options, response_framing
from streamproxy.wire.times import FOREVER

MAX_HEAD: Final = 65536

_NO_FRAMING: Final = Framing(0, False, False)
_NO_TRAILERS: Final[Headers] = []
_FRAMING_FIELDS: Final = frozenset({b"connection", b"content-length", b"proxy-connection", b"transfer-encoding"})
# The framing of nearly every stream.
_CHUNKED_FIELDS: Final[Headers] = [(b"transfer-encoding", b"chunked")]
_CHUNKED: Final = Framing(None, True, True)
_H: Final = ord("H")
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"(?:^|[,; \t])timeout=(\d{1,9})")
# The start of nearly every response.
_OK: Final = b"HTTP/1.1 200 OK\r\n"
_OK_LENGTH: Final = len(_OK)
_PHRASE_AT: Final = 13  # in a status line
_END: Final = b"\r\n\r\n"

Informational = Callable[[int, Headers], None]


class _Malformed(Exception):
    """Raised through the parser; the text says what is wrong."""


_WRONG: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade, _Malformed, AmbiguousHead)


class HeadParser:
    """Parses the heads of the responses of one connection in turn; each begins with `begin`.

    ``headers`` is None until the final head is complete. ``status``, ``reason`` (empty if it is the standard phrase),
    ``http_version`` ("1.0" or "1.1") and ``framing`` are set together with it. ``continued`` is whether 100 (Continue)
    was received. ``known`` is what is remembered of the final head, or None; nothing may change ``headers``.

    A subclass parses the body. ``done`` is whether the response is complete, ``trailers`` are the fields after its
    body, with lower-case names, and ``fault`` is why it failed.
    """

    __slots__ = (
        "_begun",
        "_fields",
        "_framing_fields",
        "_heads",
        "_informational",
        "_line",
        "_method",
        "_parser",
        "_stale",
        "_tail",
        "_upgrade",
        "continued",
        "done",
        "fault",
        "framing",
        "headers",
        "http_version",
        "known",
        "lifetime",
        "read",
        "reason",
        "status",
        "trailers",
        "upgraded",
    )

    def __init__(self) -> None:
        # Of the connection.
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._stale = False  # whether the parser expects the body of the last response
        self.lifetime = 0.0  # how many seconds the connection may be idle, by its first response; 0.0 before it
        # Of the head that is being read.
        self._begun = False
        self._line = b""  # the first line so far
        self._tail = b""  # its last bytes, which may be the start of the empty line
        self._fields: Headers = []
        self._framing_fields: Headers = []  # those that determine the end of the body
        # Of the response.
        self._method = ""
        self._informational: Informational | None = None
        self._upgrade = False
        self._heads = 0  # the number of complete ones
        self.read = 0  # bytes of its heads
        self.status = 0
        self.reason = b""
        self.http_version = "1.1"
        self.headers: Headers | None = None
        self.known: KnownResponse | None = None
        self.framing = _NO_FRAMING
        self.continued = False
        self.done = True
        self.trailers = _NO_TRAILERS
        self.upgraded = False
        self.fault: BaseException | None = None

    def begin(self, method: str, informational: Informational | None = None, upgrade: bool = False) -> None:
        """Prepares for the response to a request with ``method``.

        With ``upgrade``, 101 (Switching Protocols) is a final response, and sets ``upgraded``.
        """
        self._method = method
        self._informational = informational
        self._upgrade = upgrade
        self._heads = self.read = 0
        self.headers = None
        self.known = None
        self.trailers = _NO_TRAILERS
        self.continued = self.done = False
        if self._stale:
            if self.framing is _CHUNKED and self._parser is not None:  # nearly every stream
                self._stale = False
                self._parser.feed_data(LAST_CHUNK)
            else:
                self._renew()
        self._begun = False
        self._line = self._tail = b""
        self._fields = []
        self._framing_fields = []

    def feed_head(self, data: bytes) -> bytes:
        """Parses the next bytes up to the end of the final head. Returns those behind it; none on a fault."""
        while self.headers is None:
            heads, whole = self._heads, False
            if self._tail:
                data, rest = self._split_head(data)
            else:
                head, found, rest = data.partition(_END)  # faster than `find` on CPython 3.11
                if not found:
                    self._tail = data[-3:]
                else:
                    if rest:
                        data = head + _END
                    whole = not heads and self._method != "HEAD"
            known = known_heads.known.get(data) if whole else None
            if known is not None:
                self._recall(known, len(data))
            else:
                self._feed(data)
                if self._tail or self.fault is not None:
                    return b""
                if self._heads == heads:
                    self._fail("an empty line before the end of the head")
                    return b""
                if whole and known_heads.came_before(data):
                    self._remember(data)
            if not rest:
                return b""
            data = rest
        return data

    def forget(self) -> None:
        """Ends parsing, and breaks the reference cycle with the parser, whose callbacks are methods."""
        self._parser = None

    # httptools

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = lower_names.get(name)
        if lower is None:
            lower = lower_name(name)
        if value and value[-1] <= SPACE:
            raw, value = value, value.rstrip(b" \t")
            if lower == b"transfer-encoding":  # as it came, since the parser takes no coding before a tab for chunked
                self._framing_fields.append((lower, raw))
                self._fields.append((lower, value))
                return
        pair = (lower, value)
        if lower in _FRAMING_FIELDS:
            self._framing_fields.append(pair)
        self._fields.append(pair)

    def on_headers_complete(self) -> None:
        self._heads += 1
        fields = self._fields
        if len(fields) > MAX_FIELDS:
            raise _Malformed(f"more than {MAX_FIELDS} fields")
        assert self._parser is not None
        status = self._parser.get_status_code()
        noted = self._framing_fields
        if noted == _CHUNKED_FIELDS and status == 200 and self.http_version == "1.1" and self._method != "HEAD":
            self.framing = _CHUNKED
        else:
            self.framing = response_framing(self._method, status, self.http_version, noted)
        if status < 200:
            self._on_informational(status)
            return
        if not self.lifetime:
            self.lifetime = announced_lifetime(fields)
        self._stale = True
        self._finish_head(status)

    # Parts of the above.

    def _recall(self, known: KnownResponse, size: int) -> None:
        """Takes what is known of a head of ``size`` bytes. The parser has not seen it, and expects no body."""
        self.known = known
        self.read = size
        self._heads = 1
        self.reason, self.http_version, self.framing = known.reason, known.http_version, known.framing
        if not self.lifetime:
            self.lifetime = announced_lifetime(known.headers)
        self._fields = known.headers
        self._finish_head(known.status)

    def _remember(self, data: bytes) -> None:
        """Remembers a head, if it was the final one of a response."""
        headers = self.headers
        if headers is not None and not self.upgraded:
            known = KnownResponse(self.status, self.reason, self.http_version, headers, self.framing)
            known_heads.remember(data, known)

    def _begin_head(self) -> None:
        self._begun = False
        self._line = self._tail = b""
        self._fields = []
        self._framing_fields = []

    def _split_head(self, data: bytes) -> tuple[bytes, bytes]:
        """Splits a read after the end of a head that began in an earlier one; ``_tail`` stays set without that end."""
        tail = self._tail
        across = (tail + data[:3]).find(_END)  # the empty line may be split between two reads
        at = across - len(tail) if across >= 0 else data.find(_END)
        if across < 0 and at < 0:
            self._tail = (tail + data[-3:])[-3:]
            return data, b""
        self._tail = b""
        return data[: at + 4], data[at + 4 :]

    def _feed(self, data: bytes) -> None:
        """Parses a part of a head, at most up to its end."""
        self.read += len(data)
        if self.read > MAX_HEAD:
            self._fail(f"heads of more than {MAX_HEAD} bytes")
            return
        if 0 in data:  # the number, because b"\0" is slower on CPython 3.11
            self._fail("NUL in the head")  # the parser accepts it in a status line
            return
        if not self._begun:
            if data[0] != _H:
                self._fail("the response does not begin with HTTP/")
                return
            self._begun = True
            if data[:_OK_LENGTH] == _OK:  # a slice costs less than `startswith`
                self.reason, self.http_version = b"", "1.1"
            else:
                self._note_line(data)
        elif self._line:
            self._note_line(self._line + data)
        parser = self._parser
        assert parser is not None
        try:
            parser.feed_data(data)
        except _WRONG as error:
            self._refuse(error)

    def _note_line(self, begun: bytes) -> None:
        """Collects the first line of a head, and then takes version and reason phrase from it."""
        line, end, _ = begun.partition(b"\r\n")
        if not end:
            self._line = begun
            return
        self._line = b""
        self.reason, self.http_version = line[_PHRASE_AT:], line[5:8].decode("latin-1")

    def _finish_head(self, status: int) -> None:
        """Handles the end of a valid final head, whose fields and framing are known."""
        raise NotImplementedError

    def _on_informational(self, status: int) -> None:
        """Handles an informational response. There may be any number of them before the final response.

        101 must have been requested (RFC 9110 section 15.2). They have no body and announce none (RFC 9110 section 8.6,
        RFC 9112 section 6.1).
        """
        if any(name in (b"content-length", b"transfer-encoding") for name, _ in self._framing_fields):
            raise _Malformed(f"a body announced by {status}")
        if status == 101:
            named = any(name == b"upgrade" for name, _ in self._fields)
            if not (self._upgrade and named and b"upgrade" in connection_options(self._framing_fields)):
                raise _Malformed("101 (Switching Protocols) without an Upgrade")
            if self.http_version != "1.1":
                raise _Malformed("101 (Switching Protocols) by HTTP/1.0, which has none")
            self.upgraded = self._stale = True
            self.framing = _NO_FRAMING  # and the connection carries no further request
            self._finish_head(status)
            return
        fields = self._fields
        self._begin_head()
        if status == 100:
            self.continued = True
        elif self._informational is not None:
            self._informational(status, fields)

    def _renew(self) -> None:
        """Makes the parser expect a new response after the body of the last one, which it has not received."""
        self._stale = False
        fields = [field for field in self._framing_fields if field[0] != b"connection"]
        name, value = fields[0] if fields else (b"", b"")
        if not self.framing.keep_alive or self._parser is None or len(fields) > 1 or name == b"proxy-connection":
            self._parser = httptools.HttpResponseParser(self)  # Proxy-Connection may be a close for the parser alone
        elif self.status in (204, 304):
            pass  # as the parser knows
        elif self.framing.chunked and value.lower() == b"chunked":
            self._parser.feed_data(LAST_CHUNK)
        elif not self.framing.chunked and int(value) <= len(ANY_BODY):
            self._parser.feed_data(ANY_BODY[: int(value)])
        else:
            self._parser = httptools.HttpResponseParser(self)

    def _refuse(self, error: BaseException) -> None:
        """Handles an error of the parser, or of a callback through it."""
        if self.upgraded and isinstance(error, httptools.HttpParserUpgrade):
            return
        reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
        if not isinstance(reason, _WRONG):
            raise error  # a bug, also in the informational callback
        self._fail(str(reason))

    def _fail(self, note: str) -> None:
        raise NotImplementedError


def announced_lifetime(headers: Headers) -> float:
    """Returns for how many seconds an upstream keeps an idle connection, by the Keep-Alive field of its response.

    One second less than announced, for the round trip: a request that crosses the close cannot always be repeated.
    """
    for name, value in headers:
        if name == b"keep-alive":
            found = _KEEP_ALIVE_TIMEOUT.search(value.lower())
            if found:
                seconds = int(found[1])
                return max(seconds - 1.0, seconds / 2, 0.001)
    return FOREVER
