"""Formats numbers for people as the page of the admin listener does, and text so that it is safe on a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from streamproxy.observe.access_log import printable

NOTHING = "-"
_BLOCKS = "▁▂▃▄▅▆▇█"
_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")


def text(value: object) -> str:
    """Returns a name from a client or configuration as one line without control characters; `NOTHING` for None."""
    return NOTHING if value is None or value == "" else printable(str(value))


def duration(seconds: float | None) -> str:
    """Formats a measured time in seconds."""
    if seconds is None:
        return NOTHING
    if seconds < 0.9995:
        return f"{_digits(seconds * 1000)} ms"
    return f"{_digits(seconds)} s" if seconds < 60 else age(seconds)


def age(seconds: float) -> str:
    """Formats a growing time in seconds without decimals."""
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, hours, days = whole // 60, whole // 3600, whole // 86400
    if days:
        return f"{days} d {hours % 24} h"
    return f"{hours} h {minutes % 60} min" if hours else f"{minutes} min {whole % 60} s"


def size(number: float | None) -> str:
    """Formats a number of bytes."""
    if number is None:
        return NOTHING
    unit = 0
    while number >= 1023.5 and unit < len(_UNITS) - 1:
        number, unit = number / 1024, unit + 1
    return f"{number:.{1 if unit and number < 100 else 0}f} {_UNITS[unit]}"


def rate(number: float | None) -> str:
    """Formats a rate per second."""
    if number is None:
        return NOTHING
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.{2 if number < 9.995 else 1}f}" if number else "0"


def milliseconds(number: float | None) -> str:
    """Formats a measured time in milliseconds."""
    return duration(None if number is None else number / 1000)


def sparkline(history: Sequence[float], width: int) -> str:
    """Returns the end of a history as a line of blocks, scaled to its maximum."""
    shown = history[-width:]
    most = max(shown, default=0.0)
    blocks = "".join(_BLOCKS[round(value / most * (len(_BLOCKS) - 1))] if most else _BLOCKS[0] for value in shown)
    return blocks.rjust(width)


def request(stream: dict[str, Any]) -> str:
    """Returns the method and path of a stream."""
    return printable(f"{stream['method']} {stream['path']}")


def client(stream: dict[str, Any]) -> str:
    """Returns the address of a client, behind the name of its principal if it has one."""
    address = text(stream["client"])
    return f"{printable(stream['principal'])} {address}" if stream.get("principal") else address


def phase(stream: dict[str, Any]) -> str:
    """Returns the phase of a stream, the failure that it has reported, and whether its process drains."""
    phase = f"{stream['phase']}:{stream['error']}" if stream.get("error") else str(stream["phase"])
    return f"{phase} (draining)" if stream.get("draining") else phase


def model_cells(stream: dict[str, Any]) -> tuple[str, str, str, str]:
    """Returns the model of a stream, the time of its first event, its tokens, and those a second."""
    spent = [stream.get("input_tokens"), stream.get("output_tokens")]
    tokens = NOTHING if spent == [None, None] else "+".join(NOTHING if one is None else f"{one:,}" for one in spent)
    return (
        text(stream.get("model")),
        milliseconds(stream.get("first_event_ms")),
        tokens,
        rate(stream.get("tokens_per_s")),
    )


def _digits(number: float) -> str:
    if number >= 99.95:
        return f"{number:,.0f}"
    return f"{number:.1f}" if number >= 9.995 else f"{number:.2f}"
