"""Writes what follows from the model of the configuration: ``python -m docs.generate``.

These are docs/configuration.md, and the JSON Schema that is published with the package.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import streamproxy.config
from streamproxy.config import json_schema

FILE = Path(__file__).with_name("configuration.md")
SCHEMA = Path(streamproxy.config.__file__).with_name("schema.json")

_HEAD = """\
# Every key of the configuration

Made by `docs/generate.py` from the model that reads the file. [`config/full.yaml`](../config/full.yaml) has the same as
a file with comments. Editors complete and check a file whose first line names its JSON Schema:
`# yaml-language-server: $schema=…`, with the published one's URL or the path of what `streamproxy schema` printed.

- A *duration* is `250ms`, `15s`, `5m`, `1h` or a number of seconds, a *size* `64KiB`, `10MiB`, `1GB` or a number of
  bytes. `off`, `false` and nothing are the same.
- `${NAME}`, `${NAME:-default}` and `${file:/path}` are replaced inside values after the YAML is parsed; `$$` is a
  dollar sign.
- A list of one may be written without brackets.
"""
_NOT_YET = "not in this version: "
_MARKS = (("ms|s|m|h", "duration"), ("KiB|MiB", "size"), ("^[0-9]+$", "number"))


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
        if description.startswith(_NOT_YET):
            continue
        name, many = _section_of(value, definitions)
        path = f"{place}.{key}" if place else key
        if name is not None:
            path += ".*" if many else ""
            below.append((path, _mapping(definitions[name])))
        kind = _kind(value, definitions) if name is None else _kind_of_section(value, definitions, path)
        default = "required" if key in required else _default(value, optional=name is not None and "anyOf" in value)
        yield f"| `{key}` | {kind} | {default} | {_escape(description)} |\n"


def _mapping(definition: Any) -> Any:
    """The mapping of a section that may also be written short."""
    alternatives = definition.get("anyOf", [definition])
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


if __name__ == "__main__":
    FILE.write_text(reference())
    SCHEMA.write_text(published())
