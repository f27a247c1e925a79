"""One exchange: a request and its response, from the choice of a route to its end.

An `Exchange` holds the facts of one request. Each part of the proxy records in it what happened; metrics, the access
log and the admin listener read it and do not count themselves. It passes through the phases in order::

    queue ──▶ connect ──▶ request ──▶ head ──▶ body
              (endpoint,  (sending    (waiting  (chunks)
               socket)     the body)   for it)

and may end in any of them. It ends once: `Ledger.close` removes it from the live set, settles it, and calls every
observer. `interrupt` ends it from outside (a disconnect, a timeout, the operator, a drain): it stores the reason and
cancels the exchange's task, and `handle` converts the cancellation back to that reason.

Waits. Each measured wait has a start time, and counts for as long as it has lasted, whether it continues, ended
normally or was cut off. ``queued_at`` and ``blocked_since`` are 0.0 while there is no such wait. The code that waits
sets them; in a ``finally`` it adds the wait to ``queued`` or ``backpressure`` and resets them to 0.0. The other waits
are derived from the facts: the methods named ``…_until`` take the present time. `settle` ends all open waits, so that
every wait has its final value afterwards.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import Final, Literal

from streamproxy.errors import ClientError, End, ExchangeError, UpstreamError
from streamproxy.exchange.clock import monotonic, wall_clock
from streamproxy.exchange.extension import Cancellable
from streamproxy.exchange.histogram import OTHER_MODEL, TIME_BUCKETS, GapHistograms, GapKey, Histogram
from streamproxy.formats.inspector import Inspector, Usage
from streamproxy.wire.trace import Trace

__all__ = ["CLIENT_LEFT", "TIME_BUCKETS", "Exchange", "Phase", "new_request_id"]

Phase = Literal["queue", "connect", "request", "head", "body"]

CLIENT_LEFT: Final = 499  # the status of an exchange that sent none: nginx's "client closed request"
# A silence of at least this long before a normal end counts as a gap; a shorter one does not.
LAST_GAP: Final = 0.1  # seconds
LONGEST_NAME: Final = 128  # characters of a name from a request or a response


_PROCESS: Final = secrets.token_hex(8)
_LAST_DIGITS: Final = [f"{number:03x}" for number in range(4096)]


class _RequestIds:
    """The next number of a request id, and the digits that it shares with its neighbours."""

    __slots__ = ("first_digits", "number")

    def __init__(self) -> None:
        self.number = 0
        self.first_digits = ""


_ids: Final = _RequestIds()


def new_request_id() -> str:
    """Returns a request id: 24 hexadecimal characters, unique and unpredictable from outside the process."""
    ids = _ids
    number = ids.number
    ids.number = number + 1
    last = number & 0xFFF
    if not last:
        ids.first_digits = _PROCESS + f"{(number >> 12) & 0xFFFFF:05x}"
    return ids.first_digits + _LAST_DIGITS[last]  # cheaper than formatting


class Exchange:
    """The facts of one request. Times are in seconds of the monotonic clock; 0.0 for what has not happened."""

    __slots__ = (
        "abandoned",
        "affinity",
        "attempts",
        "backpressure",
        "blocked_since",
        "catch_up",
        "chunks",
        "client",
        "ended_at",
        "endpoint",
        "error",
        "events",
        "failure",
        "finish_reason",
        "first_byte_at",
        "first_event_at",
        "gap",
        "gap_sum",
        "gap_sum_before",
        "gaps",
        "head_at",
        "held",
        "id",
        "inspector",
        "interruption",
        "keepalives",
        "last_read_at",
        "method",
        "model",
        "operation",
        "path",
        "phase",
        "principal",
        "protocol",
        "provider",
        "query",
        "queued",
        "queued_at",
        "request_bytes",
        "request_id",
        "request_model",
        "request_read_at",
        "response_bytes",
        "retries",
        "route",
        "sent_at",
        "started_at",
        "started_wall",
        "status",
        "stream",
        "streaming",
        "task",
        "trace",
        "trace_id",
        "trusted",
        "upstream",
        "usage",
    )

    # Positional arguments only: keyword arguments of a class are slow when compiled.
    def __init__(self, request_id: str, route: str, upstream: str, method: str, path: str) -> None:
        # Identity.
        self.request_id = request_id
        self.id = request_id  # the key in the ledger: differs if a live exchange has the same request id
        self.route = route
        self.upstream = upstream
        self.endpoint = ""  # the URL of the chosen endpoint
        self.client = ""  # the client's address, without its port
        self.affinity: bytes | None = None  # a hash of the beginning of its conversation, to choose an endpoint
        self.trusted = False  # whether the peer is a trusted proxy
        self.principal = ""  # the authenticated principal
        self.method = method
        self.path = path
        self.query = b""  # raw; its values are never shown
        self.trace_id = ""
        self.trace: Trace | None = None  # its spans, if tracing is on
        # Times.
        self.started_at = monotonic()
        self.started_wall = wall_clock()
        self.request_read_at = 0.0  # when the whole request was read from the client
        self.queued_at = 0.0  # when it began to wait in the queue; 0.0 if it does not wait
        self.sent_at = 0.0  # when the whole request was sent upstream
        self.head_at = 0.0  # when the upstream's response head arrived
        self.first_byte_at = 0.0  # when the first byte of the response body was sent downstream
        self.last_read_at = 0.0  # the last read of the response body; 0.0 once the body has ended
        self.first_event_at = 0.0  # the first event with content of a recognised stream
        self.blocked_since = 0.0  # when it began to wait for a slow client; 0.0 if it does not wait
        self.ended_at = 0.0
        # Quantities.
        self.request_bytes = 0
        self.held = 0  # bytes of the request body in memory; 0 once they were passed on
        self.response_bytes = 0  # bytes from the upstream, without keepalives
        self.chunks = 0
        self.events = 0
        self.keepalives = 0
        self.retries = 0
        self.attempts = 0  # the number of upstream requests started
        # Earlier attempts: the upstream, the seconds waited for its head (-1.0 if none), and the seconds waited for a
        # first byte (-1.0 if the next attempt used the same upstream).
        self.abandoned: list[tuple[str, float, float]] | None = None
        self.queued = 0.0  # seconds of completed waits in the queue
        self.backpressure = 0.0  # seconds of completed waits for the client
        self.gaps: GapHistograms | None = None  # those of the ledger; set by `Ledger.open`
        self.gap: Histogram | None = None  # the histogram that counts this stream
        self.gap_sum = 0.0  # seconds between the reads of a streaming response
        self.gap_sum_before = 0.0  # the part of it before the stream was recognised
        # Facts of a recognised model stream; empty otherwise.
        self.protocol = ""  # "HTTP/1.1", "HTTP/2" or "websocket"
        self.stream = ""  # the name of a resumable stream
        self.operation = ""  # gen_ai.operation.name: "chat", "text_completion", "embeddings" …
        self.provider = ""  # gen_ai.provider.name: "openai", "anthropic" …
        self.request_model = ""  # a label: the model that was asked for, or "other"
        self.model = ""  # for the log: as the response names it, or else the request
        self.usage: Usage | None = None  # the last reported usage
        self.finish_reason = ""
        self.failure: ExchangeError | None = None  # an error that the stream itself reported
        # State and end.
        self.phase: Phase = "queue"
        self.streaming = False
        self.inspector: Inspector | None = None  # of a readable stream; `inspected` returns it up to date
        self.catch_up: Callable[[], None] | None = None  # has it read what has passed; None if it has
        self.status = 0  # the status sent to the client; 0 before
        self.error: ExchangeError | None = None
        self.interruption: ExchangeError | None = None
        self.task: Cancellable | None = None

    @property
    def end(self) -> End:
        """How it ended, as one word; "complete" as long as nothing went wrong."""
        return self.error.end if self.error is not None else "complete"

    @property
    def final_status(self) -> int:
        """The status sent to the client, or 499 if none was sent."""
        return self.status or CLIENT_LEFT

    def backpressure_until(self, now: float) -> float:
        """Returns the seconds spent waiting for the client until ``now``, including a current wait."""
        if self.blocked_since:
            return self.backpressure + max(0.0, now - self.blocked_since)
        return self.backpressure

    def queued_until(self, now: float) -> float:
        """Returns the seconds in the queue until ``now``, including a current wait."""
        if self.queued_at:
            return self.queued + max(0.0, now - self.queued_at)
        return self.queued

    def ttfb(self) -> float | None:
        """Returns the seconds from having read the whole request to the first byte of the response body.

        None before that byte. If an exchange ends without one, the seconds until its end. 0.0 if the upstream responded
        before the request was complete.
        """
        came, read = self.first_byte_at, self.request_read_at
        if not came:
            came = self.ended_at
            if not came or self.phase == "queue" or (not read and self.phase != "body"):
                return None
        return came - read if 0.0 < read < came else 0.0

    def ttfb_until(self, now: float) -> float:
        """Returns the seconds of the current wait for the first byte; 0.0 without one."""
        if self.first_byte_at or self.ended_at or not self.request_read_at or self.phase == "queue":
            return 0.0
        return max(0.0, now - self.request_read_at)

    def upstream_ttfb(self) -> float | None:
        """Returns the seconds from having sent the whole request upstream to the response head, for the last attempt.

        None before the head. If an exchange ends without one, the seconds until its end. 0.0 as in `ttfb`.
        """
        came, sent = self.head_at, self.sent_at
        if not came:
            if not self.ended_at or not sent:
                return None
            came = self.ended_at
        return came - sent if 0.0 < sent < came else 0.0

    def upstream_ttfb_until(self, now: float) -> float:
        """Returns the seconds of the current wait for the head; 0.0 without one."""
        if self.head_at or self.ended_at or not self.sent_at:
            return 0.0
        return max(0.0, now - self.sent_at)

    def first_event(self) -> float | None:
        """Returns the seconds from having read the whole request to the first event with content; as `ttfb`."""
        came, read = self.first_event_at, self.request_read_at
        if not came:
            came = self.ended_at
            if not came or not self.operation or not self.streaming:
                return None
        return came - read if 0.0 < read < came else 0.0

    def first_event_until(self, now: float) -> float:
        """Returns the seconds of the current wait for the first event; 0.0 without one."""
        if self.first_event_at or self.ended_at or not self.streaming or not self.request_read_at:
            return 0.0
        return max(0.0, now - self.request_read_at)

    def duration_until(self, now: float) -> float:
        """Returns the seconds from the response head until ``now``."""
        return max(0.0, now - (self.head_at or self.started_at))

    def gap_until(self, now: float) -> float:
        """Returns the seconds since the last read that will count as a gap whatever happens next."""
        if not self.streaming or not self.last_read_at:
            return 0.0
        gap = now - self.last_read_at
        return gap if gap >= LAST_GAP else 0.0

    def count_gap(self, gap: float) -> None:
        """Counts the seconds between two reads of a streaming response."""
        if self.gap is None:
            if self.gaps is None:
                return
            key = GapKey(self.route, self.upstream, self.operation, self.provider, self.request_model)
            self.gap = self.gaps.of(key)
        self.gap.observe(gap)
        self.gap_sum += gap

    def end_reads(self, now: float) -> None:
        """Records the normal end of the response body. A long silence before it also counts as a gap."""
        if self.streaming and self.last_read_at:
            gap = now - self.last_read_at
            if gap >= LAST_GAP:
                self.count_gap(gap)
        self.last_read_at = 0.0

    def note(self, inspector: Inspector, now: float) -> None:
        """Copies what an inspector of a model's response has found by ``now``."""
        if inspector.operation:
            if not self.operation:
                self.recognise(inspector.operation, inspector.provider, self.model or inspector.model)
            if inspector.spoke and self.streaming and not self.first_event_at:
                self.first_event_at = now
        self.usage = inspector.usage
        self.failure = inspector.failure
        if inspector.model:
            self.model = inspector.model[:LONGEST_NAME]
        if inspector.finish_reason:
            self.finish_reason = inspector.finish_reason[:LONGEST_NAME]

    def recognise(self, operation: str, provider: str, requested: str) -> None:
        """Records that the response is a model's stream, with operation and provider as named by OpenTelemetry.

        ``requested`` is the model named in the request; it becomes a label only if it is configured.
        """
        self.operation = operation
        self.provider = provider
        known = self.gaps is not None and requested in self.gaps.models
        self.request_model = requested if known else OTHER_MODEL
        self.model = self.model or requested
        self.gap = None
        self.gap_sum_before = self.gap_sum

    def inspected(self) -> Inspector | None:
        """Returns the inspector of a readable stream, once it has read all that has passed; None without one."""
        if self.catch_up is not None:
            self.catch_up()
        return self.inspector

    def abandon_attempt(self, now: float) -> None:
        """Records a failed attempt that will be retried; its wait for a head stays counted."""
        if self.sent_at:
            self._abandon(-1.0, now)
        self.sent_at = self.head_at = 0.0

    def fall_back(self, upstream: str, now: float) -> None:
        """Records that another upstream takes over; called instead of `abandon_attempt`."""
        self._abandon(max(0.0, now - self.request_read_at) if self.request_read_at else -1.0, now)
        self.sent_at = self.head_at = 0.0
        self.upstream = upstream

    def _abandon(self, ttfb: float, now: float) -> None:
        waited = max(0.0, (self.head_at or now) - self.sent_at) if self.sent_at else -1.0
        if self.abandoned is None:
            self.abandoned = []
        self.abandoned.append((self.upstream, waited, ttfb))

    def settle(self, now: float) -> None:
        """Ends all open waits at ``now``, the end of the exchange."""
        if self.blocked_since:
            self.backpressure = self.backpressure_until(now)
            self.blocked_since = 0.0
        if self.queued_at:
            self.queued = self.queued_until(now)
            self.queued_at = 0.0
        if self.failure is not None and (self.error is None or isinstance(self.error, UpstreamError | ClientError)):
            self.error = self.failure  # the later end of the stream is a consequence
        if self.streaming and self.last_read_at:
            if self.error is not None:
                self.count_gap(max(0.0, now - self.last_read_at))
                self.last_read_at = 0.0
            else:
                self.end_reads(now)
        self.ended_at = now

    def answer(self) -> None:
        """Records that the exchange will be answered with its error; it may then be interrupted again."""
        self.interruption = None

    def interrupt(self, reason: ExchangeError) -> None:
        """Ends the exchange for ``reason`` in any phase; the first reason is kept. Safe to call at any time."""
        if self.interruption is None and self.task is not None:
            self.interruption = reason
            self.task.cancel()
