"""What is read from the JSON body of a request to an LLM API, and the few edits that may be made to it.

Every API has the members that matter at the top level, so one scanner serves all. An edit replaces or inserts bytes at
a position that the scanner found, and leaves every other byte as it came.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from streamproxy.formats.json_members import Member, Wanted
from streamproxy.formats.json_scan import MemberScanner

Members = Mapping[bytes, Member]

_OPTIONS: Final = (b"model", b"stream", b"stream_options")
_CONVERSATION: Final = (b"messages", b"contents", b"input", b"prompt", b"system")
_REQUEST: Final = Wanted(_OPTIONS, unique=[b"model"])
_REQUEST_WITH_CONVERSATION: Final = Wanted(_OPTIONS + _CONVERSATION, unique=[b"model"])
_STREAM: Final = Wanted([b"stream"])
_ROLE: Final = Wanted([b"role"], element=True)
_ASK: Final = b',"stream_options":{"include_usage":true}'
_MESSAGES: Final = 64  # that are looked at for the first of a user
_WINDOW: Final = 4096
_BLANK: Final = b" \t\r\n"
_BACKSLASH: Final = 0x5C


class Edit(NamedTuple):
    """Bytes from ``start`` to ``end`` of a body, and what takes their place."""

    start: int
    end: int
    new: bytes


class Peeked:
    """What was read ahead of a request's JSON body: where its members stand, and what they say.

    ``model`` is the name of the model; None for one that is no string, or longer than the scanner keeps. ``stream`` is
    whether a stream is wanted; None if the body does not say it.
    ``rewrite`` edits a body, and may be called again for another upstream: each time the edits are those of the body
    as it came.
    """

    __slots__ = ("_undo", "members", "model", "stream")

    def __init__(self, members: Members) -> None:
        self.members = members
        model, stream = members.get(b"model"), members.get(b"stream")
        wish = None if stream is None else stream.value
        self.model = None if model is None else _string(model.value)
        self.stream = True if wish == b"true" else False if wish == b"false" else None
        self._undo: list[Edit] = []

    @property
    def edited(self) -> bool:
        """Whether the result of the last `rewrite` is not the body as it came."""
        return bool(self._undo)

    def rewrite(self, body: bytes, edits: Iterable[Edit | None]) -> bytes:
        """``body``, which may be the result of an earlier call, with these edits alone."""
        original = apply_edits(body, self._undo) if self._undo else body
        made = sorted(edit for edit in edits if edit is not None)
        self._undo, shift = [], 0
        for edit in made:
            start = edit.start + shift
            self._undo.append(Edit(start, start + len(edit.new), original[edit.start : edit.end]))
            shift += len(edit.new) - (edit.end - edit.start)
        return apply_edits(original, made) if made else original


def stream_scanner() -> MemberScanner:
    """A scanner that looks for ``stream`` alone, and reads no further than to it."""
    return MemberScanner(_STREAM)


def request_scanner(conversation: bool = False) -> MemberScanner:
    """A scanner for request bodies; ``conversation``: for `prefix_of` too. Two ``model`` keys are its ``duplicate``."""
    return MemberScanner(_REQUEST_WITH_CONVERSATION if conversation else _REQUEST)


def model_edit(members: Members, model: str) -> Edit | None:
    """The edit that gives the request another ``model``; None where it has none."""
    member = members.get(b"model")
    return None if member is None else Edit(member.start, member.end, json.dumps(model).encode())


def usage_edit(members: Members) -> Edit | None:
    """The edit that asks OpenAI's completions for usage; None if the request does not stream or has options already."""
    stream = members.get(b"stream")
    if stream is None or stream.value != b"true" or b"stream_options" in members:
        return None
    return Edit(stream.end, stream.end, _ASK)


def apply_edits(body: bytes, edits: Iterable[Edit | None]) -> bytes:
    """The body with these edits, whose positions are those of ``body`` and do not overlap."""
    pieces, position = [], 0
    for edit in sorted(edit for edit in edits if edit is not None):
        pieces += [body[position : edit.start], edit.new]
        position = edit.end
    return b"".join([*pieces, body[position:]])


def prefix_of(body: bytes, members: Members, limit: int) -> bytes | None:
    """The bytes that requests of one conversation have in common, for choosing where its prefix is cached.

    They are the model and the conversation (``system``; ``messages``, ``contents`` or ``input``) through its first
    message of the user. Of a plain ``prompt`` or ``input`` they are its first ``limit`` bytes. None for a body that has
    none of these.
    """
    conversation = _conversation(body, members, limit)
    if conversation is None:
        return None
    return b"\0".join([_bytes(body, members, b"model"), _bytes(body, members, b"system"), conversation])


def _conversation(body: bytes, members: Members, limit: int) -> bytes | None:
    for key in (b"messages", b"contents", b"input", b"prompt"):
        member = members.get(key)
        if member is None:
            continue
        if body[member.start : member.start + 1] == b"[":
            end = _through_user(body, member)
            return body[member.start : min(member.end, member.start + limit) if end is None else end]
        if body[member.start : member.start + 1] == b'"':
            return body[member.start + 1 : min(member.end - 1, member.start + 1 + limit)]
    return None


def _through_user(body: bytes, array: Member) -> int | None:
    """The position behind the first message of the user, or behind the last that was looked at; None without any."""
    position, behind = array.start + 1, None
    for _ in range(_MESSAGES):
        position = _skip(body, position, _BLANK + b",")
        if body[position : position + 1] != b"{":
            break
        scanner = MemberScanner(_ROLE)
        start = position
        while position < array.end and scanner.feed(body[position : position + _WINDOW]):
            position += _WINDOW
        if scanner.verdict != "done":
            break
        position = behind = start + scanner.end
        role = scanner.members.get(b"role")
        if role is None or _string(role.value) == "user":
            break
    return behind


def _skip(body: bytes, position: int, blanks: bytes) -> int:
    while body[position : position + 1] and body[position] in blanks:
        position += 1
    return position


def _bytes(body: bytes, members: Members, key: bytes) -> bytes:
    member = members.get(key)
    return b"" if member is None else body[member.start : member.end]


def _string(value: bytes | None) -> str | None:
    if value is None or value[:1] != b'"':
        return None
    if value.isascii() and _BACKSLASH not in value:
        text = value[1:-1].decode("ascii")
        if text.isprintable():  # the usual name; a control character is no JSON
            return text
    try:
        decoded = json.loads(value)
    except ValueError:
        return None
    return decoded if isinstance(decoded, str) else None
