"""Events from Redis: the channel of a request, and the form in which a client gets a message. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from streamproxy.config.redis import CHANNEL_FIELD, channel
from streamproxy.errors import BadRequest
from streamproxy.formats.sse import LINE_END

_VALUE: Final = re.compile(rb"[A-Za-z0-9._:-]{1,256}")
_ENTRY_ID: Final = re.compile(rb"([0-9]{1,20})-([0-9]{1,20})")
_NOT_IN_A_FIELD: Final = re.compile(rb"[\r\n\0]")
_LARGEST: Final = 2**64 - 1

EntryId = tuple[int, int]


class ChannelRequest(NamedTuple):
    """The parts of a request that a channel can contain. ``path`` and ``query`` are raw, without the ``?``."""

    principal: str
    path: bytes
    query: bytes
    headers: Iterable[tuple[bytes, bytes]]  # lower-case names


class ChannelTemplate:
    """A template such as ``user:{principal}``; ``fields`` are the names in braces.

    `expand` returns the channel of a request. Values may contain only harmless characters, so a client can neither name
    a pattern nor reach a channel outside of the template.
    """

    __slots__ = ("_parts", "fields")

    def __init__(self, text: str) -> None:
        """Raises ValueError with the rest of a sentence that begins with the value."""
        parts: list[tuple[str, bytes]] = []
        at = 0
        for match in CHANNEL_FIELD.finditer(channel(text)):
            parts += [("", text[at : match.start()].encode()), (match[1], b"")]
            at = match.end()
        parts.append(("", text[at:].encode()))
        self._parts = [part for part in parts if part != ("", b"")]
        self.fields = tuple(name for name, _ in parts if name)

    def expand(self, request: ChannelRequest) -> bytes:
        """Returns the channel of this request. Raises BadRequest for a value that is missing, repeated or invalid."""
        return b"".join(_value(name, request) if name else literal for name, literal in self._parts)


def _value(name: str, request: ChannelRequest) -> bytes:
    kind, _, rest = name.partition(".")
    values = _SOURCES[kind](request, rest)
    if len(values) != 1 or not _VALUE.fullmatch(values[0]):
        raise BadRequest(f"The {_WORDS[kind]} that names the channel is missing or has characters that it may not have")
    return values[0]


def _from_path(request: ChannelRequest, number: str) -> list[bytes]:
    segments = request.path.split(b"/")[1:]
    return [unquote_to_bytes(segment) for segment in segments[int(number) - 1 : int(number)]]


def _from_query(request: ChannelRequest, name: str) -> list[bytes]:
    pairs = [pair.partition(b"=") for pair in request.query.split(b"&")]
    return [unquote_to_bytes(value) for key, _, value in pairs if unquote_to_bytes(key) == name.encode()]


def _from_header(request: ChannelRequest, name: str) -> list[bytes]:
    return [value.strip() for key, value in request.headers if key == name.lower().encode()]


_SOURCES: Final[dict[str, Callable[[ChannelRequest, str], list[bytes]]]] = {
    "principal": lambda request, _: [request.principal.encode()],
    "path": _from_path,
    "query": _from_query,
    "header": _from_header,
}
_WORDS: Final = {"principal": "name of the client", "path": "path", "query": "parameter", "header": "header field"}


def parse_entry_id(value: bytes) -> EntryId:
    """Returns the id of a stream's entry from what a client sent. Raises BadRequest."""
    match = _ENTRY_ID.fullmatch(value)
    if match is None or (parsed := (int(match[1]), int(match[2]))) > (_LARGEST, _LARGEST) or parsed[1] > _LARGEST:
        raise BadRequest("The last event's id is no id of this stream")
    return parsed


def render_event(data: bytes, event: bytes = b"", id: bytes = b"") -> bytes:
    """Returns one server-sent event, whatever ``data`` contains: each of its lines becomes a ``data`` line.

    An event name with a line end or a NUL is left out, because it would change the meaning.
    """
    out = []
    if event and not _NOT_IN_A_FIELD.search(event):
        out.append(b"event: " + event + b"\n")
    lines = (data,) if b"\n" not in data and b"\r" not in data else LINE_END.split(data)
    out += [b"data: " + line + b"\n" for line in lines]
    if id:
        out.append(b"id: " + id + b"\n")
    out.append(b"\n")
    return b"".join(out)


def render_entry(id: bytes, fields: list[bytes]) -> bytes:
    """Returns the event for a stream's entry; empty if the entry has no field ``data``."""
    pairs = dict(zip(fields[::2], fields[1::2], strict=True))
    data = pairs.get(b"data")
    return b"" if data is None else render_event(data, pairs.get(b"event", b""), id)
