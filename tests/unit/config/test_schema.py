"""The JSON Schema agrees with what the loader takes and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from streamproxy.config import json_schema, parse_config
from streamproxy.errors import ConfigError

SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)
HEAD = "routes:\n  - path: /*\n    upstream: http://a\n"


def fits(text: str) -> bool:
    return bool(VALIDATOR.is_valid(yaml.safe_load(text)))


def loads(text: str) -> bool:
    try:
        parse_config(text, name="f.yaml", environ={"X": "5"})
    except ConfigError:
        return False
    return True


def test_the_schema_is_one_and_fits_into_json() -> None:
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


@pytest.mark.parametrize(
    "line",
    [
        "keepalive: 15s",
        "keepalive: 15",
        "keepalive: off",
        "keepalive: {interval: 1.5s, shape: line}",
        "timeouts: {idle: off, connect: 250ms, total: '${X}'}",
        "buffer: 64KiB",
        "buffer: 65536",
        "methods: GET",
        "methods: [GET, POST]",
        "anti_buffering: off",
        "anti_buffering: '${Y:-on}'",
        "compression: pass",
        "rewrite: {strip_prefix: /v1}",
        "request_headers: {set: {a: 1, b: on, c: 1.5, d: x}, remove: e}",
        "limits: {max_request_body: off}",
        "limits: {max_request_body: 10MiB}",
        "share: off",
        "websocket: off",
        "websocket: on",
        "websocket: {ping: 30s}",
        "websocket: {ping: off}",
        "protocol: http",
        "protocol: ollama",
        "keepalive: {interval: 5s, ndjson: on}",
    ],
)
def test_what_the_loader_takes_fits_the_schema(line: str) -> None:
    text = f"{HEAD}    {line}\n"
    assert loads(text)
    assert fits(text)


@pytest.mark.parametrize(
    "line",
    [
        "keepalvie: 15s",
        "timeouts: {idel: 5s}",
        "timeouts: {idle: 5x}",
        "timeouts: {idle: 0}",
        "timeouts: 5s",
        "buffer: 64k",
        "buffer: off",
        "compression: gzip",
        "anti_buffering: maybe",
        "methods: {a: b}",
        "request_headers: {set: [a]}",
        "keepalive: {interval: 5s, before_headers: soon}",
        "share: {key: [host]}",
        "protocol: grpc",
    ],
)
def test_what_the_loader_refuses_does_not_fit_the_schema(line: str) -> None:
    text = f"{HEAD}    {line}\n"
    assert not loads(text)
    assert not fits(text)


@pytest.mark.parametrize("text", ["{}", "routes: []", HEAD + "sever: {}", "upstreams: {a: {}}\n" + HEAD])
def test_a_file_without_what_it_needs_does_not_fit(text: str) -> None:
    assert not loads(text)
    assert not fits(text)


def test_every_key_has_a_description_for_the_editor() -> None:
    properties: list[tuple[str, Any]] = list(SCHEMA["properties"].items())
    for definition in SCHEMA["$defs"].values():
        for part in (definition, *definition.get("anyOf", [])):
            properties += part.get("properties", {}).items()
    assert len(properties) > 60
    assert [name for name, schema in properties if not schema.get("description")] == []
