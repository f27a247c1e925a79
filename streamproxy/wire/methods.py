"""What is known of request methods."""

from __future__ import annotations

from typing import Final

# RFC 9110 section 9.2.2: sending these twice has the effect of sending them once.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
