"""Values out of JSON that an upstream sent: nothing in it is believed to have the type that its API documents."""

from __future__ import annotations

import json
from typing import Any, Final

from pydantic_core import from_json

_MOST: Final = 1 << 40  # tokens; what is above is a mistake
_LONGEST: Final = 256  # characters of a name


def decode(data: bytes) -> dict[str, Any] | None:
    """The JSON object in ``data``; None for anything else.

    The cost is bounded by the length: the depth by the interpreter's recursion limit, an integer by its limit of
    digits.
    """
    if data.lstrip()[:1] != b"{":  # the end markers of streams, mostly
        return None
    try:
        value = from_json(data)
    except ValueError:
        value = _decode_leniently(data)
    return value if isinstance(value, dict) else None


def _decode_leniently(data: bytes) -> object:
    """What the faster parser refuses is read all the same: invalid UTF-8, half a surrogate pair, deep nesting."""
    try:
        return json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None


def encode(value: object) -> bytes:
    """``value`` as JSON on one line; an empty object for what is too deep."""
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return b"{}"


def tokens(value: object) -> int | None:
    """A number of tokens; None for what is none: a wrong type, less than 0, or more than anybody can have used."""
    if type(value) is int and 0 <= value < _MOST:
        return value
    return None


def name(value: object) -> str:
    """A short string, empty for anything else."""
    if isinstance(value, str) and len(value) <= _LONGEST:
        return value
    return ""


def table(value: object) -> dict[str, Any]:
    """An object, empty for anything else."""
    return value if isinstance(value, dict) else {}


def first(value: object) -> dict[str, Any]:
    """The first object of an array, empty where there is none."""
    return table(value[0]) if isinstance(value, list) and value else {}


def tables(value: object) -> list[dict[str, Any]]:
    """The objects of an array."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def has_value(chunk: bytes, key: bytes) -> bool:
    """Whether a key, given with its quotes, stands in JSON with a value other than null.

    A key inside of a string has its quotes escaped, so that it is none.
    """
    at = chunk.find(key)
    while at >= 0:
        at += len(key)
        if chunk[at : at + 5] != b":null" and chunk[at : at + 6] != b": null":
            return True
        at = chunk.find(key, at)
    return False
