"""What stands for the beginning of a conversation, so that its requests go where that is cached."""

from __future__ import annotations

import hashlib

from streamproxy.dialects.request import prefix_of, request_scanner
from streamproxy.exchange.body import RequestBody


async def prefix_key(body: RequestBody, most: int, limit: int) -> bytes | None:
    """Read a request's body ahead, at most ``most`` bytes of it, and hash the beginning of its conversation.

    ``limit`` is how many bytes of a plain prompt count. None for a body that is larger, or no conversation in JSON.
    Raises as reading the body does.
    """
    data = await body.peek(most)
    return None if data is None else key_of(data, limit)


def key_of(body: bytes, limit: int) -> bytes | None:
    """The hash of the beginning of the conversation in a whole body, None where there is none."""
    scanner = request_scanner(conversation=True)
    scanner.feed(body)
    scanner.finish()
    if scanner.verdict != "done":
        return None
    prefix = prefix_of(body, scanner.members, limit)
    return None if prefix is None else hashlib.blake2b(prefix, digest_size=16).digest()
