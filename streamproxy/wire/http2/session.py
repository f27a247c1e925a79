"""The state of one HTTP/2 connection (RFC 9113), for a server or a client: the only module that calls ngh2.

Bytes that came go in by `Session.feed`, bytes to send come out of `Session.output`, and both may leave events. What is
sent is queued a stream, and `output` takes from the queues what the peer's windows and the caller's limit allow: all
streams in turn, a frame each, so that a short event does not wait for a long download. The client's wishes for
another order are ignored (RFC 9218 lets a server do that; RFC 7540's priorities are switched off).

The receive window is given back by `consumed` only, once the bytes have gone on: that is the backpressure of uploads.

Two rules of the library's shape the callers. `output` must have returned everything that is queued before `reset` is
called for a stream that is to end behind what was queued: a reset that is submitted drops the stream's queue. And when
the connection has ended nothing may be called any more: ``closed`` says so, and the methods here do nothing then.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import ngh2
from ngh2 import (
    ConnectionClosed,
    DataReceived,
    GoAwayReceived,
    InformationalResponseReceived,
    NGH2Error,
    PingAcknowledged,
    RequestReceived,
    ResponseReceived,
    SettingsReceived,
    StreamClosed,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)

from streamproxy.wire.headers import Headers

__all__ = [
    "ConnectionClosed",
    "DataReceived",
    "GoAwayReceived",
    "InformationalResponseReceived",
    "PingAcknowledged",
    "RequestReceived",
    "ResponseReceived",
    "Session",
    "SessionFailed",
    "SettingsReceived",
    "StreamClosed",
    "StreamReset",
    "TrailersReceived",
    "WindowUpdated",
]

# Error codes (RFC 9113 section 7).
NO_ERROR: Final = 0x0
PROTOCOL_ERROR: Final = 0x1
INTERNAL_ERROR: Final = 0x2
REFUSED_STREAM: Final = 0x7
CANCEL: Final = 0x8
ENHANCE_YOUR_CALM: Final = 0xB

MAX_FRAME: Final = 16_384  # bytes of a frame's payload; what we announce, by saying nothing of it
STREAM_WINDOW: Final = 65_535  # bytes of a stream that may come before they are consumed
CONNECTION_WINDOW: Final = 1 << 24  # enough for every stream's own, so that no stream takes it from another
_LARGEST_WINDOW: Final = (1 << 31) - 1  # the same where the peer says how many streams there are
_SETTINGS_MAX_STREAMS: Final = 0x3
_INCREMENTAL: Final = ngh2.Priority(urgency=3, incremental=True)
_NEVER: Final = ((1 << 63) - 1, 1 << 32)


class SessionFailed(Exception):
    """The peer broke a rule so that the connection can't go on, and no frame of the library's says so.

    ``code`` is the error for a GOAWAY frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame as bytes (RFC 9113 section 4.1)."""
    size = len(payload)
    return bytes((size >> 16 & 0xFF, size >> 8 & 0xFF, size & 0xFF, kind, flags)) + stream.to_bytes(4, "big") + payload


def goaway(last_stream: int, code: int) -> bytes:
    """A GOAWAY frame, for a connection whose session has failed."""
    return frame(0x7, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big"))


class Session:
    """One side of a connection. ``closed``: it has ended, and its last bytes were returned by `output`."""

    __slots__ = ("_connection", "_first", "closed")

    def __init__(self, connection: Any, first: bytes = b"") -> None:
        self._connection = connection
        self._first = first  # what goes out before everything else
        self.closed = False

    # Both directions.

    def feed(self, data: bytes) -> list[Any]:
        """Take what came; returns the events. Raises SessionFailed when the connection can't go on."""
        if self.closed:
            return []
        connection = self._connection
        try:
            connection.receive_data(data)
        except NGH2Error as error:
            self.closed = True
            raise SessionFailed(_code_of(error), str(error)) from None
        return self.events()

    def output(self, most: int) -> bytes:
        """The next bytes to send, at most so many; fewer mean that nothing more can be sent now.

        `events` has to be asked behind each call.
        """
        if self.closed:
            return b""
        data: bytes = self._connection.data_to_send(most)
        if self._first:
            data, self._first = self._first + data, b""
        return data

    def events(self) -> list[Any]:
        """What has happened since the last call of this or of `feed`."""
        events: list[Any] = self._connection.events()
        if events and type(events[-1]) is ConnectionClosed:
            self.closed = True
        return events

    def send(self, stream: int, data: bytes, end: bool) -> bool:
        """Queue some of a body, the last of it if ``end``. Returns False when the stream takes no more."""
        if self.closed:
            return False
        try:
            self._connection.send_data(stream, data, end_stream=end)
        except NGH2Error:
            return False
        return True

    def queued(self, stream: int) -> int:
        """How many bytes of a stream's body wait to be sent."""
        size: int = self._connection.queued_body_size(stream)
        return size

    def can_send(self, stream: int) -> bool:
        """Whether the peer's windows let a stream send now. False for a stream that is gone."""
        if self.closed:
            return False
        try:
            open_: bool = self._connection.remote_window_size > 0
            return open_ and self._connection.stream_remote_window_size(stream) > 0
        except NGH2Error:
            return False

    def trailers(self, stream: int, fields: Headers) -> bool:
        """End a stream's body with these fields, behind what is queued."""
        if self.closed:
            return False
        try:
            self._connection.send_trailers(stream, fields)
        except NGH2Error:
            return False
        return True

    def reset(self, stream: int, code: int) -> None:
        """End a stream at once (RST_STREAM); what is queued of it is dropped."""
        if not self.closed:
            self._connection.reset_stream(stream, code)

    def consumed(self, stream: int, size: int) -> None:
        """Give back so much of the windows; of a stream that is gone, of the connection's alone."""
        if size and not self.closed:
            self._connection.acknowledge_received_data(size, stream)

    def ping(self, data: bytes) -> None:
        """Ask for a sign of life with these eight bytes."""
        if not self.closed:
            self._connection.ping(data)

    # The ends of a connection.

    def announce_end(self) -> None:
        """Ask the client to open no more streams; those on their way are still taken (RFC 9113 section 6.8)."""
        if not self.closed:
            self._connection.send_shutdown_notice()

    def refuse_streams(self) -> None:
        """Take no stream any more but those that there are."""
        if not self.closed:
            self._connection.send_goaway(NO_ERROR)

    def terminate(self, code: int) -> None:
        """End the connection with everything in it; `output` has the last bytes."""
        if not self.closed:
            try:
                self._connection.terminate_connection(code)
            except NGH2Error:
                self.closed = True

    # A server's side.

    def respond(self, stream: int, fields: Headers, end: bool) -> bool:
        """Queue the head of a response, the whole of it if ``end``. Returns False when the stream takes none."""
        if self.closed:
            return False
        try:
            self._connection.send_response(stream, fields, end_stream=end)
            self._connection.set_stream_priority(stream, _INCREMENTAL, ignore_client_signal=True)
        except NGH2Error:
            return False
        return True

    def inform(self, stream: int, fields: Headers) -> None:
        """Queue a 1xx response."""
        if not self.closed:
            with contextlib.suppress(NGH2Error):
                self._connection.send_informational_response(stream, fields)

    # A client's side.

    def request(self, fields: Headers, end: bool) -> int:
        """Queue the head of a request, the whole of it if ``end``; returns its stream. Raises SessionFailed when the
        peer takes none any more."""
        try:
            stream: int = self._connection.send_request(fields, end_stream=end)
        except NGH2Error as error:
            raise SessionFailed(NO_ERROR, str(error)) from None
        return stream

    def widen(self, stream: int, window: int) -> None:
        """Let so many bytes of a stream come before they are consumed."""
        if not self.closed:
            with contextlib.suppress(NGH2Error):
                self._connection.set_local_window_size(window, stream_id=stream)

    @property
    def peer_max_streams(self) -> int:
        """How many streams the peer takes at once."""
        most: int = self._connection.remote_settings[_SETTINGS_MAX_STREAMS]
        return most


def _code_of(error: NGH2Error) -> int:
    return ENHANCE_YOUR_CALM if isinstance(error, ngh2.DenialOfServiceError) else PROTOCOL_ERROR


def _configuration(head_size: int, continuations: int) -> ngh2.Configuration:
    return ngh2.Configuration(
        auto_window_update=False,
        max_continuations=continuations,
        max_inbound_header_list_size=head_size,
        max_inbound_header_count=head_size // 32,
        stream_reset_rate_limit=_NEVER,  # counted by FrameGate, which knows whom to trust
    )


def server_session(max_head_size: int, head_size: int, continuations: int, max_streams: int) -> Session:
    """A server's side. ``head_size`` is what a head may have before the connection ends, in bytes; the other two are
    announced, and for the caller to keep.

    The library would end the connection for one stream too many, where RFC 9113 section 5.1.2 has an error of that
    stream. So the library does not know of the limit, and it is put into the SETTINGS frame here.
    """
    connection = ngh2.Connection(ngh2.Role.SERVER, _configuration(head_size, continuations))
    setting = ngh2.Setting
    connection.initiate_connection(
        {
            setting.INITIAL_WINDOW_SIZE: STREAM_WINDOW,
            setting.MAX_HEADER_LIST_SIZE: max_head_size,
            setting.NO_RFC7540_PRIORITIES: 1,
        }
    )
    connection.set_local_window_size(CONNECTION_WINDOW)
    settings = connection.data_to_send()
    size = int.from_bytes(settings[:3], "big")
    entry = _SETTINGS_MAX_STREAMS.to_bytes(2, "big") + max_streams.to_bytes(4, "big")
    announced = frame(0x4, 0, 0, settings[9 : 9 + size] + entry) + settings[9 + size :]
    return Session(connection, announced)


def client_session(window: int, head_size: int, continuations: int) -> Session:
    """A client's side. ``window`` is how many bytes of a response may come before they are consumed, ``head_size`` the
    largest head of a response that is taken."""
    connection = ngh2.Connection(ngh2.Role.CLIENT, _configuration(head_size, continuations))
    setting = ngh2.Setting
    connection.initiate_connection(
        {
            setting.ENABLE_PUSH: 0,
            setting.INITIAL_WINDOW_SIZE: window,
            setting.MAX_HEADER_LIST_SIZE: head_size,
            setting.NO_RFC7540_PRIORITIES: 1,
        }
    )
    connection.set_local_window_size(_LARGEST_WINDOW)
    return Session(connection)
