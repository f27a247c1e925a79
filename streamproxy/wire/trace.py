"""The position of an exchange in a trace: the ``traceparent`` and ``tracestate`` fields of W3C Trace Context.

https://www.w3.org/TR/trace-context/, sections 3.2 and 3.3. Ids are text in lower-case hexadecimal, as on the wire.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from streamproxy.wire.headers import Headers

SAMPLED: Final = 0x01
_RANDOM: Final = 0x02  # level 2: the trace id is random; forwarded by all participants

_TRACEPARENT: Final = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[^,]*)?")
_NO_TRACE, _NO_SPAN = b"0" * 32, b"0" * 16
_MEMBER: Final = re.compile(
    rb"([a-z][a-z0-9_*/-]{0,255}|[a-z0-9][a-z0-9_*/-]{0,240}@[a-z][a-z0-9_*/-]{0,13})"
    rb"=([\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e])"
)
_MOST_MEMBERS: Final = 32


class Parent(NamedTuple):
    """The caller's span, from its ``traceparent``."""

    trace_id: str
    span_id: str
    flags: int

    @property
    def sampled(self) -> bool:
        """Whether the caller records the trace."""
        return bool(self.flags & SAMPLED)


def parse_traceparent(value: bytes) -> Parent | None:
    """Returns the caller's span, or None for an invalid field, which a recipient must ignore.

    Later versions may have more fields after the flags; version 00 must not. Two fields joined by a comma are invalid.
    """
    match = _TRACEPARENT.fullmatch(value)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == b"ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == b"00" and more is not None):
        return None
    return Parent(trace_id.decode(), span_id.decode(), int(flags, 16))


def parse_tracestate(value: bytes) -> list[tuple[str, str]]:
    """Returns the members of a ``tracestate`` in order; none if one is invalid or there are too many."""
    members: dict[str, str] = {}
    for part in value.split(b","):
        member = part.strip(b" \t")
        if not member:
            continue
        match = _MEMBER.fullmatch(member)
        if match is None or match[1].decode() in members:
            return []
        members[match[1].decode()] = match[2].decode()
    return list(members.items()) if len(members) <= _MOST_MEMBERS else []


class Trace:
    """The two spans of an exchange before they are recorded: their ids, and facts that the exchange does not hold.

    ``parent_id`` is empty if the trace begins here. ``opened_at`` is when the upstream request was created, in seconds
    of the monotonic clock, and ``target`` is its target; before that they are 0.0 and empty.
    """

    __slots__ = (
        "client_id",
        "flags",
        "host",
        "opened_at",
        "parent_id",
        "scheme",
        "server_id",
        "state",
        "target",
        "trace_id",
        "user_agent",
    )

    def __init__(self, trace_id: str, parent_id: str, flags: int, *, server_id: str, client_id: str) -> None:
        self.trace_id = trace_id
        self.parent_id = parent_id
        self.flags = flags & (SAMPLED | _RANDOM)
        self.server_id = server_id
        self.client_id = client_id
        self.state = b""  # the caller's tracestate
        self.scheme = ""
        self.host = b""
        self.user_agent = b""
        self.opened_at = 0.0
        self.target = b""

    @property
    def sampled(self) -> bool:
        """Whether its spans are recorded."""
        return bool(self.flags & SAMPLED)

    def carry(self, headers: Headers) -> Headers:
        """Returns ``headers`` with the client span as parent.

        A tracestate is sent only if the caller's trace continues.
        """
        gone = (b"traceparent",) if self.parent_id else (b"traceparent", b"tracestate")
        out = [pair for pair in headers if pair[0] not in gone]
        out.append((b"traceparent", f"00-{self.trace_id}-{self.client_id}-{self.flags:02x}".encode()))
        return out
