"""Names of kept streams, the cursors that point into them, and who may use them.

A *cursor* is ``STREAM/N``: the stream's name, and how many events come before the place. The name is the secret of its
owner: it has 144 random bits. A store never keeps it in a place that others read. What a shared store has is its
`storage_key`, a digest, and the owner's credentials as a digest that is keyed with the name: somebody who reads the
store can neither make a cursor nor try credentials.
"""

from __future__ import annotations

import base64
import re
import secrets
from collections.abc import Iterable, Iterator
from hashlib import blake2b
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from streamproxy.wire.headers import Headers

_NAME_BYTES: Final = 18
_CURSOR: Final = re.compile(rb"([A-Za-z0-9_-]{24})/(0|[1-9][0-9]{0,14})")


class Cursor(NamedTuple):
    """A place in a kept stream: behind its first ``events`` events."""

    stream: str
    events: int

    def render(self) -> bytes:
        """The cursor as it stands in a header field or an ``id`` line."""
        return b"%b/%d" % (self.stream.encode(), self.events)


def new_stream() -> str:
    """A name that nobody can guess: 24 characters of base64url."""
    return secrets.token_urlsafe(_NAME_BYTES)


def parse_cursor(value: bytes) -> Cursor | None:
    """The cursor that a client sent; None for an id that is none of ours and belongs to the upstream."""
    match = _CURSOR.fullmatch(value)
    return Cursor(match[1].decode(), int(match[2])) if match else None


def last_event_ids(headers: Headers, query: bytes | None) -> Iterator[bytes]:
    """What a request says of where it was: its ``Last-Event-ID``, then the query's ``last_event_id``."""
    for name, value in headers:
        if name == b"last-event-id":
            yield value
    if query and b"last_event_id=" in query:
        for pair in query.split(b"&"):
            if pair.startswith(b"last_event_id="):
                yield unquote_to_bytes(pair[14:])


def cursor_of(headers: Headers, query: bytes | None) -> Cursor | None:
    """The cursor of a request; None if it has none."""
    for value in last_event_ids(headers, query):
        if (cursor := parse_cursor(value)) is not None:
            return cursor
    return None


def storage_key(stream: str) -> str:
    """What a shared store calls a stream."""
    return base64.urlsafe_b64encode(blake2b(stream.encode(), digest_size=18, person=b"stream").digest()).decode()


def owner_digest(stream: str, parts: Iterable[bytes]) -> bytes:
    """The owner of a stream as 16 bytes, keyed with its name; ``parts`` are the route, and a principal or credentials.

    Compare two of them with `hmac.compare_digest`.
    """
    digest = blake2b(key=stream.encode(), digest_size=16, person=b"owner")
    for part in parts:
        digest.update(b"%d:" % len(part))  # so that no two lists of parts are one text
        digest.update(part)
    return digest.digest()
