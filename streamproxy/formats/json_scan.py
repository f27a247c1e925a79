r"""Finds members at the top level of a JSON object as its bytes arrive, and decodes nothing else.

Theory of operation (RFC 8259). The scanner is in one of a few states: before the object, before or inside a key, before
the colon, before or inside a value, after a value, after the object. The top level must follow the grammar. Nested
values are skipped: brackets are matched by kind and strings are stepped over. Between them only white space, commas,
colons, numbers and the letters of the literals may occur, so that JSON dialects with comments or other quotes are never
misread. A chunk may end anywhere. Kept across chunks are an unfinished key, wanted values up to ``keep`` bytes, and the
open brackets. What a body begins with is read at once by `json_members`, as far as that goes, and only the rest by
steps.

``find``, ``translate``, ``count`` and a few regular expressions do the work, with one step for each string or for many
short ones, and not for each byte.

JSON parsers differ in which of two members with the same name they use, and some ignore case. So a second member whose
name equals one of ``unique`` in any case has an outcome of its own.
"""

from __future__ import annotations

import json
import re
from typing import Final, Literal

from streamproxy.formats.bom import BOM
from streamproxy.formats.json_brackets import ALLOWED, HIDDEN, outside, position_behind, without_pairs
from streamproxy.formats.json_members import (
    LONGEST_KEY,
    LONGEST_SCALAR,
    SCALAR,
    LeadingMembers,
    Member,
    Wanted,
    is_second,
    stack_of,
    string_end,
)

Verdict = Literal["more", "done", "not_json", "duplicate"]

DEPTH: Final = 500  # nested brackets; parsers have similar limits

# The states. Each is a constant of its own, which the compiled code has no need to look up.
_BEFORE: Final = 0
_FIRST_KEY: Final = 1
_KEY: Final = 2
_IN_KEY: Final = 3
_COLON: Final = 4
_VALUE: Final = 5
_STRING: Final = 6
_NESTED: Final = 7
_SCALAR: Final = 8
_COMMA: Final = 9
_BEHIND: Final = 10

_LEAST_AT_ONCE: Final = 8  # bytes; a shorter beginning has no whole member
_SPACE: Final = re.compile(rb"[ \t\r\n]*")
_LAST_SPACE: Final = 0x20
_SCALAR_RUN: Final = re.compile(rb"[-+.0-9A-Za-z]*")
_COMMON: Final = frozenset({b":", b",", b": ", b", "})
# Where strings are short, a window of text is looked at as one: without its strings its brackets are what is left.
_SHORT: Final = 64
_ENOUGH: Final = 8  # consecutive short strings before this is tried
_LEAST: Final = 256  # bytes of a window
_GROWTH: Final = 3  # a window's size, as a multiple of what has been read before it
_CLOSES: Final = {0x5D: 0x5B, 0x7D: 0x7B}
_QUOTE: Final = 0x22
_BACKSLASH: Final = 0x5C


class MemberScanner:
    """Finds the wanted members of a body that arrives in chunks.

    ``verdict`` is ``more`` until the outcome is known: ``done``, ``not_json`` if the body is not a JSON object, or
    ``duplicate``. Where an element is wanted, the verdict is ``done`` at its closing bracket, and ``end`` is the
    position after it.
    """

    __slots__ = (
        "_capture",
        "_escaped",
        "_in_string",
        "_key",
        "_offset",
        "_place",
        "_seen",
        "_stack",
        "_start",
        "_value",
        "_wanted",
        "end",
        "members",
        "verdict",
    )

    def __init__(self, wanted: Wanted) -> None:
        self.verdict: Verdict = "more"
        self.members: dict[bytes, Member] = {}
        self.end = 0
        self._wanted = wanted
        self._seen: set[bytes] = set()
        self._place = _BEFORE
        self._offset = 0  # the position of the chunk in the body
        self._key = b""
        self._start = 0  # the position of the value in the body
        self._capture = False
        self._value: bytearray  # its bytes so far, if they are kept
        self._in_string = False
        self._escaped = False
        self._stack: bytearray  # the open brackets of a nested value

    def feed(self, chunk: bytes) -> bool:
        """Takes the next bytes of the body. Returns whether more are wanted."""
        end = len(chunk)
        position = self._begin(chunk) if end > _LEAST_AT_ONCE and not self._offset else 0
        while position < end and self.verdict == "more":
            place = self._place
            if place == _NESTED:
                position = self._nested(chunk, position)
            elif place == _STRING:
                position = self._string(chunk, position)
            elif place == _SCALAR:
                position = self._scalar(chunk, position)
            elif place == _IN_KEY:
                position = self._in_key(chunk, position)
            else:
                position = self._between(chunk, position)
        self._offset += end
        return self.verdict == "more"

    def finish(self) -> Verdict:
        """Handles the end of the body. Returns the verdict, which is no longer ``more``."""
        if self.verdict == "more":
            self.verdict = "done" if self._place == _BEHIND else "not_json"
        return self.verdict

    def _begin(self, chunk: bytes) -> int:
        """Reads the members at the beginning of the body at once. Returns the position from which to go on by steps."""
        leading, wanted = LeadingMembers(chunk), self._wanted
        position = leading.read(wanted, self.members, self._seen)
        if leading.closed:
            self._place = _BEHIND
        elif leading.brackets:
            self._key = leading.key
            self._begin_value(chunk[leading.start], leading.start)
            self._take(chunk, leading.start + 1, position)
            self._stack = stack_of(leading.brackets)
        elif position:
            self._place = _KEY
        if leading.closed and wanted.element:
            self.end = position
            self.verdict = "done"
        elif position and not wanted.to_end and len(self.members) == len(wanted.names):
            self.verdict = "done"
        return position

    def _between(self, chunk: bytes, position: int) -> int:
        """Handles a position where white space and one structural character are expected."""
        if self._place == _BEFORE and self._offset + position < len(BOM):
            at = self._offset + position
            if chunk[position] == BOM[at]:
                self._escaped = True  # inside a byte order mark
                return position + 1
            if at and self._escaped:
                return self._fail(position)
        byte = chunk[position]
        if byte <= _LAST_SPACE:
            match = _SPACE.match(chunk, position)
            position = match.end() if match is not None else position
            if position == len(chunk):
                return position
            byte = chunk[position]
        self._structure(byte, position)
        return position if self._place == _SCALAR else position + 1

    def _structure(self, byte: int, position: int) -> None:
        place = self._place
        if place == _VALUE:
            self._begin_value(byte, self._offset + position)
        elif place in (_KEY, _FIRST_KEY) and byte == _QUOTE:
            self._place = _IN_KEY
            self._key = b""
            self._escaped = False
        elif place == _COLON and byte == 0x3A:
            self._place = _VALUE
        elif place == _COMMA and byte == 0x2C:
            self._place = _KEY
        elif place in (_COMMA, _FIRST_KEY) and byte == 0x7D:
            self._place = _BEHIND
            if self._wanted.element:
                self.end = self._offset + position + 1
                self.verdict = "done"
        elif place == _BEFORE and byte == 0x7B:
            self._place = _FIRST_KEY
        else:
            self._fail(position)

    def _begin_value(self, byte: int, at: int) -> None:
        self._capture = self._key in self._wanted.names
        self._start = at
        self._value = bytearray()
        self._escaped = False
        if byte == _QUOTE:
            self._place = _STRING
        elif byte in (0x5B, 0x7B):
            self._place = _NESTED
            self._in_string = False
            self._stack = bytearray((byte,))
        else:
            self._place = _SCALAR
            return
        if self._capture:
            self._value.append(byte)

    def _in_key(self, chunk: bytes, position: int) -> int:
        end = self._string_end(chunk, position)
        if end >= 0 and not self._key and end - position <= LONGEST_KEY:
            self._key = chunk[position : end - 1]
        else:
            self._key += chunk[position : len(chunk) if end < 0 else end - 1][: LONGEST_KEY - len(self._key)]
            if end < 0:
                return len(chunk)
        if self._key.find(b"\\") >= 0:
            try:
                self._key = json.loads(b'"' + self._key + b'"').encode("utf-8", "surrogatepass")
            except ValueError:
                if len(self._key) < LONGEST_KEY:
                    return self._fail(position)
        if is_second(self._key.lower(), self._wanted.unique, self._seen):
            self.verdict = "duplicate"
        self._place = _COLON
        return end

    def _string(self, chunk: bytes, position: int) -> int:
        end = self._string_end(chunk, position)
        if end < 0:
            self._take(chunk, position, len(chunk))
            return len(chunk)
        self._take(chunk, position, end)
        return self._end_value(end)

    def _string_end(self, chunk: bytes, position: int) -> int:
        """Returns the position after the closing quote of the string that continues at ``position``, or -1."""
        if self._escaped:
            self._escaped = False
            position += 1
        end = string_end(chunk, position)
        if end < 0 and position < len(chunk) and chunk[-1] == _BACKSLASH:
            rest = chunk[position:]
            self._escaped = (len(rest) - len(rest.rstrip(b"\\"))) % 2 == 1
        return end

    def _scalar(self, chunk: bytes, position: int) -> int:
        match = _SCALAR_RUN.match(chunk, position)
        end = match.end() if match is not None else position
        room = max(self._wanted.keep, LONGEST_SCALAR) + 1 - len(self._value)
        self._value += chunk[position : min(end, position + room)]
        if end == len(chunk):
            return end
        length = self._offset + end - self._start
        if length <= LONGEST_SCALAR and SCALAR.fullmatch(self._value) is None:
            return self._fail(position)
        return self._end_value(end)

    def _nested(self, chunk: bytes, position: int) -> int:
        begin = position
        short, refused = 0, 0  # no window is tried before ``refused``
        while True:
            if self._in_string:
                opened = position
                position = self._string_end(chunk, position)
                if position < 0:
                    break
                self._in_string = False
                short = short + 1 if position - opened < _SHORT else 0
            size = _GROWTH * (position - begin)
            if short >= _ENOUGH and size >= _LEAST and position >= refused:
                behind = self._window(chunk, position, size)
                refused = position + size if behind == position else 0
                position = behind
            quote = chunk.find(b'"', position)
            between = chunk[position : len(chunk) if quote < 0 else quote]
            if between not in _COMMON:
                closed = self._brackets(between)
                if closed < 0:
                    return self._fail(position)
                if closed:
                    end = position + closed
                    self._take(chunk, begin, end)
                    return self._end_value(end)
            if quote < 0:
                break
            self._in_string = True
            position = quote + 1
            if position == len(chunk):
                break
        self._take(chunk, begin, len(chunk))
        return len(chunk)

    def _window(self, chunk: bytes, position: int, size: int) -> int:
        """Returns the position behind the next ``size`` bytes, or where a string begins that they cut in two.

        Where the value ends among them, or is invalid, the position stays: whoever goes on in steps finds the place.
        """
        window = chunk[position : position + size]
        if window.find(b"\\") >= 0:
            # What is escaped is no quote; outside of strings an "x" is as invalid as a backslash.
            window = window.replace(b"\\\\", b"xx").replace(b'\\"', b"xx")
        text = window.translate(None, ALLOWED)  # inside of strings, too, where it does no harm
        quotes = text.count(b'"')
        if quotes % 2:  # behind the last quote is the beginning of a string
            text = text[: text.rfind(b'"')]
            quotes -= 1
            size = window.rfind(b'"')
        else:
            size = len(window)
        brackets = outside(text, quotes)
        if brackets is None:
            return position
        stack = bytearray(self._stack)
        for byte in without_pairs(brackets):
            if len(stack) > DEPTH - HIDDEN:
                return position  # by steps the depth is exact
            if byte == 0x7B or byte == 0x5B:
                stack.append(byte)
            elif stack[-1] == _CLOSES[byte] and len(stack) > 1:
                stack.pop()
            else:
                return position
        if len(stack) > DEPTH - HIDDEN:
            return position
        self._stack = stack
        return position + size

    def _brackets(self, between: bytes) -> int:
        """Matches the brackets in the text between two strings.

        Returns the position after the bracket that closes the value, 0 if the value continues, -1 for invalid JSON.
        """
        stack = self._stack
        for count, byte in enumerate(between.translate(None, ALLOWED), 1):
            if byte == 0x7B or byte == 0x5B:
                if len(stack) >= DEPTH:
                    return -1
                stack.append(byte)
            elif (byte == 0x7D or byte == 0x5D) and stack[-1] == _CLOSES[byte]:
                stack.pop()
                if not stack:
                    return position_behind(between, count)
            else:
                return -1
        return 0

    def _take(self, chunk: bytes, start: int, end: int) -> None:
        if self._capture:
            room = self._wanted.keep + 1 - len(self._value)
            self._value += chunk[start : min(end, start + room)]

    def _end_value(self, end: int) -> int:
        self._place = _COMMA
        if self._capture:
            at = self._offset + end
            short = at - self._start <= self._wanted.keep
            self.members[self._key] = Member(self._start, at, bytes(self._value) if short else None)
            if not self._wanted.to_end and len(self.members) == len(self._wanted.names):
                self.verdict = "done"
        return end

    def _fail(self, position: int) -> int:
        self.verdict = "not_json"
        return position
