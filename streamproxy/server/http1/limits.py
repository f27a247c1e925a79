"""The limits of connections that speak HTTP/1.1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from streamproxy.wire.http1 import MAX_FIELDS

BODY_LIMIT: Final = 64 * 1024  # bytes of a request body to hold, or to drain if the application does not want them
NEWCOMER: Final = 0.1  # seconds for a new connection to send its first request while the server shuts down


@dataclass(frozen=True)
class Http11Limits:
    """The limits of a connection: ``max_header_size`` in bytes, times in seconds.

    ``linger`` is how long a connection that ends early waits for the client to read its last response, and how long an
    aborted one may take to flush. ``on_rejected`` is called with the status and the reason of each request that is
    refused before the application sees it.
    """

    max_header_size: int = 64 * 1024
    max_fields: int = MAX_FIELDS
    head_timeout: float = 30.0
    linger: float = 5.0
    on_rejected: Callable[[int, str], None] | None = None
