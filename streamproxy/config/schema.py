"""The JSON Schema (2020-12) of a configuration file, for completion and checks in editors.

It is made from the model. Where a file may say more than the model has, because a value may be short or a reference
such as ``${PORT}``, the schema says so.
"""

from __future__ import annotations

import copy
import json
import re
from typing import Any

from streamproxy.config import types as t
from streamproxy.config.model import Config

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
