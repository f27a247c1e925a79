"""The errors of an exchange, and their statuses and names.

The names are those of RFC 9209 section 2.3 (Proxy-Status error types). They are the same in the ``Proxy-Status``
header, the access log and the metrics. This tree maps every exception to a status::

    StreamproxyError
    ├── ConfigError                 the configuration is wrong; carries every problem with its position
    ├── ExchangeAborted             for the ASGI server: the response must not look finished
    └── ExchangeError               why one exchange did not go well
        ├── Rejected                the proxy said no
        │   ├── NoRoute                 404 destination_not_found
        │   │   └── NoModel             the same: no route serves the model
        │   ├── StreamUnknown           404 destination_not_found: a cursor into a stream that never was
        │   ├── StreamGone              410 stream_gone
        │   ├── BadRequest              400 http_request_error
        │   ├── HeadTooLarge            431 http_request_error
        │   ├── BodyTooLarge            413 http_request_error
        │   ├── RequestTimeout          408 http_request_error
        │   ├── NotImplementedHere      501 http_request_error
        │   ├── MethodRefused           405 http_request_error
        │   ├── Denied                  401 http_request_denied
        │   │   └── KeysUnknown             503 destination_unavailable: the keys have never been read
        │   ├── LimitReached            503 connection_limit_reached (429 for a client's own limit or quota)
        │   ├── EventLimitReached       after the head: http_response_body_size
        │   └── LoopDetected            508 proxy_loop_detected
        ├── UpstreamError           the upstream could not, or did not
        │   ├── ConnectionRefused       502 connection_refused
        │   ├── DestinationUnavailable  503 destination_unavailable
        │   ├── DnsFailed               502 dns_error
        │   ├── ConnectTimeout          504 connection_timeout
        │   ├── TlsFailed               502 tls_protocol_error
        │   ├── TlsCertificateRefused   502 tls_certificate_error
        │   ├── ConnectionTerminated    502 connection_terminated, before the head
        │   ├── HeadTimeout             504 http_response_timeout
        │   ├── UpstreamBusy            503 connection_limit_reached: it asked for fewer requests
        │   ├── BadResponse             502 http_protocol_error
        │   ├── ResponseIncomplete      after the head: http_response_incomplete
        │   ├── ReadTimeout             after the head: connection_read_timeout
        │   ├── UpstreamWriteTimeout    a tunnel's upstream takes nothing: connection_write_timeout
        │   └── UpstreamReportedError   its stream said so itself: 502 (429, 529) upstream_error
        ├── ClientError             the client left, or takes nothing
        │   ├── ClientDisconnected      499, never sent
        │   └── WriteTimeout            connection_write_timeout
        ├── Stopped                 ended from the outside
        │   ├── StoppedByOperator       DELETE /streams/ID
        │   └── StoppedByShutdown       drain_timeout passed
        └── InternalError               500 proxy_internal_error, logged with its traceback

    OSError
    └── ClientLeft                  from our own server's ``send()``, as ASGI has it
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import ClassVar, Literal, NamedTuple

End = Literal[
    "complete",
    "client_disconnect",
    "upstream_truncated",
    "upstream_error",
    "timeout",
    "rejected",
    "cancelled",
    "shutdown",
    "error",
]


class StreamproxyError(Exception):
    """The base class of all errors that streamproxy raises deliberately."""


class Problem(NamedTuple):
    """A problem in a configuration. Lines and columns count from 1; ``where`` is a dotted path, or empty."""

    file: str
    line: int
    column: int
    where: str
    message: str

    def __str__(self) -> str:
        where = f"{self.where}: " if self.where else ""
        return f"{self.file}:{self.line}:{self.column}: {where}{self.message}"


class ConfigError(StreamproxyError):
    """The configuration is wrong.

    ``problems`` are all problems found, in the order of the file, without values that may be secret. The text has one
    line for each.
    """

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class ExchangeAborted(StreamproxyError):
    """Raised into the ASGI server after the response head: it closes the connection without a final chunk.

    This is not a fault of the application, so it is never logged as one.
    """


class ExchangeError(StreamproxyError):
    """Why an exchange ended badly.

    ``detail`` is one sentence for the client: no internal address, no secret, no stack trace.
    ``note`` is for the operator's log only.
    """

    error: ClassVar[str] = "proxy_internal_error"
    code: ClassVar[str] = ""  # the name of the error in LLM APIs, if they have one
    status: int = 500
    title: ClassVar[str] = "Internal error"
    end: ClassVar[End] = "error"
    close: ClassVar[bool] = False  # whether the downstream connection cannot be used again

    challenge: str = ""  # for a WWW-Authenticate header
    allow: str = ""  # for an Allow header

    fields: Sequence[tuple[bytes, bytes]] = ()  # further fields of the response

    def __init__(self, detail: str = "", *, note: str = "", retry_after: float | None = None) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.note = note
        self.retry_after = retry_after  # seconds, for a Retry-After header


# The proxy said no.


class Rejected(ExchangeError):
    end: ClassVar[End] = "rejected"


class NoRoute(Rejected):
    error, status, title = "destination_not_found", 404, "No route matches this request"


class NoModel(NoRoute):
    code, title = "model_not_found", "No route serves the model that this request asks for"


class StreamUnknown(Rejected):
    error, status, title = "destination_not_found", 404, "There is no such stream"


class StreamGone(Rejected):
    error, status, title = "stream_gone", 410, "This place of the stream is not kept any more"


class BadRequest(Rejected):
    error, status, title = "http_request_error", 400, "The request is malformed or ambiguous"


class HeadTooLarge(Rejected):
    error, status, title, close = "http_request_error", 431, "The request head is too large", True


class BodyTooLarge(Rejected):
    error, status, title, close = "http_request_error", 413, "The request body is too large", True


class RequestTimeout(Rejected):
    error, status, title, end, close = "http_request_error", 408, "The request came too slowly", "timeout", True


class UnsupportedVersion(Rejected):
    error, status, title = "http_request_error", 426, "This version of WebSocket is not supported"


class NotImplementedHere(Rejected):
    error, status, title = "http_request_error", 501, "This kind of request is not served here"


class MethodRefused(Rejected):
    error, status, title = "http_request_error", 405, "This method is not served here"
    allow = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"


class Denied(Rejected):
    error, status, title = "http_request_denied", 401, "A valid credential is needed"

    def __init__(self, detail: str = "", *, challenge: str, note: str = "") -> None:
        super().__init__(detail, note=note)
        self.challenge = challenge


class KeysUnknown(Denied):
    """A credential that cannot be checked yet, so that it is neither good nor bad."""

    error, status, title = "destination_unavailable", 503, "Credentials cannot be checked at the moment"

    def __init__(self) -> None:
        super().__init__(challenge="", note="the keys of auth.jwt.jwks_url have not been read yet")
        self.retry_after = 1.0


class LimitReached(Rejected):
    error, status, title = "connection_limit_reached", 503, "Too many streams at once"


class ClientLimitReached(LimitReached):
    status, title = 429, "Too many streams of this client at once"


class QuotaReached(ClientLimitReached):
    """A client has used up its quota of requests or tokens; ``fields`` describe the quota."""

    title = "This client has used up its quota"

    def __init__(self, detail: str, *, retry_after: float, fields: Sequence[tuple[bytes, bytes]]) -> None:
        super().__init__(detail, retry_after=retry_after)
        self.fields = fields


class EventLimitReached(Rejected):
    error, status, title = "http_response_body_size", 502, "The stream has more events than the route lets through"


class LoopDetected(Rejected):
    error, status, title = "proxy_loop_detected", 508, "The request came through this proxy before"


# The upstream could not, or did not.


class UpstreamError(ExchangeError):
    status: int = 502


class ConnectionRefused(UpstreamError):
    error, title = "connection_refused", "The upstream refused the connection"


class DestinationUnavailable(UpstreamError):
    error, status, title = "destination_unavailable", 503, "No upstream endpoint is available"


class DnsFailed(UpstreamError):
    error, title = "dns_error", "The upstream's name was not found"


class ConnectTimeout(UpstreamError):
    error, status, title, end = "connection_timeout", 504, "The upstream did not accept in time", "timeout"


class TlsFailed(UpstreamError):
    error, title = "tls_protocol_error", "TLS with the upstream failed"


class TlsCertificateRefused(UpstreamError):
    error, title = "tls_certificate_error", "The upstream's certificate was refused"


class ConnectionTerminated(UpstreamError):
    error, title = "connection_terminated", "The upstream closed before it answered"


class HeadTimeout(UpstreamError):
    error, status, title, end = "http_response_timeout", 504, "The upstream did not answer in time", "timeout"


class UpstreamBusy(UpstreamError):
    error, status, title = "connection_limit_reached", 503, "The upstream asked for fewer requests"


class BadResponse(UpstreamError):
    error, title = "http_protocol_error", "The upstream's answer is malformed or ambiguous"


class ResponseIncomplete(UpstreamError):
    error, title, end = "http_response_incomplete", "The upstream did not finish its response", "upstream_truncated"


class ReadTimeout(UpstreamError):
    error, status, title, end = "connection_read_timeout", 504, "The upstream went silent", "timeout"


class UpstreamWriteTimeout(UpstreamError):
    error, status, title, end = "connection_write_timeout", 504, "The upstream took nothing for too long", "timeout"


class UpstreamReportedError(UpstreamError):
    """The stream itself reported a failure in the form of its API.

    ``status`` is that of the API: 529 for overload, 429 for a rate limit, otherwise 502. ``payload`` is the JSON object
    ``{"error": …}`` from the upstream, for a client that has not received it.
    """

    error, title, end = "upstream_error", "The upstream reported an error", "upstream_error"

    def __init__(self, detail: str = "", *, status: int = 502, payload: bytes = b"") -> None:
        super().__init__(detail)
        self.status = status
        self.payload = payload


# The client left, or takes nothing.


class ClientError(ExchangeError):
    status = 499


class ClientDisconnected(ClientError):
    error, title, end = "connection_terminated", "The client left", "client_disconnect"


class WriteTimeout(ClientError):
    error, title, end = "connection_write_timeout", "The client took nothing for too long", "timeout"


# Ended from the outside.


class Stopped(ExchangeError):
    status = 503


class StoppedByOperator(Stopped):
    error, title, end = "connection_terminated", "The stream was ended by the operator", "cancelled"


class StoppedByShutdown(Stopped):
    error, title, end = "connection_terminated", "The proxy is shutting down", "shutdown"


class InternalError(ExchangeError):
    error, status, title = "proxy_internal_error", 500, "The proxy failed"


# What ASGI has a form for.


class ClientLeft(OSError):
    """The client has left. In this case ``send()`` raises an OSError, according to ASGI 2.4."""
