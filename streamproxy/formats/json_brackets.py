"""The brackets of a piece of JSON, found without a step for each string in it.

Used where strings are short: of such a piece little but its brackets matters, and all that is done with it is done to
the whole of it at once.
"""

from __future__ import annotations

import re
from typing import Final

ALLOWED: Final = b" \t\r\n,:0123456789+-.eEtrufalsn"  # between strings and brackets

_BRACKETS: Final = b"[]{}"
_UNMARKED: Final = bytes([byte for byte in range(256) if byte not in b'[]{}"'])
_PAIRS: Final = 8  # times that pairs of brackets are taken out
_LONGEST_UNIT: Final = 64  # brackets of an element whose like are taken out at once
HIDDEN: Final = _LONGEST_UNIT // 2 + 2 * (_PAIRS + 1)  # levels of brackets that may have been taken out
_QUOTE: Final = 0x22
_BRACKET: Final = re.compile(rb"[\[\]{}]")
_SHORT: Final = 64  # bytes; to look at so many costs less than a regular expression


def outside(text: bytes, quotes: int) -> bytes | None:
    """Returns the brackets outside of the strings in ``text``, but for some pairs; None if anything else is outside.

    ``text`` is without the bytes that are allowed outside of strings, and begins and ends outside of them; none of its
    ``quotes`` is escaped. Strings are not visited one by one. Two adjacent quotes do not change on which side of the
    quotes the next byte is: where all quotes come in adjacent pairs, everything between the pairs is on the same side.
    """
    rest = text.translate(None, _BRACKETS)
    # If it is valid, only strings are left: between the first quote and the last, all quotes come in adjacent pairs.
    if rest and (rest[0] != _QUOTE or rest[-1] != _QUOTE or 2 * rest.count(b'""', 1, len(rest) - 1) != quotes - 2):
        return None
    marks = text.translate(None, _UNMARKED)
    if 2 * marks.count(b'""') != quotes:  # there are brackets inside of strings
        marks = marks.replace(b"{}", b"").replace(b"[]", b"")
        if 2 * marks.count(b'""') != quotes:
            return b"".join(marks.replace(b'""', b"").split(b'"')[::2])
    return marks.translate(None, b'"')


def without_pairs(brackets: bytes) -> bytes:
    """Returns the brackets without most of those that match, for which `HIDDEN` levels may have gone."""
    unit = _first_unit(brackets)
    if unit:  # an array's elements are often alike
        brackets = brackets.replace(unit, b"")
    return _pairs_removed(brackets)


def _pairs_removed(brackets: bytes) -> bytes:
    for _ in range(_PAIRS):
        length = len(brackets)
        brackets = brackets.replace(b"{}", b"").replace(b"[]", b"")
        if len(brackets) == length:
            break
    return brackets


def _first_unit(brackets: bytes) -> bytes:
    """Returns the first bracket that opens and all up to the one that closes it, if they match and are few."""
    begin = 0
    depth = 0
    for position, byte in enumerate(brackets[: 2 * _LONGEST_UNIT]):
        if byte == 0x7B or byte == 0x5B:
            if not depth:
                begin = position
            depth += 1
        elif depth:
            depth -= 1
            if not depth:
                unit = brackets[begin : position + 1]
                return unit if len(unit) <= _LONGEST_UNIT and not _pairs_removed(unit) else b""
    return b""


def position_behind(text: bytes, count: int) -> int:
    """Returns the position behind bracket number ``count`` of ``text``."""
    position = 0
    if len(text) <= _SHORT:
        while count:
            byte = text[position]
            position += 1
            if byte >= 0x5B and (byte == 0x7D or byte == 0x5D or byte == 0x7B or byte == 0x5B):
                count -= 1
        return position
    for match in _BRACKET.finditer(text):
        count -= 1
        position = match.end()
        if not count:
            break
    return position
