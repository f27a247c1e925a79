"""The JSON Schema (2020-12) of a configuration file, for completion and checks in editors.

The schema is generated from the model. It also allows short forms and references such as ``${PORT}`` where a file may
use them, and refuses what this version refuses.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from streamproxy.config import types as t
from streamproxy.config.fields import keys_of, model_at
from streamproxy.config.model import Config
from streamproxy.config.pending import PENDING, Pending

# The URL of the latest version's schema: `streamproxy/config/schema.json` in this repository.
PUBLISHED = "https://raw.githubusercontent.com/streamproxy/streamproxy/main/streamproxy/config/schema.json"

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
# Models that have a scalar as their short form.
_SHORT_FORMS: dict[str, dict[str, Any]] = {
    "Endpoint": {"type": "string"},
    "Keepalive": {"type": ["string", "number"]},
    "Token": {"type": "string"},
    "WebSocket": {"enum": [True, "on"]},
}


def json_schema() -> dict[str, Any]:
    """Returns the schema as JSON-compatible data."""
    schema = copy.deepcopy(Config.model_json_schema(by_alias=True, mode="validation"))
    definitions: dict[str, Any] = schema["$defs"]
    for row in PENDING:
        _refuse(row, schema)
    for name, form in _SHORT_FORMS.items():
        definitions[name] = {"anyOf": [form, definitions[name]]}
    schema["$defs"] = {name: definitions[name] for name in sorted(_used(schema, definitions))}
    return {"$schema": _DIALECT, "$id": PUBLISHED, **_loosened(schema), "title": "streamproxy configuration"}


def _used(schema: dict[str, Any], definitions: dict[str, Any]) -> set[str]:
    """Returns the definitions that the schema still refers to, directly or indirectly."""
    used: set[str] = set()
    waiting = [{name: part for name, part in schema.items() if name != "$defs"}]
    while waiting:
        for name in re.findall(r'"#/\$defs/(\w+)"', json.dumps(waiting.pop())):
            if name not in used:
                used.add(name)
                waiting.append(definitions[name])
    return used


def _properties(row: Pending, schema: dict[str, Any]) -> dict[str, Any]:
    model = model_at(Config, row.path[:-1])
    assert model is not None, row.key
    properties: dict[str, Any] = schema["$defs"][model.__name__]["properties"]
    return properties


def _refuse(row: Pending, schema: dict[str, Any]) -> None:
    """Restricts an unsupported key to its default."""
    properties = _properties(row, schema)
    key = row.path[-1]
    model = model_at(Config, row.path[:-1])
    assert model is not None, row.key
    default = keys_of(model)[key].default
    allowed = t.OFF_SCHEMA["enum"] if default in (None, "off") else [default]
    properties[key] = {"enum": allowed, "description": f"not in this version: {row.what}"}


def _loosened(node: Any) -> Any:
    """Returns the schema with references allowed beside enums, and ``off`` beside null."""
    if isinstance(node, list):
        return [_loosened(item) for item in node]
    if not isinstance(node, dict):
        return node
    if node == {"type": "null"}:
        return t.OFF_SCHEMA
    if node.get("type") == "string" and ("enum" in node or "const" in node):
        words = {name: node[name] for name in ("enum", "const") if name in node}
        rest = {name: item for name, item in node.items() if name not in ("type", *words)}
        return rest | {"anyOf": [words, t.REFERENCE_SCHEMA]}
    return {name: _loosened(item) for name, item in node.items()}
