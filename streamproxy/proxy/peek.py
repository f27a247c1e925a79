"""Looking into a request's JSON body before it is sent.

Nothing is decoded but the few members that are asked for, while the body comes. What is read is held, at most the
limit of the route, and is sent first later. A body that can't be read here (larger, compressed, no JSON) says nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamproxy.dialects.request import Peeked, request_scanner, stream_scanner
from streamproxy.errors import BadRequest
from streamproxy.exchange.body import RequestBody
from streamproxy.exchange.call import Call
from streamproxy.exchange.exchange import LONGEST_NAME
from streamproxy.formats.json_scan import MemberScanner
from streamproxy.wire.headers import first
from streamproxy.wire.media import media_type


@dataclass(frozen=True, slots=True)
class PeekPlan:
    """What a route wants to know of its requests' bodies.

    ``limit`` is the most bytes that are held. ``members``: everything that an edit needs, for which the whole body is
    read; else only whether a stream is wanted, which matters where the request takes a compressed response, or
    ``always``.
    """

    limit: int
    members: bool
    always: bool = False


async def peek(call: Call, plan: PeekPlan) -> None:
    """Read ahead in the body and set ``call.peeked``, or leave it None where the body says nothing.

    Raises BadRequest for a body with two ``model`` keys, and whatever reading a body raises.
    """
    body = call.downstream.body
    if body is None or not _readable(call, plan):
        return
    scanner = request_scanner() if plan.members else stream_scanner()
    await _scan(body, scanner, plan.limit)
    if scanner.verdict == "duplicate":
        raise BadRequest("The request's JSON body has two model keys")
    if scanner.verdict == "done":
        call.peeked = peeked = Peeked(scanner.members)
        if peeked.model:
            call.exchange.model = peeked.model[:LONGEST_NAME]


async def _scan(body: RequestBody, scanner: MemberScanner, limit: int) -> None:
    data = body.whole()
    if data is not None:
        if len(data) <= limit:
            scanner.feed(data)
            scanner.finish()
        return
    while not body.ended and body.held <= limit:
        chunk = await body.read_ahead()
        if chunk is not None and not scanner.feed(chunk):
            return
    if body.ended and body.held <= limit:
        scanner.finish()


def _readable(call: Call, plan: PeekPlan) -> bool:
    headers, noted = call.downstream.headers, call.downstream.fields.noted
    length = noted.get(b"content-length", b"")
    if length.isdigit() and int(length) > plan.limit:
        return False
    if (first(headers, b"content-encoding") or b"identity").lower() != b"identity":
        return False
    if plan.members:
        return True
    accepted = noted.get(b"accept-encoding", b"identity")
    matters = plan.always or accepted != b"identity"
    return matters and media_type(first(headers, b"content-type") or b"") == b"application/json"
