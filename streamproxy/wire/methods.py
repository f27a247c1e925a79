"""Properties of request methods."""

from __future__ import annotations

from typing import Final

# RFC 9110 section 9.2.2: repeating these has the same effect as sending them once.
IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
