"""Keys of the format that this version refuses: at their line, and only where they ask for something."""

from __future__ import annotations

import pytest

from streamproxy.config import parse_config
from streamproxy.config.fields import field_at
from streamproxy.config.model import Config
from streamproxy.config.pending import PENDING, Pending
from streamproxy.errors import ConfigError

# A value for each key that asks for what is not there.
ASKING = {
    "upstreams.*.http2": "on",
    "routes.*.share": "{key: [path]}",
    "routes.*.reconnect": "{attempts: 5}",
}


def file_with(row: Pending, value: str) -> str:
    """A good file with one more key, on line 2 of its section."""
    section, *keys = row.path
    rest = [key for key in keys if key != "*"]
    inner = value
    for key in reversed(rest[1:]):
        inner = f"{{{key}: {inner}}}"
    sections = {
        "server": "server:\n  engine: uvicorn\n",
        "upstreams": "upstreams:\n  llm:\n    endpoints: [http://a]\n",
        "routes": "routes:\n  - path: /*\n    upstream: http://a\n",
    }
    indent = "  " if section == "server" else "    "
    text = sections[section] + f"{indent}{rest[0]}: {inner}\n"
    return text if section == "routes" else text + sections["routes"]


@pytest.mark.parametrize("row", PENDING, ids=lambda row: row.key)
def test_a_key_of_a_later_version_is_refused_at_its_line(row: Pending) -> None:
    text = file_with(row, ASKING[row.key])
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="f.yaml")
    (problem,) = caught.value.problems
    assert problem.message == f"this version does not have {row.what} yet; leave the key out"
    line = text.splitlines()[problem.line - 1]
    assert line[problem.column - 1 :].startswith(row.path[-1] + ": ")


@pytest.mark.parametrize("row", PENDING, ids=lambda row: row.key)
def test_a_key_of_a_later_version_may_say_its_default(row: Pending) -> None:
    default = field_at(Config, row.path).default
    text = "{}" if default == {} else "off" if default is None else str(default)
    config = parse_config(file_with(row, text), name="f.yaml")
    assert config.plain() == parse_config(config_without(row), name="f.yaml").plain()


def config_without(row: Pending) -> str:
    section = row.path[0]
    upstreams = "upstreams:\n  llm:\n    endpoints: [http://a]\n" if section == "upstreams" else ""
    return upstreams + "routes:\n  - path: /*\n    upstream: http://a\n"


def test_every_row_names_a_key_of_the_model() -> None:
    for row in PENDING:
        field_at(Config, row.path)
    assert {row.key for row in PENDING} == set(ASKING)
