"""Writes what is made from the code: ``python -m docs.generate``.

These are docs/configuration.md, the JSON Schema that is published with the package, and docs/metrics.md, which comes
from the table of the metrics.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import streamproxy.config
from streamproxy.config import json_schema
from streamproxy.observe.families import FAMILIES, GENAI_FAMILIES, Counts, Distributions, Family

FILE = Path(__file__).with_name("configuration.md")
SCHEMA = Path(streamproxy.config.__file__).with_name("schema.json")
METRICS = Path(__file__).with_name("metrics.md")

_HEAD = """\
# Every key of the configuration

Made by `docs/generate.py` from the model that reads the file. [`config/full.yaml`](../config/full.yaml) has the same as
a file with comments. Editors complete and check a file whose first line names its JSON Schema:
`# yaml-language-server: $schema=…`, with the published one's URL or the path of what `streamproxy schema` printed.

- A *duration* is `250ms`, `15s`, `5m`, `1h` or a number of seconds, a *size* `64KiB`, `10MiB`, `1GB` or a number of
  bytes. `off`, `false` and nothing are the same.
- `${NAME}`, `${NAME:-default}` and `${file:/path}` are replaced inside values after the YAML is parsed; `$$` is a
  dollar sign.
- A list of one may be written without brackets where the value is *text, list*, and in `endpoints`.
"""
_METRICS_HEAD = """\
# Every metric, and the question it answers

Made by `docs/generate.py` from `streamproxy/observe/families.py`. They are at `/metrics` of the admin listener, as
Prometheus text or OpenMetrics. Labels come from the configuration, never from requests: an unknown method is `OTHER`,
no route is `-`.

Streams count while they run: bytes and events as they pass, and seconds too. A wait that goes on, or that was cut off,
counts for as long as it has lasted; of a histogram that is the sum, and the count and the buckets come at the end.
An aborted stream gives each histogram its one observation like any other. Time histograms reach from 1 ms to 640 s.
There are no native histograms: prometheus-client 0.26 writes them only in the draft of OpenMetrics 2.0, which no
released Prometheus asks for.

"""
_METRICS_TAIL = """\
`process_*` tell CPU, memory and descriptors of the process, as Prometheus clients do everywhere.

## Some queries

The share of streams that their upstream broke off:

```promql
sum by (route) (rate(streamproxy_disconnects_total{side="upstream", phase="body"}[5m]))
  / sum by (route) (rate(streamproxy_stream_duration_seconds_count[5m]))
```

The 95th percentile of the wait for the first byte:

```promql
histogram_quantile(0.95, sum by (route, le) (rate(streamproxy_ttfb_seconds_bucket[5m])))
```

Streams that wait for slow clients, as a share of all:

```promql
sum by (route) (rate(streamproxy_backpressure_seconds_total[5m])) / sum by (route) (streamproxy_streams_active)
```

More are in the [recording rules](../deploy/prometheus/rules.yaml) and the
[dashboard](../deploy/grafana/streamproxy.json).
"""
_BUILD = (
    "| `streamproxy_build_info` | gauge | version, build (compiled, pure), python, engine "
    "| Which version runs here? There is no engine label under an ASGI server of your own. |\n"
)
_MARKS = (("{1,15})/", "rate"), ("ms|s|m|h", "duration"), ("KiB|MiB", "size"), ("^[0-9]+$", "number"))


def reference() -> str:
    """The page. Sections follow the order of the file, each below the one that it belongs to."""
    schema = json_schema()
    pieces = [_HEAD]
    waiting = [("", schema)]
    while waiting:
        place, section = waiting.pop(0)
        below: list[tuple[str, Any]] = []
        rows = list(_rows(place, section, schema["$defs"], below))
        if place:
            pieces.append(f"## `{place}`\n\n{_sentence(section)}\n")
        pieces.append("| key | value | default | what it is |\n|---|---|---|---|\n" + "".join(rows))
        waiting = below + waiting
    return "\n".join(pieces)


def published() -> str:
    """The schema as it is published, which is what `streamproxy schema` prints."""
    return json.dumps(json_schema(), indent=2) + "\n"


def _rows(place: str, section: Any, definitions: Any, below: list[tuple[str, Any]]) -> Any:
    required = section.get("required", [])
    for key, value in section["properties"].items():
        description = value.get("description", "")
        name, many = _section_of(value, definitions)
        path = f"{place}.{key}" if place else key
        if name is not None:
            path += ".*" if many else ""
            below.append((path, _alternatives(value, definitions) or _mapping(definitions[name])))
        kind = _kind(value, definitions) if name is None else _kind_of_section(value, definitions, path)
        default = "required" if key in required else _default(value, optional=name is not None and "anyOf" in value)
        yield f"| `{key}` | {kind} | {default} | {_escape(description)} |\n"


def _alternatives(value: Any, definitions: Any) -> Any:
    """One section for a value that may be one of several; None where there is only one."""
    names = [each["$ref"].rpartition("/")[2] for each in value.get("anyOf", []) if "$ref" in each]
    if len(names) < 2:
        return None
    sections = [_mapping(definitions[name]) for name in names]
    properties = {key: item for section in sections for key, item in section["properties"].items()}
    return {"description": "One of these keys.", "properties": properties, "required": list(properties)}


def _mapping(definition: Any) -> Any:
    """The mapping of a section that may also be written short."""
    alternatives = [definition] if "properties" in definition else definition["anyOf"]
    return next(each for each in alternatives if "properties" in each)


def _section_of(value: Any, definitions: Any) -> tuple[str | None, bool]:
    """The section that a value is or may be, and whether there are many of it."""
    if "$ref" in value:
        return value["$ref"].rpartition("/")[2], False
    for key in ("items", "additionalProperties"):
        if isinstance(value.get(key), dict) and (found := _section_of(value[key], definitions)[0]):
            return found, True
    for each in value.get("anyOf", []) + value.get("oneOf", []):
        found, many = _section_of(each, definitions)
        if found is not None:
            return found, many
    return None, False


def _kind_of_section(value: Any, definitions: Any, path: str) -> str:
    others = [_kind(each, definitions) for each in value.get("anyOf", []) if _section_of(each, definitions)[0] is None]
    link = f"(#{path.lower().replace('.', '').replace('*', '')})"
    word = f"[mapping]{link}"
    if path.endswith(".*"):
        word = f"[mappings]{link} by name" if "additionalProperties" in value else f"list of [mappings]{link}"
    return ", ".join([word, *filter(None, others)])


def _kind(value: Any, definitions: Any) -> str:
    """What may be written, in a few words; empty for a mere reference."""
    if value.get("pattern") == r"\$\{":
        return ""
    if "anyOf" in value:
        return ", ".join(dict.fromkeys(filter(None, (_kind(each, definitions) for each in value["anyOf"]))))
    if "const" in value:
        return f"`{value['const']}`"
    if "enum" in value:
        return _words(value["enum"])
    pattern = value.get("pattern", "")
    for mark, word in _MARKS:
        if mark in pattern:
            return word
    kinds = {"array": "list", "object": "mapping", "integer": "number"}
    kind = value.get("type", "string")
    return "text" if not isinstance(kind, str) else kinds.get(kind, "text")


def _words(words: list[object]) -> str:
    if words == ["off", False, None]:
        return "`off`"
    return ", ".join(f"`{word}`" for word in words if isinstance(word, str))


def _default(value: Any, *, optional: bool) -> str:
    """The default as a file would say it. A section that may be off and is not has its own defaults."""
    default = value.get("default")
    if default is None:
        return "`off`" if "default" in value else ""
    if default == {} and optional:
        return "on"
    if default in ({}, []):
        return ""
    text = default if isinstance(default, str) else json.dumps(default).replace('"', "")
    return f"`{text}`" if text else ""


def _sentence(section: Any) -> str:
    return " ".join(section.get("description", "").replace("``", "`").split())


def _escape(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*")


def metrics() -> str:
    """The page of the metrics."""
    rows = [_metric_row(f"streamproxy_{family.name}", family) for family in FAMILIES]
    rows += [_BUILD, *(_metric_row(family.name, family) for family in GENAI_FAMILIES)]
    return f"{_METRICS_HEAD}| metric | type | labels | question |\n|---|---|---|---|\n{''.join(rows)}\n{_METRICS_TAIL}"


def _metric_row(name: str, family: Family) -> str:
    kind = "histogram" if isinstance(family, Distributions) else "counter" if isinstance(family, Counts) else "gauge"
    suffix = "_total" if kind == "counter" else ""
    return f"| `{name}{suffix}` | {kind} | {', '.join(family.labels)} | {family.question} |\n"


if __name__ == "__main__":
    FILE.write_text(reference())
    SCHEMA.write_text(published())
    METRICS.write_text(metrics())
