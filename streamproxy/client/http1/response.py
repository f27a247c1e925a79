"""Parses the responses of a connection, without I/O.

Theory of operation. A response is a head, perhaps preceded by informational responses, and a body::

    HEAD ──▶ (1xx: HEAD) ──▶ BODY ──▶ done
      └──────────┴─────────────┴────▶ fault

`streamproxy.client.http1.response_head` parses the heads. This module removes the framing of the body: by counting, by
`streamproxy.wire.chunked`, or up to the end of the connection. `feed` returns the body. The result depends on the bytes
only, not on how they were split into reads.

Bytes after a complete response are no error of the response: they only make the connection unusable (``stray``). After
a requested 101 they are the first bytes of another protocol (``rest``).
"""

from __future__ import annotations

from streamproxy.client.http1.response_head import HeadParser
from streamproxy.errors import BadResponse, ResponseIncomplete
from streamproxy.wire.chunked import ChunkedDecoder, ChunkError
from streamproxy.wire.status import PHRASES


class ResponseParser(HeadParser):
    """Parses the responses of one connection in turn; each begins with `begin`.

    `HeadParser` describes further attributes. ``chunks`` is the decoder of a chunked body while it is being read.
    ``fault`` is BadResponse up to the head, ResponseIncomplete after it.
    """

    __slots__ = ("_decoder", "_left", "chunks", "rest", "stray")

    def __init__(self) -> None:
        super().__init__()
        self._decoder: ChunkedDecoder | None = None
        self._left = 0  # the missing bytes of a sized body
        self.stray = False  # whether bytes followed a response, or came before the first request
        self.chunks: ChunkedDecoder | None = None
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Parses the next bytes of the response. Returns the parts of the body among them."""
        if self.headers is None:
            data = self.feed_head(data)
            if not data:
                return b""
        if self.done:
            self._behind(data)
            return b""
        if self.chunks is not None:
            return self._feed_chunks(self.chunks, data)
        if self.framing.length is None:
            return data
        size = len(data)
        if size > self._left:
            self._behind(data[self._left :])
            data = data[: self._left]
        self._left -= len(data)
        self.done = not self._left
        return data

    @property
    def ends_with_connection(self) -> bool:
        """Whether the body has begun and is delimited by the end of the connection."""
        return self.headers is not None and self.framing.length is None and not self.framing.chunked

    def _finish_head(self, status: int) -> None:
        self.status = status
        self.headers = self._fields
        self._informational = None
        if self.reason and self.reason == PHRASES.get(status):
            self.reason = b""
        framing = self.framing
        if framing.chunked:
            decoder = self._decoder
            if decoder is None:
                decoder = self._decoder = ChunkedDecoder()
            else:
                decoder.reset()
            self.chunks = decoder
        elif framing.length is not None:
            self._left = framing.length
            self.done = not framing.length

    def _feed_chunks(self, decoder: ChunkedDecoder, data: bytes) -> bytes:
        try:
            body = decoder.feed(data)
        except ChunkError as error:
            self._fail(str(error))
            return error.body
        if decoder.done:
            self.done = True
            self.chunks = None
            self.trailers = decoder.trailers
            if decoder.rest:
                self._behind(decoder.rest)
        return body

    def _behind(self, data: bytes) -> None:
        """Handles bytes after the end of the response."""
        if self.upgraded:
            self.rest += data
        else:
            self.stray = True

    def _fail(self, note: str) -> None:
        self.chunks = None
        self.fault = (BadResponse if self.headers is None else ResponseIncomplete)(note=note)
