"""The files in config/: each loads, fits the schema, and says what it claims."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from jsonschema import Draft202012Validator

from docs.generate import SCHEMA
from streamproxy.config import Config, json_schema, load_config, parse_config
from streamproxy.config.fields import keys_of
from streamproxy.config.section import Section

MODELINE = "# yaml-language-server: $schema="  # read by the YAML language server, which most editors use
FOLDER = Path(__file__).parents[3] / "config"
EXAMPLES = sorted(FOLDER.glob("*.yaml"))
ENVIRON = {"OPENAI_API_KEY": "sk-test", "ANTHROPIC_API_KEY": "sk-ant-test", "JWKS_FILE": __file__}
ENVIRON |= {"REDIS_URL": "redis://127.0.0.1:6379/0", "TOKENS": str(Path(__file__).with_name("tokens.txt"))}
VALIDATOR = Draft202012Validator(json_schema())


class Yaml12(yaml.SafeLoader):
    """YAML as editors read it: in version 1.2 ``on`` and ``off`` are words, also as a key."""


Yaml12.yaml_implicit_resolvers = {
    letter: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool" or letter in "tTfF"]
    for letter, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def test_there_are_examples_for_what_people_run() -> None:
    assert {path.stem for path in EXAMPLES} >= {
        "minimal", "vllm", "ollama", "openai", "anthropic", "sse-browser", "download", "full", "tenants",
        "chat-resume", "redis-events", "openai-fallback", "vllm-prefix",
    }  # fmt: skip


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_names_the_schema_for_editors(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith(MODELINE)
    assert (FOLDER / first.removeprefix(MODELINE)).resolve() == SCHEMA


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_loads(path: Path) -> None:
    config = load_config(path, ENVIRON)
    assert config.routes
    assert all(route.upstream in config.upstreams for route in config.routes)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_fits_the_schema(path: Path) -> None:
    assert [error.message for error in VALIDATOR.iter_errors(yaml.load(path.read_text(), Yaml12))] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_needs_no_variable_that_it_does_not_name_in_its_head(path: Path) -> None:
    text = path.read_text()
    head = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    for name in re.findall(r"\$\{([A-Z_]+)\}", re.sub(r"^\s*#.*", "", text, flags=re.MULTILINE)):
        assert f"{name}=" in head


def test_the_openai_example_replaces_the_clients_credential() -> None:
    rules = load_config(FOLDER / "openai.yaml", ENVIRON).routes[0].request_headers
    assert rules.set == {"Authorization": "Bearer sk-test"}


def test_the_anthropic_example_replaces_the_clients_credential() -> None:
    rules = load_config(FOLDER / "anthropic.yaml", ENVIRON).routes[0].request_headers
    assert rules.set == {"x-api-key": "sk-ant-test"}
    assert "Authorization" in rules.remove


def test_the_tenants_example_limits_each_by_its_token() -> None:
    for route in load_config(FOLDER / "tenants.yaml", ENVIRON).routes:
        assert route.auth is not None
        assert route.auth.jwt is not None
        assert (route.limits.client_key, route.limits.max_streams_per_client is None) == ("principal", False)


def test_the_full_example_says_the_defaults() -> None:
    full = load_config(FOLDER / "full.yaml")
    bare = parse_config(
        "upstreams: {backend: {endpoints: [http://127.0.0.1:8000]}}\n"
        "routes: [{name: all, path: /*, upstream: backend}]\n",
        name="bare",
    )
    assert full == bare


def test_the_full_example_has_every_key_that_works() -> None:
    text = (FOLDER / "full.yaml").read_text()
    data = yaml.load(text, Yaml12)
    keys = list(all_keys(Config))
    assert [key for key in keys if not present(data, key.split(".")) and not in_a_comment(text, key)] == []


def in_a_comment(text: str, key: str) -> bool:
    """A section that is off by default can only be shown in a comment, with its keys."""
    return re.search(rf"#.*\b{re.escape(key.rpartition('.')[2])}: ", text) is not None


def all_keys(model: type[Section], prefix: str = "") -> Iterator[str]:
    """Every key of the model as a dotted path."""
    for name, info in keys_of(model).items():
        key = f"{prefix}{name}"
        yield key
        for inner, star in models_of(info.annotation):
            yield from all_keys(inner, f"{key}.*." if star else f"{key}.")


def models_of(annotation: Any, star: bool = False) -> Iterator[tuple[type[Section], bool]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation, star
    for argument in get_args(annotation):
        yield from models_of(argument, star or getattr(annotation, "__origin__", None) in (tuple, dict))


def present(data: Any, keys: list[str]) -> bool:
    if not keys:
        return True
    first, *rest = keys
    if first == "*":
        return any(present(item, rest) for item in (data.values() if isinstance(data, dict) else data))
    return isinstance(data, dict) and first in data and present(data[first], rest)
