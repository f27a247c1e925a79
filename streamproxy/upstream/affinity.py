"""Hashes the beginning of a conversation, so that its requests go to the endpoint that has it in its cache."""

from __future__ import annotations

import hashlib

from streamproxy.dialects.request import prefix_of, request_scanner
from streamproxy.exchange.body import RequestBody


async def prefix_key(body: RequestBody, most: int, limit: int) -> bytes | None:
    """Reads at most ``most`` bytes of a request's body ahead, and hashes the beginning of its conversation.

    ``limit`` is the number of bytes of a plain prompt that are hashed. Returns None if the body is larger than ``most``
    or is not a conversation in JSON. Raises as reading the body does.
    """
    data = await body.peek(most)
    return None if data is None else key_of(data, limit)


def key_of(body: bytes, limit: int) -> bytes | None:
    """Returns the hash of the beginning of the conversation in a complete body, or None if there is none."""
    scanner = request_scanner(conversation=True)
    scanner.feed(body)
    scanner.finish()
    if scanner.verdict != "done":
        return None
    prefix = prefix_of(body, scanner.members, limit)
    return None if prefix is None else hashlib.blake2b(prefix, digest_size=16).digest()
