"""One exchange: a request with its response, from the moment its route is known to its one end.

An `Exchange` carries the facts of one request. Each part of the proxy writes down in it what happened; metrics, the
access log and the admin listener read it, and count nothing themselves. It moves through the phases in order::

    queue ──▶ connect ──▶ request ──▶ head ──▶ body
              (endpoint,  (sending    (waiting  (chunks)
               socket)     the body)   for it)

and may end in any of them. It ends once: `Ledger.close` takes it out of the live set, settles it, and calls every
observer. To end it from outside (the client left, a timer, the operator, a drain) is to call `interrupt`, which stores
the reason and cancels the exchange's task; `handle` turns the cancellation back into that reason.

Waits. For each wait that is measured there is the time at which it began, and it counts for as long as it has lasted,
whether it goes on, ends well or is cut off. ``queued_at`` and ``blocked_since`` are 0.0 while nothing is waited for.
The code that waits sets them, and in a ``finally`` adds the wait to ``queued`` or ``backpressure`` and sets them to 0.0
again. The other waits follow from the facts: the methods named ``…_until`` take the present time. `settle` closes
whatever is still open, so that after the end every wait has its last value.
"""

from __future__ import annotations

import itertools
import secrets
import time
from typing import Final, Literal

from streamproxy.errors import ClientError, End, ExchangeError, UpstreamError
from streamproxy.exchange.extension import Cancellable
from streamproxy.exchange.histogram import OTHER_MODEL, TIME_BUCKETS, GapHistograms, GapKey, Histogram
from streamproxy.formats.inspector import Inspector, Usage
from streamproxy.wire.trace import Trace

__all__ = ["CLIENT_LEFT", "TIME_BUCKETS", "Exchange", "Phase", "new_request_id"]

Phase = Literal["queue", "connect", "request", "head", "body"]

CLIENT_LEFT: Final = 499  # the status of an exchange that had sent none: nginx's "client closed request"
# A silence at the end of a stream that ended well is one more gap from here on; below, the end has followed at once.
LAST_GAP: Final = 0.1  # seconds
LONGEST_NAME: Final = 128  # characters of a name that a request or a response chose


_PROCESS: Final = secrets.token_hex(8)
_numbers: Final = itertools.count(1 << 32)  # from there on they have a ninth digit, which is cut off


def new_request_id() -> str:
    """A request id: 24 hexadecimal characters, unique, and not to be guessed from outside the process."""
    return _PROCESS + hex(next(_numbers))[3:]  # a quarter of what a format costs


class Exchange:
    """The facts of one request. Times are seconds of the monotonic clock, 0.0 for what has not happened."""

    __slots__ = (
        "abandoned",
        "affinity",
        "attempts",
        "backpressure",
        "blocked_since",
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

    # No arguments by name: a class takes them as a dictionary, which is slow.
    def __init__(self, request_id: str, route: str, upstream: str, method: str, path: str) -> None:
        # Who and what.
        self.request_id = request_id
        self.id = request_id  # the key in the ledger: another when a live exchange has this request id
        self.route = route
        self.upstream = upstream
        self.endpoint = ""  # the URL of the endpoint that was picked
        self.client = ""  # the client's address, without its port
        self.affinity: bytes | None = None  # stands for the beginning of its conversation, to choose an endpoint by
        self.trusted = False  # the peer is a trusted proxy
        self.principal = ""  # whose credential was checked; never logged
        self.method = method
        self.path = path
        self.query = b""  # raw; only ever shown with its values hidden
        self.trace_id = ""
        self.trace: Trace | None = None  # its spans, where tracing is on
        # When.
        self.started_at = time.monotonic()
        self.started_wall = time.time()
        self.request_read_at = 0.0  # the whole request was read from the client
        self.queued_at = 0.0  # it began to wait for a place; 0.0 while it waits for none
        self.sent_at = 0.0  # the whole request was sent upstream
        self.head_at = 0.0  # the upstream's response head came
        self.first_byte_at = 0.0  # the first byte of the response body went downstream
        self.last_read_at = 0.0  # the last read of the response body; 0.0 again once the body has ended
        self.first_event_at = 0.0  # the first event that says something, of a recognised stream
        self.blocked_since = 0.0  # it began to wait for the client to take bytes; 0.0 while the client takes them
        self.ended_at = 0.0
        # How much.
        self.request_bytes = 0
        self.response_bytes = 0  # what the upstream sent; keepalives don't count
        self.chunks = 0
        self.events = 0
        self.keepalives = 0
        self.retries = 0
        self.attempts = 0  # requests that were begun upstream, for this one
        # Earlier attempts: the upstream, the seconds waited for its head (-1.0 if none), and the seconds waited for a
        # first byte (-1.0 where the next attempt was at the same upstream).
        self.abandoned: list[tuple[str, float, float]] | None = None
        self.queued = 0.0  # seconds in the queue, once they are over
        self.backpressure = 0.0  # seconds spent waiting for the client, those of waits that are over
        self.gaps: GapHistograms | None = None  # the ledger's; set when the exchange is entered
        self.gap: Histogram | None = None  # the one of them that this stream counts in
        self.gap_sum = 0.0  # seconds between the reads of a streaming response
        self.gap_sum_before = 0.0  # what of that passed before the stream was recognised
        # What was understood of it. Empty for what is no recognised stream of a model.
        self.protocol = ""  # "HTTP/1.1", "HTTP/2" or "websocket"
        self.stream = ""  # the name of a resumable stream
        self.operation = ""  # gen_ai.operation.name: "chat", "text_completion", "embeddings" …
        self.provider = ""  # gen_ai.provider.name: "openai", "anthropic" …
        self.request_model = ""  # a label: the model that was asked for, or "other"
        self.model = ""  # for the log: as the response names it, or else the request
        self.usage: Usage | None = None  # the last that was reported
        self.finish_reason = ""
        self.failure: ExchangeError | None = None  # what the stream itself reported
        # Where it stands, and how it ended.
        self.phase: Phase = "queue"
        self.streaming = False
        self.inspector: Inspector | None = None  # of a stream that can be read here
        self.status = 0  # what the client was sent; 0 before
        self.error: ExchangeError | None = None
        self.interruption: ExchangeError | None = None
        self.task: Cancellable | None = None

    @property
    def end(self) -> End:
        """One word for how it ended; "complete" as long as nothing went wrong."""
        return self.error.end if self.error is not None else "complete"

    @property
    def final_status(self) -> int:
        """The status that the client was sent, or 499 when nothing was."""
        return self.status or CLIENT_LEFT

    def backpressure_until(self, now: float) -> float:
        """Seconds spent waiting for the client until ``now``, the wait that goes on among them."""
        if self.blocked_since:
            return self.backpressure + max(0.0, now - self.blocked_since)
        return self.backpressure

    def queued_until(self, now: float) -> float:
        """Seconds in the queue until ``now``, the wait that goes on among them."""
        if self.queued_at:
            return self.queued + max(0.0, now - self.queued_at)
        return self.queued

    @property
    def ttfb(self) -> float | None:
        """Seconds from the whole request being read to the first byte of the response body.

        None before that byte; after the end of an exchange that never sent one, the seconds until its end. 0.0 for an
        upstream that answered before the request was complete.
        """
        came, read = self.first_byte_at, self.request_read_at
        if not came:
            came = self.ended_at
            if not came or self.phase == "queue" or (not read and self.phase != "body"):
                return None
        return came - read if 0.0 < read < came else 0.0

    def ttfb_until(self, now: float) -> float:
        """Seconds that the first byte has been waited for, as far as it is still waited for; 0.0 if it is not."""
        if self.first_byte_at or self.ended_at or not self.request_read_at or self.phase == "queue":
            return 0.0
        return max(0.0, now - self.request_read_at)

    @property
    def upstream_ttfb(self) -> float | None:
        """Seconds from the whole request being sent upstream to the response head, of the last attempt.

        None before the head; after the end of an exchange that got none, the seconds until its end; 0.0 as in `ttfb`.
        """
        came, sent = self.head_at, self.sent_at
        if not came:
            if not self.ended_at or not sent:
                return None
            came = self.ended_at
        return came - sent if 0.0 < sent < came else 0.0

    def upstream_ttfb_until(self, now: float) -> float:
        """Seconds that the head has been waited for, as far as it is still waited for; 0.0 if it is not."""
        if self.head_at or self.ended_at or not self.sent_at:
            return 0.0
        return max(0.0, now - self.sent_at)

    @property
    def first_event(self) -> float | None:
        """Seconds from the whole request being read to the first event that says something; as `ttfb`."""
        came, read = self.first_event_at, self.request_read_at
        if not came:
            came = self.ended_at
            if not came or not self.operation or not self.streaming:
                return None
        return came - read if 0.0 < read < came else 0.0

    def first_event_until(self, now: float) -> float:
        """Seconds that the first event has been waited for, as far as it is still waited for; 0.0 if it is not."""
        if self.first_event_at or self.ended_at or not self.streaming or not self.request_read_at:
            return 0.0
        return max(0.0, now - self.request_read_at)

    def duration_until(self, now: float) -> float:
        """Seconds from the response head until ``now``."""
        return max(0.0, now - (self.head_at or self.started_at))

    def gap_until(self, now: float) -> float:
        """Seconds since the last read, as far as they will count as a gap whatever comes next."""
        if not self.streaming or not self.last_read_at:
            return 0.0
        gap = now - self.last_read_at
        return gap if gap >= LAST_GAP else 0.0

    def count_gap(self, gap: float) -> None:
        """Count the seconds between two reads of a streaming response."""
        if self.gap is None:
            if self.gaps is None:
                return
            key = GapKey(self.route, self.upstream, self.operation, self.provider, self.request_model)
            self.gap = self.gaps.of(key)
        self.gap.tally(gap)
        self.gap_sum += gap

    def end_reads(self, now: float) -> None:
        """The response body has ended in good order: nothing is read any more. A long silence before is a gap too."""
        if (gap := self.gap_until(now)) > 0.0:
            self.count_gap(gap)
        self.last_read_at = 0.0

    def note(self, inspector: Inspector, now: float) -> None:
        """Take over what an inspector of a model's response has found by ``now``."""
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
        """The response is a stream of a model, of an operation and a provider in the words of OpenTelemetry.

        ``requested`` is the model that the request names; it becomes a label only if a configuration has it.
        """
        self.operation = operation
        self.provider = provider
        known = self.gaps is not None and requested in self.gaps.models
        self.request_model = requested if known else OTHER_MODEL
        self.model = self.model or requested
        self.gap = None
        self.gap_sum_before = self.gap_sum

    def abandon_attempt(self, now: float) -> None:
        """The attempt has failed, and another will follow: what this one has waited for a head keeps counting."""
        if self.sent_at:
            self._abandon(-1.0, now)
        self.sent_at = self.head_at = 0.0

    def fall_back(self, upstream: str, now: float) -> None:
        """Another upstream takes over; called in place of `abandon_attempt`."""
        self._abandon(max(0.0, now - self.request_read_at) if self.request_read_at else -1.0, now)
        self.sent_at = self.head_at = 0.0
        self.upstream = upstream

    def _abandon(self, ttfb: float, now: float) -> None:
        waited = max(0.0, (self.head_at or now) - self.sent_at) if self.sent_at else -1.0
        if self.abandoned is None:
            self.abandoned = []
        self.abandoned.append((self.upstream, waited, ttfb))

    def settle(self, now: float) -> None:
        """The exchange has ended: the waits that it ended in have lasted until ``now``."""
        if self.blocked_since:
            self.backpressure = self.backpressure_until(now)
            self.blocked_since = 0.0
        if self.queued_at:
            self.queued = self.queued_until(now)
            self.queued_at = 0.0
        if self.failure is not None and (self.error is None or isinstance(self.error, UpstreamError | ClientError)):
            self.error = self.failure  # how the stream ended afterwards is what came of it
        if self.streaming and self.last_read_at:
            if self.error is not None:
                self.count_gap(max(0.0, now - self.last_read_at))
                self.last_read_at = 0.0
            else:
                self.end_reads(now)
        self.ended_at = now

    def answer(self) -> None:
        """The exchange will be answered with its error: from now on it may be interrupted again."""
        self.interruption = None

    def interrupt(self, reason: ExchangeError) -> None:
        """End the exchange for ``reason``, wherever it is; the first reason stands. Safe to call at any time."""
        if self.interruption is None and self.task is not None:
            self.interruption = reason
            self.task.cancel()
