"""Names of kept streams, the cursors that point into them, and who may use them.

A *cursor* is ``STREAM/N``: the stream's name, and the number of events before the position. The name has 144 random
bits and is a secret of its owner, so it is never written to a shared store. Such a store contains the `storage_key`,
which is a digest of the name, and a digest of the owner's credentials that is keyed with the name. With them, a reader
of the store can neither make a cursor nor test credentials.
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

CURSOR_FIELD: Final = b"x-stream-cursor"  # the field of a response that has the cursor of its beginning

_NAME_BYTES: Final = 18
_CURSOR: Final = re.compile(rb"([A-Za-z0-9_-]{24})/(0|[1-9][0-9]{0,14})")


class Cursor(NamedTuple):
    """A position in a kept stream: after its first ``events`` events."""

    stream: str
    events: int

    def render(self) -> bytes:
        """Returns the cursor as written in a header field or an ``id`` line."""
        return b"%b/%d" % (self.stream.encode(), self.events)


def new_stream() -> str:
    """Returns an unguessable name: 24 characters of base64url."""
    return secrets.token_urlsafe(_NAME_BYTES)


def parse_cursor(value: bytes) -> Cursor | None:
    """Returns the cursor that a client sent, or None for an id of another form, which is the upstream's."""
    match = _CURSOR.fullmatch(value)
    return Cursor(match[1].decode(), int(match[2])) if match else None


def last_event_ids(headers: Headers, query: bytes | None) -> Iterator[bytes]:
    """Yields the last event ids of a request: first ``Last-Event-ID``, then ``last_event_id`` of the query."""
    for name, value in headers:
        if name == b"last-event-id":
            yield value
    if query and b"last_event_id=" in query:
        for pair in query.split(b"&"):
            if pair.startswith(b"last_event_id="):
                yield unquote_to_bytes(pair[14:])


def cursor_of(headers: Headers, query: bytes | None) -> Cursor | None:
    """Returns the cursor of a request, or None."""
    for value in last_event_ids(headers, query):
        if (cursor := parse_cursor(value)) is not None:
            return cursor
    return None


def storage_key(stream: str) -> str:
    """Returns the name of a stream in a shared store."""
    return base64.urlsafe_b64encode(blake2b(stream.encode(), digest_size=18, person=b"stream").digest()).decode()


def owner_digest(stream: str, parts: Iterable[bytes]) -> bytes:
    """Returns a digest of a stream's owner: 16 bytes, keyed with the stream's name.

    ``parts`` are the route, and a principal or credentials. Compare digests with `hmac.compare_digest`.
    """
    digest = blake2b(key=stream.encode(), digest_size=16, person=b"owner")
    for part in parts:
        digest.update(b"%d:" % len(part))  # otherwise different lists of parts could give the same digest
        digest.update(part)
    return digest.digest()
