"""Parsers of durations, sizes, switches and counts.

Each parser takes a value as written in a file (text) or as a Python value, and raises ValueError with the end of a
sentence that begins with the value: "is not a duration: ...".
"""

from __future__ import annotations

import re
from typing import NamedTuple

_OFF = frozenset({"off", "false", "no", "null", "~"})
_ON = frozenset({"on", "true", "yes"})

_NUMBER = r"[0-9]+(?:\.[0-9]+)?"
# Also the patterns of the JSON Schema.
DURATION_PATTERN = rf"({_NUMBER})(ms|s|m|h)?"
SIZE_PATTERN = rf"({_NUMBER})(B|kB|KB|MB|GB|KiB|MiB|GiB)?"
RATE_PATTERN = rf"([0-9]{{1,15}})/((?:{_NUMBER})?(?:ms|s|m|h)|{_NUMBER})"

_DURATION = re.compile(DURATION_PATTERN)
_SIZE = re.compile(SIZE_PATTERN)
_RATE = re.compile(RATE_PATTERN)
_LONGEST_PERIOD = 86_400.0  # seconds
_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_BYTES = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
    None: 1,
}
_NOT_A_DURATION = "is not a duration: write 250ms, 15s, 5m, 1h or a number of seconds"
_NOT_A_RATE = "is not a rate: write a count and a period, as in 100/1m, 10/s or 1000000/1h"
_NOT_A_SIZE = "is not a size: write 64KiB, 10MiB, 1GB or a whole number of bytes"


def is_off(value: object) -> bool:
    """Whether a value means ``off``, in any of its YAML 1.1 spellings."""
    return value is None or value is False or (isinstance(value, str) and value.lower() in _OFF)


def is_on(value: object) -> bool:
    """Whether a value means ``on``, in any of its YAML 1.1 spellings."""
    return value is True or (isinstance(value, str) and value.lower() in _ON)


def _text_of_number(value: object, problem: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return format(value, "f") if isinstance(value, float) else str(value)
    raise ValueError(problem)


def duration(value: object) -> float:
    """Returns a duration such as ``15s`` in seconds. Raises ValueError."""
    if isinstance(value, float) and value >= 0 and value != float("inf"):
        return value
    match = _DURATION.fullmatch(_text_of_number(value, _NOT_A_DURATION))
    if match is None:
        raise ValueError(_NOT_A_DURATION)
    # Divided, not multiplied by 0.001, so that 3ms is exactly 0.003.
    number = float(match[1])
    return number / 1000 if match[2] == "ms" else number * _SECONDS[match[2]]


def size(value: object) -> int:
    """Returns a size such as ``64KiB`` in bytes. Raises ValueError."""
    match = _SIZE.fullmatch(_text_of_number(value, _NOT_A_SIZE))
    if match is None:
        raise ValueError(_NOT_A_SIZE)
    number = float(match[1]) if "." in match[1] else int(match[1])
    total = number * _BYTES[match[2]]
    if total != int(total):
        raise ValueError(_NOT_A_SIZE)
    return int(total)


def switch(value: object) -> bool:
    """Returns True for ``on`` and False for ``off``. Raises ValueError."""
    if is_on(value):
        return True
    if value is not None and is_off(value):
        return False
    raise ValueError("is not a switch: write on or off")


def count(value: object) -> int:
    """Returns a whole number of at least 0. Raises ValueError."""
    problem = "is not a whole number: write 1, 2 and so on"
    digits = _text_of_number(value, problem)
    if not re.fullmatch(r"[0-9]+(_[0-9]+)*", digits):
        raise ValueError(problem)
    return int(digits)


class Rate(NamedTuple):
    """A count per period in seconds."""

    amount: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.amount}/{self.seconds:g}s"


def rate(value: object) -> Rate:
    """Parses a rate such as ``100/1m``: a count of at least 1, and a period of at most a day. Raises ValueError."""
    if isinstance(value, Rate):
        return value
    match = _RATE.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_NOT_A_RATE)
    amount = int(match[1])
    seconds = duration(match[2] if match[2][0].isdigit() else "1" + match[2])
    if amount < 1 or not 0 < seconds <= _LONGEST_PERIOD:
        raise ValueError("is not a rate: the count must be at least 1, and the period more than 0 and at most 24h")
    return Rate(amount, seconds)
