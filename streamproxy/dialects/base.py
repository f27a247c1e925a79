"""What a route's ``protocol`` decides: how errors are said, and what is understood of the bodies that pass."""

from __future__ import annotations

from streamproxy.errors import ExchangeError
from streamproxy.formats.inspector import Inspector
from streamproxy.formats.sse import Shape
from streamproxy.wire.headers import Headers
from streamproxy.wire.media import EVENT_STREAM


class Dialect:
    """The ``http`` protocol is the base: problem+json, and nothing understood beyond the formats of streams."""

    name = "http"
    keepalive: Shape = "auto"  # what ``shape: auto`` means: a shape, or itself for the rule of plain event streams
    reads_answers = False  # responses that are no streams have an inspector, too

    def for_path(self, path: bytes) -> Dialect:
        """The dialect of a request to this path."""
        return self

    def asks_for_stream(self, path: bytes, query: bytes | None, stream: bool | None) -> bool:
        """Whether a request asks for a stream by its target, or by what ``stream`` of its body says."""
        return False

    def asks_for_events(self, path: bytes, query: bytes | None, stream: bool | None) -> bool:
        """Whether a request asks for a stream of server-sent events in the way that `asks_for_stream` knows."""
        return self.asks_for_stream(path, query, stream)

    def error(self, error: ExchangeError, request_id: str) -> tuple[Headers, bytes]:
        """The fields and the body of the response that tells a client of ``error``."""
        raise NotImplementedError

    def error_event(self, error: ExchangeError, request_id: str) -> bytes:
        """The event that tells a client of ``error`` inside a stream that has begun."""
        raise NotImplementedError

    def stream_error(self, error: ExchangeError, request_id: str, media: bytes) -> bytes:
        """`error_event` for a stream of the bare media type ``media``; empty where none can be said in it."""
        return self.error_event(error, request_id) if media == EVENT_STREAM else b""

    def count_events(self, media: bytes, body: bytes) -> int:
        """The number of events in a body that is all there, if no more than that is understood of it.

        ``media`` is as for `inspector`. 0 where an inspector has to count them.
        """
        return 0

    def inspector(self, status: int, media: bytes, has_length: bool = False) -> Inspector | None:
        """What follows the body of a response; None for a body that says nothing.

        ``media`` is a bare media type in lower case. ``has_length``: the response has a Content-Length. Only asked for
        bodies without a content coding.
        """
        raise NotImplementedError
