"""Keys that the model defines but this version does not support.

Ignoring such a key silently would be worse than refusing it. Each row names a key that must keep its default. The
change that implements a key removes its row.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from streamproxy.config.document import Document, Finding
from streamproxy.config.fields import field_at, is_default
from streamproxy.config.model import Config


class Pending(NamedTuple):
    """A key as a dotted path, in which ``*`` is any name or index, and the feature it configures."""

    key: str
    what: str

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))


PENDING = (Pending("routes.*.keepalive.before_headers", "keepalives before the response head"),)


def find(document: Document) -> Iterator[Finding]:
    """Yields the keys of a file that ask for an unsupported feature."""
    for row in PENDING:
        for path in document.match(row.path):
            value = document.get(path)
            if not is_default(field_at(Config, row.path), value):
                yield Finding(path, f"this version does not have {row.what} yet; leave the key out", at_key=True)
