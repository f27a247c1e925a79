"""Heads of responses that came before.

An upstream repeats the heads of its streams, except for Date once a second. One that has come twice, byte for byte, is
neither parsed again nor read again for what is passed on of it. The heads are those of all upstreams: what one says
does not depend on who sent it.
"""

from __future__ import annotations

from typing import Final

from streamproxy.wire.headers import Headers
from streamproxy.wire.http1 import Framing
from streamproxy.wire.remembered import KnownHeads
from streamproxy.wire.response_fields import ResponseFields


class KnownResponse:
    """What a final head says where the request was not HEAD. Nothing of it changes.

    The attributes are those of `streamproxy.client.http1.response_head.HeadParser`.
    """

    __slots__ = ("_fields", "framing", "headers", "http_version", "reason", "status")

    def __init__(self, status: int, reason: bytes, http_version: str, headers: Headers, framing: Framing) -> None:
        self.status = status
        self.reason = reason
        self.http_version = http_version
        self.headers = headers
        self.framing = framing
        self._fields: ResponseFields | None = None  # read when the head comes again

    def fields(self) -> ResponseFields:
        """Returns the fields to pass on, which the caller may change."""
        if self._fields is None:
            self._fields = ResponseFields().prepare(self.headers)
        return self._fields.copy()


known_heads: Final[KnownHeads[KnownResponse]] = KnownHeads()
