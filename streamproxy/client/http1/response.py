"""A response as it comes off the wire: the parser's side of a connection, without I/O.

Theory of operation. `feed` hands bytes to httptools, whose callbacks fill ``headers`` once the head is complete; what
it takes of the body it appends to ``chunks`` itself, without a step through Python. Then one of two things ends the
response: ``done``, in good order, or ``fault``. What comes out depends on the bytes only, not on how they were split
into reads.

What the parser lets through and RFC 9112 does not is refused here, mostly by `streamproxy.wire.http1`: other protocols
that look like HTTP, versions, statuses and codings, NUL in the status line. Trailers are dropped. Of what
the parser has to keep until it is complete (a field, a chunk's extension, a trailer) at most 64 KiB are taken.

Bytes behind a complete response are not its fault: they only make the connection useless (``stray``). One exception:
the parser skips empty lines before a response, so those are not noticed in the read that ends the one before.

A callback costs 0.1 µs before it has done anything, so there are no more than it takes, and they are short. A look
at a head of our own instead (a search for its end, a pattern for its lines) was measured, too: it costs 2 µs more than
what httptools takes with all the callbacks.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable
from typing import Final

import httptools

from streamproxy.errors import BadResponse, ResponseIncomplete
from streamproxy.wire.headers import Headers
from streamproxy.wire.http1 import MAX_FIELDS, AmbiguousHead, Framing, response_framing

MAX_HEAD: Final = 65536
FOREVER: Final = float("inf")

_NO_FRAMING: Final = Framing(0, False, False)
_FRAMING_FIELDS: Final = frozenset({b"connection", b"content-length", b"transfer-encoding"})
# What nearly every stream says of its framing.
_CHUNKED_FIELDS: Final[Headers] = [(b"transfer-encoding", b"chunked")]
_CHUNKED: Final = Framing(None, True, True)
_H: Final = ord("H")
_KEEP_ALIVE_TIMEOUT: Final = re.compile(rb"(?:^|[,; \t])timeout=(\d{1,9})")

Informational = Callable[[int, Headers], None]


class _Malformed(Exception):
    """Raised through the parser: its text says what is wrong."""


_WRONG: Final = (httptools.HttpParserError, httptools.HttpParserUpgrade, _Malformed, AmbiguousHead)


class ResponseParser:
    """The responses of one connection, one after the other; each begins with `begin`.

    ``headers`` is None until the final head is complete. ``fault`` is why the response failed: BadResponse up to
    there, ResponseIncomplete behind it.
    """

    __slots__ = (
        "_fields",
        "_framing_fields",
        "_http_1_1",
        "_informational",
        "_method",
        "_parser",
        "_spoilt",
        "_unparsed",
        "chunks",
        "done",
        "fault",
        "framing",
        "headers",
        "lifetime",
        "on_body",
        "read",
        "sent",
        "status",
        "stray",
    )

    def __init__(self) -> None:
        # Of the connection.
        self.chunks: deque[bytes] = deque()
        self.on_body = self.chunks.append  # for the parser, which asks for its callbacks once
        self._parser: httptools.HttpResponseParser | None = httptools.HttpResponseParser(self)
        self._spoilt = False  # the parser expects a body that will not come
        self.lifetime = 0.0  # seconds that an idle connection lives, by its first response; 0.0 before
        self.stray = False  # something came behind a response
        # Of the response.
        self._method = ""
        self._informational: Informational | None = None
        self._fields: Headers = []
        self._framing_fields: Headers = []  # those of them that say how the body ends
        self._http_1_1 = False  # so begins the first head of the response, and it came in one read
        self._unparsed = 0  # bytes since the last one of the body
        self.read = 0  # bytes up to the read that completed the head
        self.status = 0
        self.headers: Headers | None = None
        self.framing = _NO_FRAMING
        self.sent = True  # the whole request was sent: nobody waits for a word to go ahead
        self.done = True
        self.fault: BaseException | None = None

    def begin(self, method: str, informational: Informational | None = None) -> None:
        """Make ready for the response to a request of ``method``."""
        self._method = method
        self._informational = informational
        self._fields = []
        self._framing_fields = []
        self.read = self._unparsed = 0
        self.headers = None
        self.done = False
        if self._spoilt:
            self._spoilt = False
            self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Take the next bytes of the response."""
        if self.headers is None:
            if 0 in data:  # the number: CPython 3.11 takes 0.3 µs to see that b"\0" is not one
                self._feed_around_nul(data)
                return
            if not self.read:
                begin = data[:9]
                self._http_1_1 = begin == b"HTTP/1.1 "
                if begin[0] != _H:
                    self._fail("the response does not begin with HTTP/")
                    return
            self.read += len(data)
        parser = self._parser
        assert parser is not None
        try:
            parser.feed_data(data)
        except _WRONG as error:
            self._refuse(error)
            return
        if self.chunks:
            self._unparsed = 0
        elif not self.done:
            self._unparsed += len(data)
            if self._unparsed > MAX_HEAD:
                self._fail(f"more than {MAX_HEAD} bytes of a head, a chunk's extension or a trailer")
        if self._spoilt and (self.chunks or data[-4:] != b"\r\n\r\n"):
            # Behind the head of a response to HEAD; the beginning of a chunk makes no sound.
            self.stray = True
            self.chunks.clear()

    def _feed_around_nul(self, data: bytes) -> None:
        """Take a read with a NUL in it: the parser takes one in a status line, but no head may have any."""
        at = data.find(0)
        if at:
            self.feed(data[:at])
        if self.fault is None and self.headers is None:
            self._fail("NUL in the head")
        elif self.fault is None and not self.stray:  # a parser that has refused something takes no more
            self.feed(data[at:])

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body has begun, and only the end of the connection ends it."""
        return self.headers is not None and self.framing.length is None and not self.framing.chunked

    def forget(self) -> None:
        """No more will come. The parser's callbacks are ours: this ends the cycle."""
        self._parser = None

    def go_ahead(self) -> None:
        """100 (Continue) has come, or a final head; for the subclass that waits for it."""

    # httptools

    def on_message_begin(self) -> None:
        if self.done:
            raise _Malformed("bytes behind the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.headers is not None:
            return  # a trailer
        name = name.lower()
        pair = (name, value.rstrip(b" \t"))
        if name in _FRAMING_FIELDS:
            self._framing_fields.append(pair)
        self._fields.append(pair)

    def on_headers_complete(self) -> None:
        fields = self._fields
        if len(fields) > MAX_FIELDS:
            raise _Malformed(f"more than {MAX_FIELDS} fields")
        if self.read > MAX_HEAD and sum(len(name) + len(value) + 4 for name, value in fields) > MAX_HEAD:
            raise _Malformed(f"a head of more than {MAX_HEAD} bytes")
        assert self._parser is not None
        status = self._parser.get_status_code()
        if self._framing_fields == _CHUNKED_FIELDS and status == 200 and self._http_1_1 and self._method != "HEAD":
            self.framing = _CHUNKED
        else:
            version = "1.1" if self._http_1_1 else self._parser.get_http_version()
            self.framing = response_framing(self._method, status, version, self._framing_fields)
        if status < 200:
            self._on_informational(status)
            return
        if not self.lifetime:
            self.lifetime = announced_lifetime(fields)
        self.status = status
        self.headers = fields
        if not self.sent:
            self.go_ahead()
        if self._method == "HEAD":
            # The parser does not know, and waits for the body that the fields describe.
            self._spoilt = True
            self.done = True

    def on_message_complete(self) -> None:
        if self.headers is not None:
            self.done = True

    def _on_informational(self, status: int) -> None:
        """RFC 9110 section 15.2: any number of them before the final response; 101 only when it was asked for.

        They have no body and announce none (RFC 9110 section 8.6, RFC 9112 section 6.1). The parser takes one off a
        status that it does not know, and it would stand before the final response's.
        """
        if status == 101:
            raise _Malformed("101 (Switching Protocols) without an Upgrade")
        if any(name != b"connection" for name, _ in self._framing_fields):
            raise _Malformed(f"a body announced by {status}")
        fields, self._fields = self._fields, []
        self._framing_fields = []
        self._http_1_1 = False
        if status == 100:
            self.go_ahead()
        elif self._informational is not None:
            self._informational(status, fields)

    def _refuse(self, error: BaseException) -> None:
        """What the parser, or a callback through it, says against the last bytes."""
        reason = error.__context__ if isinstance(error, httptools.HttpParserCallbackError) else error
        if not isinstance(reason, _WRONG):
            raise error  # a fault of ours, or of the informational callback
        if not self.done:
            self._fail(str(reason))
            return
        self.stray = True
        if self._spoilt:
            self.chunks.clear()

    def _fail(self, note: str) -> None:
        self.fault = (BadResponse if self.headers is None else ResponseIncomplete)(note=note)


def announced_lifetime(headers: Headers) -> float:
    """How many seconds an upstream keeps an idle connection, by the Keep-Alive field of its response.

    Less a second for the way there and back: a request that crosses the close on its way can't always be repeated.
    """
    for name, value in headers:
        if name == b"keep-alive":
            found = _KEEP_ALIVE_TIMEOUT.search(value.lower())
            if found:
                seconds = int(found[1])
                return max(seconds - 1.0, seconds / 2, 0.001)
    return FOREVER
