"""An exchange as a line of JSON, made of parts that are kept ready.

What most lines share is not formatted again: the second of their time, the names of route, upstream and endpoint, the
usual end, and the decimals of numbers. `streamproxy.observe.access_log` has the same fields as a record, for all other
uses, and says what they mean.
"""

from __future__ import annotations

import json
import time
from typing import Final

from streamproxy.exchange.exchange import CLIENT_LEFT, Exchange

# Fields that are only written if they apply, after the others.
OPTIONAL_FIELDS: Final = (
    "protocol",
    "attempts",
    "principal",
    "stream",
    "model",
    "first_event_ms",
    "input_tokens",
    "output_tokens",
    "cached_tokens",
    "reasoning_tokens",
    "finish",
)
HIDDEN: Final = "***"

encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode
_quote: Final = json.encoder.encode_basestring_ascii

_COMPLETE: Final = '"end":"complete","phase":"body","error":null'
_DECIMALS: Final = [f".{number:03d}" for number in range(1000)]
_SMALL: Final = [str(number) for number in range(1000)]
# What the fraction of a number may lie from a tie before only all of its digits tell how it is rounded.
_NEAR_TIE: Final = 0.001
_MOST_PLACES: Final = 1024
_places: Final[dict[tuple[str, str, str], str]] = {}  # the fields of route, upstream and endpoint


class _Second:
    """The second that was formatted last."""

    __slots__ = ("since", "text", "until")

    def __init__(self) -> None:
        self.since = self.until = 0.0
        self.text = ""


_last: Final = _Second()


def timestamp(wall: float) -> str:
    """Formats seconds since the epoch by RFC 3339, in UTC with milliseconds."""
    last = _last
    if not last.since <= wall < last.until:  # cheaper than to make an integer of the time
        second = int(wall)
        last.since, last.until = float(second), second + 1.0
        last.text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
    return f"{last.text}{_DECIMALS[int((wall - last.since) * 1000.0)]}Z"


def milliseconds(seconds: float | None) -> str:
    """Formats seconds as milliseconds with three decimals, as ``.3f`` does, and None as ``null``."""
    if seconds is None:
        return "null"
    if 0.0 <= seconds < 1e3:
        scaled = seconds * 1e6 + 0.5
        rounded = int(scaled)
        if _NEAR_TIE < scaled - rounded < 1.0 - _NEAR_TIE:
            return _decimal(rounded // 1000) + _DECIMALS[rounded % 1000]
    return f"{seconds * 1000:.3f}"


def _decimal(number: int) -> str:
    return _SMALL[number] if number < 1000 else str(number)  # a compiled f-string formats each number anew


def json_line(exchange: Exchange, now: float) -> str:
    """Returns the `record` of an ended exchange as a JSON object. It is cheaper than encoding the dictionary."""
    x, error = exchange, exchange.error
    path = f"{x.path}?{hide_values(x.query)}" if x.query else x.path
    if error is None:
        end = _COMPLETE if x.phase == "body" else f'"end":"complete","phase":"{x.phase}","error":null'
    else:
        end = f'"end":"{error.end}","phase":"{x.phase}","error":{_quote(error.error)}'
    place = x.route, x.upstream, x.endpoint
    return (
        f'{{"time":"{timestamp(x.started_wall)}","request_id":{_quote(x.request_id)},'
        f'"client":{_quote(x.client) if x.client else "null"},'
        f'"method":{_quote(x.method)},"path":{_quote(path)},{_places.get(place) or _new_place(place)},'
        f'"status":{_decimal(x.status or CLIENT_LEFT)},'
        f'"ttfb_ms":{milliseconds(x.ttfb())},"upstream_ttfb_ms":{milliseconds(x.upstream_ttfb())},'
        f'"duration_ms":{milliseconds(now - x.started_at)},"request_bytes":{_decimal(x.request_bytes)},'
        f'"response_bytes":{_decimal(x.response_bytes)},"chunks":{_decimal(x.chunks)},"events":{_decimal(x.events)},'
        f'"keepalives":{_decimal(x.keepalives)},'
        f'{end},"trace_id":{_quote(x.trace_id) if x.trace_id else "null"}{_more(x)}}}'
    )


def _more(exchange: Exchange) -> str:
    """Returns the optional fields, which follow the others."""
    x = exchange
    if x.operation or x.principal or x.stream or x.model or x.usage is not None or x.finish_reason:
        fields = encode(optional_fields(x))[1:-1]
        return f",{fields}" if fields else ""  # recognised, but nothing was read
    protocol = f',"protocol":"{x.protocol}"' if x.protocol else ""
    return f'{protocol},"attempts":{x.attempts}' if x.attempts else protocol


def optional_fields(exchange: Exchange) -> dict[str, object]:
    """Returns the fields that only some exchanges have, in the order of `OPTIONAL_FIELDS`."""
    usage, first_event = exchange.usage, exchange.first_event()
    values = (
        exchange.protocol or None,
        exchange.attempts or None,
        _well_formed(exchange.principal) or None,
        exchange.stream or None,
        _well_formed(exchange.model) or None,
        round(first_event * 1000, 3) if first_event is not None else None,
        usage.input if usage is not None else None,
        usage.output if usage is not None else None,
        usage.cache_read if usage is not None else None,
        usage.reasoning if usage is not None else None,
        _well_formed(exchange.finish_reason) or None,
    )
    return {name: value for name, value in zip(OPTIONAL_FIELDS, values, strict=True) if value is not None}


def _well_formed(text: str) -> str:
    """Returns ``text`` without lone surrogates, which JSON can escape and UTF-8 has no form for (RFC 8259 8.2)."""
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def hide_values(query: bytes) -> str:
    """Returns a query with every value hidden: ``token=***&x=***``.

    A part without ``=`` may be a value, so it is hidden completely. Never raises; the result may contain any character
    up to U+00FF, as the query may.
    """
    parts = query.split(b"&")
    return "&".join([_hide(part) for part in parts])


def _hide(part: bytes) -> str:
    name, equals, _ = part.partition(b"=")
    if equals:
        return name.decode("latin-1") + "=" + HIDDEN
    return HIDDEN if part else ""


def _new_place(place: tuple[str, str, str]) -> str:
    """Formats and remembers the names of route, upstream and endpoint. Endpoints may come from names, and change."""
    route, upstream, endpoint = place
    text = f'"route":{_quote(route)},"upstream":{_named(upstream)},"endpoint":{_named(endpoint)}'
    if len(_places) >= _MOST_PLACES:
        _places.clear()
    _places[place] = text
    return text


def _named(name: str) -> str:
    return _quote(name) if name else "null"
