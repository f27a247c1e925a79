"""The types of the configuration's values: a parser, the JSON Schema of the file's form, and the Python type.

For example, the annotation `Timeout` means: written as ``15s`` or ``off`` in a file, float seconds or None in Python,
and checked accordingly by editors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, PlainSerializer, WithJsonSchema

from streamproxy.config import units, values

Parser = Callable[[object], Any]

MOST_WORKERS = 1000  # as many as connections can be steered to; a larger number is a slip

OFF_SCHEMA: dict[str, Any] = {"enum": ["off", False, None]}
REFERENCE_SCHEMA: dict[str, Any] = {"type": "string", "pattern": r"\$\{"}
_DURATION_SCHEMA: dict[str, Any] = {"type": ["string", "number"], "pattern": rf"^{units.DURATION_PATTERN}$|\$\{{"}
_SIZE_SCHEMA: dict[str, Any] = {"type": ["string", "integer"], "pattern": rf"^{units.SIZE_PATTERN}$|\$\{{"}
_COUNT_SCHEMA: dict[str, Any] = {"type": ["string", "integer"], "pattern": r"^[0-9]+$|\$\{"}
FACTOR_SCHEMA: dict[str, Any] = {"type": ["string", "number"]}
_SWITCH_SCHEMA: dict[str, Any] = {"anyOf": [{"enum": [True, False, "on", "off"]}, REFERENCE_SCHEMA]}
# Plain YAML scalars that look like numbers or booleans are text here.
_SCALAR_SCHEMA: dict[str, Any] = {"type": ["string", "number", "boolean"]}


def _or_off(schema: dict[str, Any]) -> dict[str, Any]:
    return {"anyOf": [schema, OFF_SCHEMA]}


def _not_negative(schema: dict[str, Any]) -> dict[str, Any]:
    return schema | {"minimum": 0}


def _positive(parser: Parser) -> Parser:
    def parse(value: object) -> Any:
        parsed = parser(value)
        if parsed <= 0:
            raise ValueError("must be greater than 0")
        return parsed

    return parse


def _within(least: int, most: int, what: str) -> Parser:
    def parse(value: object) -> int:
        parsed = units.count(value)
        if not least <= parsed <= most:
            raise ValueError(f"is not {what}: write a number from {least} to {most}")
        return parsed

    return parse


def off_or(parser: Parser, off: object = None) -> Parser:
    """Wraps a parser so that it also accepts ``off``, which becomes the value ``off``."""

    def parse(value: object) -> Any:
        if units.is_off(value):
            return off
        try:
            return parser(value)
        except ValueError as error:
            raise ValueError(f"{error}, or off") from None

    return parse


def one_or_more(value: object) -> object:
    """Returns a list that is not empty; a single text becomes a list of one."""
    if isinstance(value, str | values.Address):
        value = [value]
    if not isinstance(value, list | tuple):
        raise ValueError("must be a text or a list of them")
    if not value:
        raise ValueError("must not be empty")
    return value


def some(value: object) -> object:
    """Returns a list that is not empty."""
    if not isinstance(value, list | tuple):
        raise ValueError("must be a list")
    if not value:
        raise ValueError("must not be empty")
    return value


def one_route_or_more(value: object) -> object:
    """Returns the list of routes, which must not be empty."""
    if value is not None and not isinstance(value, list | tuple):
        raise ValueError("must be a list of routes")
    if not value:
        raise ValueError("must not be empty: at least one route is needed")
    return value


def any_number(value: object) -> object:
    """Returns a list that may be empty; a single text becomes a list of one, and null an empty list."""
    if value is None:
        return []
    return [value] if isinstance(value, str) else value


def _one_spelling(headers: dict[str, str]) -> dict[str, str]:
    if len({name.lower() for name in headers}) < len(headers):
        raise ValueError("names one header twice, in different case")
    return headers


def none_is_empty(value: object) -> object:
    """Returns a mapping; null, the value of a key with nothing after it, becomes an empty mapping."""
    return {} if value is None else value


# Durations, in seconds.
Duration = Annotated[
    float,
    BeforeValidator(off_or(units.duration, 0.0)),
    WithJsonSchema(_or_off(_not_negative(_DURATION_SCHEMA))),
]
Interval = Annotated[
    float,
    BeforeValidator(_positive(units.duration)),
    WithJsonSchema(_DURATION_SCHEMA | {"exclusiveMinimum": 0}),
]
Timeout = Annotated[
    float | None,
    BeforeValidator(off_or(_positive(units.duration))),
    WithJsonSchema(_or_off(_DURATION_SCHEMA | {"exclusiveMinimum": 0})),
]

# Sizes, in bytes.
Size = Annotated[
    int,
    BeforeValidator(_positive(units.size)),
    WithJsonSchema(_SIZE_SCHEMA | {"exclusiveMinimum": 0}),
]
SizeLimit = Annotated[
    int | None,
    BeforeValidator(off_or(units.size)),
    WithJsonSchema(_or_off(_not_negative(_SIZE_SCHEMA))),
]

# Numbers and switches.
Count = Annotated[
    int,
    BeforeValidator(_positive(units.count)),
    WithJsonSchema(_COUNT_SCHEMA | {"minimum": 1}),
]
Number = Annotated[int, BeforeValidator(units.count), WithJsonSchema(_not_negative(_COUNT_SCHEMA))]
CountLimit = Annotated[
    int | None,
    BeforeValidator(off_or(_positive(units.count))),
    WithJsonSchema(_or_off(_COUNT_SCHEMA | {"minimum": 1})),
]
Percent = Annotated[
    int,
    BeforeValidator(_within(1, 100, "a percentage")),
    WithJsonSchema(_COUNT_SCHEMA | {"minimum": 1, "maximum": 100}),
]
Workers = Annotated[
    int,
    BeforeValidator(_within(1, MOST_WORKERS, "a number of processes")),
    WithJsonSchema(_COUNT_SCHEMA | {"minimum": 1, "maximum": MOST_WORKERS}),
]
FinalStatus = Annotated[
    int,
    BeforeValidator(_within(200, 599, "the status of a final response")),
    WithJsonSchema(_COUNT_SCHEMA | {"minimum": 200, "maximum": 599}),
]
Rate = Annotated[
    units.Rate,
    BeforeValidator(units.rate),
    PlainSerializer(str),
    WithJsonSchema({"type": "string", "pattern": rf"^{units.RATE_PATTERN}$|\$\{{"}),
]
RateLimit = Annotated[
    units.Rate | None,
    BeforeValidator(off_or(units.rate)),
    PlainSerializer(lambda rate: None if rate is None else str(rate)),
    WithJsonSchema(_or_off({"type": "string", "pattern": rf"^{units.RATE_PATTERN}$|\$\{{"})),
]
Switch = Annotated[bool, BeforeValidator(units.switch), WithJsonSchema(_SWITCH_SCHEMA)]

# Names and places.
Text = Annotated[str, BeforeValidator(values.text), WithJsonSchema(_SCALAR_SCHEMA)]
Label = Annotated[str, BeforeValidator(values.label), WithJsonSchema(_SCALAR_SCHEMA)]
Name = Annotated[str, BeforeValidator(values.name)]
UpstreamName = Annotated[str, BeforeValidator(values.upstream)]
UpstreamNames = Annotated[
    tuple[UpstreamName, ...],
    BeforeValidator(any_number),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Origin = Annotated[str, BeforeValidator(values.origin)]
ProxyUrl = Annotated[str | None, BeforeValidator(off_or(values.proxy_url)), WithJsonSchema(_or_off({"type": "string"}))]
OptionalKeysUrl = Annotated[
    str | None, BeforeValidator(off_or(values.keys_url)), WithJsonSchema(_or_off({"type": "string"}))
]
FilePath = Annotated[str, BeforeValidator(values.file_path)]
OptionalFile = Annotated[
    str | None, BeforeValidator(off_or(values.file_path)), WithJsonSchema(_or_off({"type": "string"}))
]
SocketPath = Annotated[
    str | None, BeforeValidator(off_or(values.socket_path)), WithJsonSchema(_or_off({"type": "string"}))
]
OptionalText = Annotated[str | None, BeforeValidator(off_or(values.text)), WithJsonSchema(_or_off({"type": "string"}))]
HostHeader = Annotated[str, BeforeValidator(values.host_header)]
HashSource = Annotated[str, BeforeValidator(values.hash_source)]
LearnSource = Annotated[str, BeforeValidator(values.learn_source)]
OptionalHeaderSource = Annotated[
    str | None, BeforeValidator(off_or(values.priority_source)), WithJsonSchema(_or_off({"type": "string"}))
]
MetricName = Annotated[str, BeforeValidator(values.metric_name)]
OptionalMetricName = Annotated[
    str | None, BeforeValidator(off_or(values.metric_name)), WithJsonSchema(_or_off({"type": "string"}))
]
ClientSource = Annotated[str, BeforeValidator(values.client_source)]
Prefix = Annotated[
    str,
    BeforeValidator(off_or(values.path_prefix, "")),
    WithJsonSchema(_or_off({"type": "string", "pattern": "^/|^$"})),
]
OptionalPrefix = Annotated[
    str | None,
    BeforeValidator(off_or(values.path_prefix)),
    WithJsonSchema(_or_off({"type": "string", "pattern": r"^/|\$\{"})),
]
Network = Annotated[
    values.Network, BeforeValidator(values.network), PlainSerializer(str), WithJsonSchema({"type": "string"})
]

# Lists, in which a single text may stand for a list of one.
_LIST_SCHEMA: dict[str, Any] = {
    "anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
}
_Address = Annotated[values.Address, BeforeValidator(values.address), PlainSerializer(str)]
Listen = Annotated[tuple[_Address, ...], BeforeValidator(one_or_more), WithJsonSchema(_LIST_SCHEMA)]
ListenOrOff = Annotated[
    tuple[_Address, ...],
    BeforeValidator(lambda value: () if units.is_off(value) or value in ([], ()) else one_or_more(value)),
    WithJsonSchema(_or_off(_LIST_SCHEMA)),
]
Paths = Annotated[
    tuple[Annotated[str, BeforeValidator(values.route_path)], ...],
    BeforeValidator(one_or_more),
    WithJsonSchema(_LIST_SCHEMA),
]
_TEXTS_SCHEMA: dict[str, Any] = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
Methods = Annotated[
    tuple[Annotated[str, BeforeValidator(values.method)], ...],
    BeforeValidator(any_number),
    WithJsonSchema(_TEXTS_SCHEMA),
]
Hosts = Annotated[
    tuple[Annotated[str, BeforeValidator(values.host_pattern)], ...],
    BeforeValidator(any_number),
    WithJsonSchema(_TEXTS_SCHEMA),
]
Models = Annotated[
    tuple[Annotated[str, BeforeValidator(values.model_pattern)], ...],
    BeforeValidator(any_number),
    WithJsonSchema(_TEXTS_SCHEMA),
]
Networks = Annotated[tuple[Network, ...], BeforeValidator(any_number), WithJsonSchema(_TEXTS_SCHEMA)]
Texts = Annotated[tuple[Text, ...], BeforeValidator(any_number), WithJsonSchema(_TEXTS_SCHEMA)]

# Header fields. Names keep their case and are compared case-insensitively.
_HEADERS_SCHEMA: dict[str, Any] = {"type": "object", "additionalProperties": _SCALAR_SCHEMA}
_HeaderValue = Annotated[str, BeforeValidator(values.header_value)]
_EditableHeader = Annotated[str, BeforeValidator(values.editable_header)]
HeaderConditions = Annotated[
    dict[Annotated[str, BeforeValidator(values.header_name)], _HeaderValue],
    BeforeValidator(none_is_empty),
    AfterValidator(_one_spelling),
    WithJsonSchema(_HEADERS_SCHEMA),
]
HeaderValues = Annotated[
    dict[_EditableHeader, _HeaderValue],
    BeforeValidator(none_is_empty),
    AfterValidator(_one_spelling),
    WithJsonSchema(_HEADERS_SCHEMA),
]
ModelNames = Annotated[
    dict[Annotated[str, BeforeValidator(values.text)], Annotated[str, BeforeValidator(values.text)]],
    BeforeValidator(none_is_empty),
    WithJsonSchema(_HEADERS_SCHEMA),
]
HeaderNames = Annotated[
    tuple[_EditableHeader, ...],
    BeforeValidator(any_number),
    WithJsonSchema(_TEXTS_SCHEMA),
]
