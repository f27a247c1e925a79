"""The members that are looked for in a JSON object, and a fast reader of those at its beginning.

A request's body has mostly arrived as a whole, and is short but for a few long strings. `LeadingMembers` looks at each
of the few bytes between the strings, and leaps over long strings. It reads members of the usual form and stops before
anything else: a value that is not all there, an escape in a key, a long text without a string, brackets that are nested
deeply, an error. From there on, `streamproxy.formats.json_scan` reads by steps, and alone decides what is wrong. So
what is read is the same with this reader as without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from streamproxy.formats.json_brackets import ALLOWED
from streamproxy.version import COMPILED

LONGEST_KEY: Final = 1024  # bytes; no wanted key is longer
LONGEST_SCALAR: Final = 64  # bytes that are checked; a longer number is skipped
SCALAR: Final = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")

_STRINGS: Final = 256  # that are read; where strings are many and short, windows of them cost less
_LONGEST_TEXT: Final = 64  # bytes between two strings; a longer text costs less as a whole. At most a scalar's limit.
_NEAR: Final = 16 if COMPILED else 0  # bytes of a string that are looked at one by one; otherwise a call costs less
_ESCAPES: Final = 8  # escaped quotes in a string, behind which it is read in windows without escapes
_WINDOW: Final = 256  # bytes of the first of them
_DEEPEST: Final = 1 << 40  # 40 nested brackets
_LITERALS: Final = frozenset({b"true", b"false", b"null", b"0", b"1"})
_QUOTE: Final = 0x22
_COMMA: Final = 0x2C
_COLON: Final = 0x3A
_BACKSLASH: Final = 0x5C
_OPENS: Final = 0x7B
_OPENS_ARRAY: Final = 0x5B
_CLOSES: Final = 0x7D
_NO_BYTE: Final = -1
# What a byte of a nested value is, outside of its strings.
_PLAIN: Final = 1
_OPENING: Final = 2
_CLOSING: Final = 3
_STRING: Final = 4
_MARKS: Final = {0x5B: _OPENING, 0x7B: _OPENING, 0x5D: _CLOSING, 0x7D: _CLOSING, 0x22: _STRING}
_KINDS: Final = bytes([_MARKS.get(byte, _PLAIN if byte in ALLOWED else 0) for byte in range(256)])
_IN_SCALAR: Final = bytes([byte < 0x80 and (chr(byte).isalnum() or byte in b"-+.") for byte in range(256)])


class Member:
    """The position of a member's value in the body, and its bytes; None if there are more than are kept."""

    __slots__ = ("end", "start", "value")

    def __init__(self, start: int, end: int, value: bytes | None) -> None:
        self.start = start
        self.end = end
        self.value = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Member):
            return NotImplemented
        return self.start == other.start and self.end == other.end and self.value == other.value

    def __repr__(self) -> str:
        return f"Member({self.start}, {self.end}, {self.value!r})"


class Wanted:
    """The names of members that are looked for, prepared once for many bodies.

    Of several members with the same name that is not ``unique``, the last counts. While a unique name is wanted, a body
    is read to its end; otherwise only up to the last wanted member. Values of up to ``keep`` bytes are kept. With
    ``element``, the object is part of a longer text, and is read to its closing bracket.
    """

    __slots__ = ("element", "keep", "names", "to_end", "unique")

    def __init__(
        self, names: Iterable[bytes], *, unique: Iterable[bytes] = (), keep: int = 4096, element: bool = False
    ) -> None:
        self.names = frozenset(names)
        self.unique = frozenset([name.lower() for name in unique])
        self.keep = keep
        self.element = element
        self.to_end = element or bool(self.unique)


class LeadingMembers:
    """Reads the members at the beginning of ``chunk``, the first bytes of a body.

    The methods move ``_position`` over what they are named for, and tell whether it was there. If not, `read` returns
    the position behind the last comma that it has passed, or one inside of an array or object that goes on.

    ``closed`` is whether the whole object was read. ``key`` and ``start`` are the name of the last member and the
    position of its value. ``brackets`` are the open ones of a value that goes on: in binary, behind a leading 1, a
    digit for each, which is 1 for an object's; otherwise 0.
    """

    __slots__ = ("_chunk", "_left", "_position", "_size", "_value_end", "brackets", "closed", "key", "start")

    def __init__(self, chunk: bytes) -> None:
        self._chunk = chunk
        self._size = len(chunk)
        self._position = 0
        self._left = _STRINGS
        self._value_end = 0
        self.key = b""
        self.start = 0
        self.brackets = 0
        self.closed = False

    def read(self, wanted: Wanted, members: dict[bytes, Member], seen: set[bytes]) -> int:
        """Adds the wanted ones to ``members``, and the unique names in lower case to ``seen``.

        Returns the position up to which it has read: behind the object if it is ``closed``, inside of a value that goes
        on if there are ``brackets``, otherwise behind the comma of a member, or 0.
        """
        if self._next() != _OPENS:
            return 0
        self._position += 1
        passed = 0
        while self._next() == _QUOTE:
            behind = self._member()
            if behind != _COMMA and behind != _CLOSES and not self.brackets:
                break
            key = self.key
            if wanted.unique and is_second(key.lower(), wanted.unique, seen):
                self.brackets = 0
                break
            passed = self._position
            if self.brackets:
                break
            if key in wanted.names:
                members[key] = self._last_member(wanted.keep)
            if behind == _CLOSES:
                self.closed = True
                break
            if not wanted.to_end and len(members) == len(wanted.names):
                break
        return passed

    def _member(self) -> int:
        """Moves over a member, whose first quote is the next byte, and over the byte behind it, which it returns.

        Returns -1 for a member that is not all there, or not of the usual form.
        """
        begin = self._position + 1
        if not self._string():
            return _NO_BYTE
        self.key = key = self._chunk[begin : self._position - 1]
        if len(key) > LONGEST_KEY or _BACKSLASH in key or self._next() != _COLON:
            return _NO_BYTE
        self._position += 1
        first = self._next()
        self.start = self._position
        if first in (_OPENS, _OPENS_ARRAY):
            read = self._nested()
        else:
            read = self._string() if first == _QUOTE else self._scalar()
        if not read:
            return _NO_BYTE
        self._value_end = self._position
        behind = self._next()
        self._position += 1
        return behind

    def _last_member(self, keep: int) -> Member:
        start, end = self.start, self._value_end
        return Member(start, end, self._chunk[start:end] if end - start <= keep else None)

    def _next(self) -> int:
        """Moves over white space. Returns the byte behind it; -1 at the end of the chunk, or where it is long."""
        chunk, position = self._chunk, self._position
        end = min(position + _LONGEST_TEXT, self._size)
        while position < end:
            byte = chunk[position]
            if byte > 0x20 or (byte != 0x20 and byte != 0x0A and byte != 0x0D and byte != 0x09):
                self._position = position
                return byte
            position += 1
        return _NO_BYTE

    def _string(self) -> bool:
        chunk, position = self._chunk, self._position + 1
        self._left -= 1
        if not self._left:
            return False
        near = min(position + _NEAR, self._size)
        while position < near:
            byte = chunk[position]
            position += 1
            if byte == _QUOTE:
                self._position = position
                return True
            if byte == _BACKSLASH:
                position += 1
        position = string_end(chunk, position)
        if position < 0:
            return False
        self._position = position
        return True

    def _nested(self) -> bool:
        chunk, position, brackets = self._chunk, self._position, 1
        end = min(position + _LONGEST_TEXT, self._size)
        while position < end:
            byte = chunk[position]
            kind = _KINDS[byte]
            position += 1
            if kind == _STRING:
                self._position = position - 1
                if not self._string():
                    self.brackets = brackets
                    return False
                position = self._position
                end = min(position + _LONGEST_TEXT, self._size)
            elif kind == _OPENING:
                brackets = brackets * 2 + (byte >> 5 & 1)
                if brackets > _DEEPEST:
                    return False
            elif kind == _CLOSING:
                if brackets & 1 != byte >> 5 & 1:
                    return False
                brackets >>= 1
                if brackets == 1:
                    self._position = position
                    return True
            elif kind != _PLAIN:
                return False
        self._position = position
        self.brackets = brackets
        return False

    def _scalar(self) -> bool:
        chunk, begin = self._chunk, self._position
        position, end = begin, min(begin + _LONGEST_TEXT, self._size)
        while position < end and _IN_SCALAR[chunk[position]]:
            position += 1
        self._position = position
        text = chunk[begin:position]
        return position < end and (text in _LITERALS or SCALAR.fullmatch(text) is not None)


def string_end(chunk: bytes, position: int) -> int:
    """Returns the position behind the closing quote of a string that is not escaped at ``position``, or -1."""
    escapes = 0
    while True:
        quote = chunk.find(b'"', position)
        if quote < 0:
            return -1
        if quote == position or chunk[quote - 1] != _BACKSLASH:
            return quote + 1
        if quote - 1 == position or chunk[quote - 2] != _BACKSLASH:
            escapes += 1  # the usual case: one backslash, which escapes this quote
            if escapes > _ESCAPES:
                return _escaped_end(chunk, quote + 1)
        else:
            text = chunk[position:quote]
            if (len(text) - len(text.rstrip(b"\\"))) % 2 == 0:
                return quote + 1
        position = quote + 1


def _escaped_end(chunk: bytes, position: int) -> int:
    """`string_end` for a string with many escapes: looks for the quote in windows without them."""
    size = _WINDOW
    while True:
        window = chunk[position : position + size].replace(b"\\\\", b"xx").replace(b'\\"', b"xx")
        quote = window.find(b'"')
        if quote >= 0:
            return position + quote + 1
        if len(window) < size:
            return -1
        position += size - 1 if window[-1] == _BACKSLASH else size  # an escape that is cut belongs to the next one
        size *= 4


def is_second(folded: bytes, unique: frozenset[bytes], seen: set[bytes]) -> bool:
    """Whether a name is unique and not the first of its kind; adds it to ``seen`` if it is the first."""
    if folded not in unique:
        return False
    if folded in seen:
        return True
    seen.add(folded)
    return False


def stack_of(brackets: int) -> bytearray:
    """The open ``brackets`` of a `LeadingMembers`, the outermost first."""
    return bytearray([_OPENS if digit == "1" else _OPENS_ARRAY for digit in f"{brackets:b}"[1:]])
