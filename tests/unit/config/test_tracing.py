"""The section that says where spans go."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from streamproxy.config import json_schema, parse_config
from streamproxy.config.tracing import Tracing
from streamproxy.errors import ConfigError

VALIDATOR = Draft202012Validator(json_schema())


def read(tracing: Any) -> Tracing | None:
    text = json.dumps({"tracing": tracing, "routes": [{"path": "/*", "upstream": "http://a"}]})
    return parse_config(text, name="f.yaml", environ={"KEY": "k-1", "RATIO": "0.25"}).tracing


def fits(tracing: Any) -> bool:
    return bool(VALIDATOR.is_valid({"tracing": tracing, "routes": [{"path": "/*", "upstream": "http://a"}]}))


def test_tracing_is_off_unless_it_is_asked_for() -> None:
    assert parse_config("routes: [{path: /*, upstream: 'http://a'}]", name="f").tracing is None
    assert read("off") is None
    assert read({}) == Tracing()
    assert (Tracing().endpoint, Tracing().service_name, Tracing().sample_ratio) == (
        "http://127.0.0.1:4318", "streamproxy", 1.0,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("endpoint", "parsed"),
    [
        ("http://c:4318/", "http://c:4318"),
        ("https://c.example/otlp/", "https://c.example/otlp"),
        ("http://[::1]:4318", "http://[::1]:4318"),
    ],
)
def test_an_endpoint_may_have_a_path(endpoint: str, parsed: str) -> None:
    tracing = read({"endpoint": endpoint})
    assert tracing is not None
    assert tracing.endpoint == parsed


@pytest.mark.parametrize(
    "endpoint", ["c:4318", "grpc://c:4317", "http://u:p@c", "http://c?x", "http://c#x", "http://c/a b", "http://", 4318]
)
def test_what_is_no_endpoint_is_refused_where_it_stands(endpoint: object) -> None:
    with pytest.raises(ConfigError) as caught:
        read({"endpoint": endpoint})
    assert [problem.where for problem in caught.value.problems] == ["tracing.endpoint"]


@pytest.mark.parametrize(("ratio", "parsed"), [(0, 0.0), (1, 1.0), (0.1, 0.1), ("${RATIO}", 0.25), ("0.5", 0.5)])
def test_a_ratio_is_a_number_from_0_to_1(ratio: object, parsed: float) -> None:
    tracing = read({"sample_ratio": ratio})
    assert tracing is not None
    assert tracing.sample_ratio == parsed
    assert fits({"sample_ratio": ratio})


@pytest.mark.parametrize("ratio", [-0.1, 1.1, "a lot", "nan", True, [1], None])
def test_any_other_ratio_is_refused(ratio: object) -> None:
    with pytest.raises(ConfigError, match=r"tracing\.sample_ratio"):
        read({"sample_ratio": ratio})
    if ratio != "nan":
        assert not fits({"sample_ratio": ratio})


def test_the_headers_of_an_export_are_hidden_whatever_their_names() -> None:
    text = "tracing: {headers: {x-team: abcdef, b: '${KEY}'}}\nroutes: [{path: /*, upstream: 'http://a'}]"
    config = parse_config(text, name="f", environ={"KEY": "k-1"})
    assert config.redacted()["tracing"]["headers"] == {"x-team": "***", "b": "***"}
    assert config.tracing is not None
    assert config.tracing.headers == {"x-team": "abcdef", "b": "k-1"}
    assert "abcdef" not in repr(config)


def test_a_key_that_is_not_there_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="did you mean 'sample_ratio'"):
        read({"sample_rate": 1})
