"""Keys of the format that this version refuses unless they say their default.

A key that was read and then did nothing would be worse than none. Each row is a key that the model has already and
nothing serves yet; whatever serves it takes the row away.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from streamproxy.config.document import Document, Finding
from streamproxy.config.fields import field_at, is_default
from streamproxy.config.model import Config


class Pending(NamedTuple):
    """A key as a dotted path, in which ``*`` is any name or place, and what it would be for."""

    key: str
    what: str

    @property
    def path(self) -> tuple[str, ...]:
        return tuple(self.key.split("."))


PENDING = (
    Pending("upstreams.*.http2", "HTTP/2"),
    Pending("routes.*.share", "sharing of streams"),
    Pending("routes.*.reconnect", "reconnecting of streams"),
)


def find(document: Document) -> Iterator[Finding]:
    """The keys of a file that ask for what is not there yet."""
    for row in PENDING:
        for path in document.match(row.path):
            value = document.get(path)
            if not is_default(field_at(Config, row.path), value):
                yield Finding(path, f"this version does not have {row.what} yet; leave the key out", at_key=True)
