"""Looking into a request's JSON body before it is sent.

Nothing is decoded but the few members that are asked for, while the body comes. What is read is held, at most the
limit of the route, and is sent first later. A body that can't be read here (larger, compressed, no JSON) says nothing.
"""

from __future__ import annotations

from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

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


def peek(call: Call, plan: PeekPlan) -> Coroutine[Any, Any, None] | None:
    """Read ahead in the body and set ``call.peeked``, or leave it None where the body says nothing.

    Returns what to await, or None where nothing has to be waited for. Raises BadRequest for a body with two ``model``
    keys, and whatever reading a body raises.
    """
    body = call.downstream.body
    if body is None or not _readable(call, plan):
        return None
    data = body.whole()
    if data is None:
        return _read_on(call, body, plan)
    if len(data) <= plan.limit:
        scanner = _scanner(plan)
        scanner.feed(data)
        scanner.finish()
        _take_note(call, scanner)
    return None


async def _read_on(call: Call, body: RequestBody, plan: PeekPlan) -> None:
    """`peek` for a body that has not arrived as a whole."""
    length = call.downstream.fields.noted.get(b"content-length", b"")
    if length.isdigit() and int(length) > plan.limit:
        return
    scanner = _scanner(plan)
    more = True
    while more and not body.ended and body.held <= plan.limit:
        chunk = await body.read_ahead()
        more = chunk is None or scanner.feed(chunk)
    if more and body.ended and body.held <= plan.limit:
        scanner.finish()
    _take_note(call, scanner)


def _scanner(plan: PeekPlan) -> MemberScanner:
    return request_scanner() if plan.members else stream_scanner()


def _take_note(call: Call, scanner: MemberScanner) -> None:
    if scanner.verdict == "duplicate":
        raise BadRequest("The request's JSON body has two model keys")
    if scanner.verdict == "done":
        call.peeked = peeked = Peeked(scanner.members)
        if peeked.model:
            call.exchange.model = peeked.model[:LONGEST_NAME]


def _readable(call: Call, plan: PeekPlan) -> bool:
    headers = call.downstream.headers
    if (first(headers, b"content-encoding") or b"identity").lower() != b"identity":
        return False
    if plan.members:
        return True
    accepted = call.downstream.fields.noted.get(b"accept-encoding", b"identity")
    matters = plan.always or accepted != b"identity"
    return matters and media_type(first(headers, b"content-type") or b"") == b"application/json"
