"""The state of one HTTP/2 connection (RFC 9113) for a server or a client. This is the only module that calls ngh2.

Received bytes go in through `Session.feed`, bytes to send come out of `Session.output`, and both may produce events.
Bodies are queued per stream. `output` takes from the queues what the peer's windows and the caller's limit allow, one
frame from each stream in turn, so that a short event does not wait for a long download. The client's priorities are
ignored (RFC 9218 permits this; RFC 7540's priorities are disabled).

Only `consumed` opens the receive window, after the bytes were forwarded. This is the backpressure of uploads.

Two properties of the library shape the callers. First, if a stream is to end after its queued data, `output` must have
returned all of it before `reset` is called, because a reset drops the stream's queue. Second, nothing may be called
once the connection has ended: ``closed`` says so, and the methods here then do nothing.
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

MAX_FRAME: Final = 16_384  # bytes of a frame's payload; the default, so it is not announced
STREAM_WINDOW: Final = 65_535  # bytes of a stream that may arrive before they are consumed
CONNECTION_WINDOW: Final = 1 << 24  # large enough that streams do not compete for it
_LARGEST_WINDOW: Final = (1 << 31) - 1  # the same where the peer says how many streams there are
_SETTINGS_MAX_STREAMS: Final = 0x3
_INCREMENTAL: Final = ngh2.Priority(urgency=3, incremental=True)
_NEVER: Final = ((1 << 63) - 1, 1 << 32)


class SessionFailed(Exception):
    """The peer broke a rule in a way that ends the connection, and the library does not send a frame about it.

    ``code`` is the error code for a GOAWAY frame.
    """

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Returns one frame as bytes (RFC 9113 section 4.1)."""
    size = len(payload)
    return bytes((size >> 16 & 0xFF, size >> 8 & 0xFF, size & 0xFF, kind, flags)) + stream.to_bytes(4, "big") + payload


def goaway(last_stream: int, code: int) -> bytes:
    """Returns a GOAWAY frame for a connection whose session has failed."""
    return frame(0x7, 0, 0, last_stream.to_bytes(4, "big") + code.to_bytes(4, "big"))


def unindexed(name: bytes, value: bytes) -> Any:
    """Returns a field that the peer is not to remember for later messages (RFC 7541 section 6.2.3).

    The library tells it from others by its class, which mypyc would lose with the type of a plain pair.
    """
    return ngh2.NeverIndexedHeader(name, value)


class Session:
    """One side of a connection. ``closed`` means that it has ended and `output` has returned its last bytes."""

    __slots__ = ("_connection", "_first", "closed")

    def __init__(self, connection: Any, first: bytes = b"") -> None:
        self._connection = connection
        self._first = first  # sent before everything else
        self.closed = False

    # Both directions.

    @property
    def has_output(self) -> bool:
        """Whether `output` would return something now."""
        waiting: bool = not self.closed and (bool(self._first) or self._connection.want_write)
        return waiting

    def feed(self, data: bytes) -> list[Any]:
        """Takes received bytes; returns the events. Raises SessionFailed if the connection cannot continue."""
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
        """Returns the next bytes to send, at most ``most``. Fewer mean that nothing more can be sent now.

        `events` must be called after each call.
        """
        if self.closed:
            return b""
        data: bytes = self._connection.data_to_send(most)
        if self._first:
            data, self._first = self._first + data, b""
        return data

    def events(self) -> list[Any]:
        """Returns the events since the last call of this method or of `feed`."""
        events: list[Any] = self._connection.events()
        if events and type(events[-1]) is ConnectionClosed:
            self.closed = True
        return events

    def send(self, stream: int, data: bytes, end: bool) -> bool:
        """Queues a part of a body; ``end`` marks the last. Returns False if the stream accepts no more data."""
        if self.closed:
            return False
        try:
            self._connection.send_data(stream, data, end_stream=end)
        except NGH2Error:
            return False
        return True

    def queued(self, stream: int) -> int:
        """Returns the number of queued bytes of a stream's body."""
        size: int = self._connection.queued_body_size(stream)
        return size

    def can_send(self, stream: int) -> bool:
        """Whether the peer's windows allow a stream to send. False for a stream that has ended."""
        if self.closed:
            return False
        try:
            open_: bool = self._connection.remote_window_size > 0
            return open_ and self._connection.stream_remote_window_size(stream) > 0
        except NGH2Error:
            return False

    def trailers(self, stream: int, fields: Headers) -> bool:
        """Ends a stream's body with these trailer fields, after the queued data."""
        if self.closed:
            return False
        try:
            self._connection.send_trailers(stream, fields)
        except NGH2Error:
            return False
        return True

    def reset(self, stream: int, code: int) -> None:
        """Ends a stream at once (RST_STREAM) and drops its queue."""
        if not self.closed:
            self._connection.reset_stream(stream, code)

    def consumed(self, stream: int, size: int) -> None:
        """Opens the windows by ``size`` bytes; for an ended stream, only the connection's window."""
        if size and not self.closed:
            self._connection.acknowledge_received_data(size, stream)

    def ping(self, data: bytes) -> None:
        """Sends a PING with these eight bytes."""
        if not self.closed:
            self._connection.ping(data)

    # The ends of a connection.

    def announce_end(self) -> None:
        """Asks the client to open no more streams; streams already on their way are accepted (RFC 9113 section 6.8)."""
        if not self.closed:
            self._connection.send_shutdown_notice()

    def refuse_streams(self) -> None:
        """Refuses new streams; existing ones continue."""
        if not self.closed:
            self._connection.send_goaway(NO_ERROR)

    def terminate(self, code: int) -> None:
        """Ends the connection and all streams; `output` returns the last bytes."""
        if not self.closed:
            try:
                self._connection.terminate_connection(code)
            except NGH2Error:
                self.closed = True

    # A server's side.

    def respond(self, stream: int, fields: Headers, end: bool, short: bool = False) -> bool:
        """Queues the head of a response; ``end`` if it has no body. Returns False if the stream accepts none.

        ``short`` means that its body is at most one frame. The streams take turns by frames, so such a response needs
        no priority, which costs as much as the frame.
        """
        if self.closed:
            return False
        try:
            self._connection.send_response(stream, fields, end_stream=end)
            if not short:
                self._connection.set_stream_priority(stream, _INCREMENTAL, ignore_client_signal=True)
        except NGH2Error:
            return False
        return True

    def inform(self, stream: int, fields: Headers) -> None:
        """Queues a 1xx response."""
        if not self.closed:
            with contextlib.suppress(NGH2Error):
                self._connection.send_informational_response(stream, fields)

    # A client's side.

    def request(self, fields: Headers, end: bool) -> int:
        """Queues the head of a request, ``end`` if it has no body; returns its stream.

        Raises SessionFailed if the peer accepts no more streams.
        """
        try:
            stream: int = self._connection.send_request(fields, end_stream=end)
        except NGH2Error as error:
            raise SessionFailed(NO_ERROR, str(error)) from None
        return stream

    def widen(self, stream: int, window: int) -> None:
        """Sets how many bytes of a stream may arrive before they are consumed."""
        if not self.closed:
            with contextlib.suppress(NGH2Error):
                self._connection.set_local_window_size(window, stream_id=stream)

    @property
    def peer_max_streams(self) -> int:
        """The number of concurrent streams that the peer accepts; none once the connection ends."""
        try:
            most: int = self._connection.remote_settings[_SETTINGS_MAX_STREAMS]
        except NGH2Error:
            return 0
        return most


def _code_of(error: NGH2Error) -> int:
    return ENHANCE_YOUR_CALM if isinstance(error, ngh2.DenialOfServiceError) else PROTOCOL_ERROR


def _configuration(head_size: int, continuations: int) -> ngh2.Configuration:
    return ngh2.Configuration(
        auto_window_update=False,
        max_continuations=continuations,
        max_inbound_header_list_size=head_size,
        max_inbound_header_count=head_size // 32,
        stream_reset_rate_limit=_NEVER,  # FrameGate counts resets, except those of trusted peers
    )


def server_session(max_head_size: int, head_size: int, continuations: int, max_streams: int) -> Session:
    """Returns a server's session.

    A head larger than ``head_size`` bytes ends the connection. The other two limits are announced, and the caller
    enforces them.

    The library would end the connection for one stream too many, where RFC 9113 section 5.1.2 requires only a stream
    error. So the limit is not set in the library, but added to the SETTINGS frame here.
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
    """Returns a client's session.

    ``window`` is how many bytes of a response may arrive before they are consumed, ``head_size`` the maximum size of a
    response's head in bytes.
    """
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
