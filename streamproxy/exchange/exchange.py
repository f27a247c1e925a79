"""One exchange: a request with its response, from the moment its route is known to its one end.

An `Exchange` carries the facts of one request through the rooms. Whoever does something writes down here what
happened; metrics, the access log and the admin listener read it and count nothing themselves. It moves through the
phases in order::

    queue ──▶ connect ──▶ request ──▶ head ──▶ body
              (endpoint,  (sending    (waiting  (chunks)
               socket)     the body)   for it)

and may end in any of them. It ends once: `Ledger.close` takes it out of the live set, and tells every observer.
What ends it from outside (the client left, a timer, the operator, a drain) calls `interrupt`, which stores the reason
and cancels the exchange's task; the handler turns the cancellation back into that reason.
"""

from __future__ import annotations

import itertools
import secrets
import time
from typing import Final, Literal

from streamproxy.errors import End, ExchangeError
from streamproxy.exchange.extension import Cancellable
from streamproxy.formats.inspector import Inspector
from streamproxy.wire.trace import Trace

Phase = Literal["queue", "connect", "request", "head", "body"]

# Upper bounds of every histogram of seconds: models think long, and an added millisecond matters.
TIME_BUCKETS: Final = tuple(
    float(bound)  # a float is compared with another at half of what it takes with an integer
    for bound in (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
)


_PROCESS: Final = secrets.token_hex(8)
_numbers: Final = itertools.count(1 << 32)  # from there on they have a ninth digit, which is cut off


def new_request_id() -> str:
    """A request id: 24 hexadecimal characters, unique, and not to be guessed from outside the process."""
    return _PROCESS + hex(next(_numbers))[3:]  # a quarter of what a format costs


class Exchange:
    """The facts of one request. Times are seconds of the monotonic clock, 0.0 for what has not happened."""

    __slots__ = (
        "backpressure",
        "blocked_since",
        "chunks",
        "client",
        "endpoint",
        "error",
        "events",
        "first_byte_at",
        "gap_counts",
        "gap_sum",
        "head_at",
        "id",
        "inspector",
        "interruption",
        "keepalives",
        "last_read_at",
        "method",
        "path",
        "phase",
        "principal",
        "query",
        "queued",
        "queued_at",
        "request_bytes",
        "request_id",
        "request_read_at",
        "response_bytes",
        "retries",
        "route",
        "sent_at",
        "started_at",
        "started_wall",
        "status",
        "streaming",
        "task",
        "trace",
        "trace_id",
        "trusted",
        "upstream",
    )

    # Arguments by name would cost 2,000 instructions: a class takes them as a dictionary.
    def __init__(self, request_id: str, route: str, upstream: str, method: str, path: str) -> None:
        # Who and what.
        self.request_id = request_id
        self.id = request_id  # the key in the ledger: another when a live exchange has this request id
        self.route = route
        self.upstream = upstream
        self.endpoint = ""  # the URL of the endpoint that was picked
        self.client = ""  # the client's address, without its port
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
        self.queued_at = 0.0  # it began to wait for a place
        self.sent_at = 0.0  # the whole request was sent upstream
        self.head_at = 0.0  # the upstream's response head came
        self.first_byte_at = 0.0  # the first byte of the response body went downstream
        self.last_read_at = 0.0  # the last read of the response body
        # How much.
        self.request_bytes = 0
        self.response_bytes = 0  # what the upstream sent; keepalives don't count
        self.chunks = 0
        self.events = 0
        self.keepalives = 0
        self.retries = 0
        self.queued = 0.0  # seconds in the queue
        self.backpressure = 0.0  # seconds spent waiting for the client
        self.blocked_since = 0.0  # it waits for the client to take something; 0.0 while it does not
        self.gap_counts: list[int] | None = None  # of a streaming response: gaps between reads, by TIME_BUCKETS
        self.gap_sum = 0.0
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

    def answer(self) -> None:
        """The exchange will be answered with its error: from now on it may be interrupted again."""
        self.interruption = None

    def interrupt(self, reason: ExchangeError) -> None:
        """End the exchange for ``reason``, wherever it is; the first reason stands. Safe to call at any time."""
        if self.interruption is None and self.task is not None:
            self.interruption = reason
            self.task.cancel()
