"""The origin of what no route takes."""

from __future__ import annotations

from streamproxy.errors import NoRoute
from streamproxy.exchange.call import Call
from streamproxy.origins.base import Origin, OriginResponse


class NotFound(Origin):
    """Has no response to anything."""

    __slots__ = ()

    async def open(self, call: Call) -> OriginResponse:
        raise NoRoute()
