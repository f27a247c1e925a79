"""Configuration files: any text is loaded, or refused with problems that have a place in it and no value of ``${...}``.
What is loaded can be shown."""

from __future__ import annotations

import json

from streamproxy.config import Config, parse_config
from streamproxy.errors import ConfigError

SECRET = "qjx8-planted-value"
DICTIONARY = (
    b"routes:\n", b"  - path: /\n", b"    upstream: http://127.0.0.1:1\n", b"upstreams:\n", b"server:\n", b"admin:\n",
    b"${TOKEN}", b"${MISSING}", b"${TOKEN:-x}", b"$${", b"&a ", b"*a", b"<<: *a", b"- [", b"{",
    b"!!python/object:x", b"!x ",
    b"timeouts:\n", b"keepalive: ", b"auth:\n", b"bearer:\n", b"tokens:\n", b"jwt:\n", b"limits:\n",
    b"resume:\n", b"share:\n",
    b"retry:\n", b"health:\n", b"endpoints:\n", b"tls:\n", b"1ms", b"1GiB", b"off", b"~",
    b"---\n", b"...\n", b"? ", b"|\n",
)  # fmt: skip


def load(text: str) -> Config | ConfigError:
    try:
        return parse_config(text, name="f.yaml", environ={"TOKEN": SECRET})
    except ConfigError as error:
        return error


def check(data: bytes) -> None:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return
    loaded = load(text)
    if isinstance(loaded, ConfigError):
        assert loaded.problems
        lines = 1 + sum(text.count(end) for end in "\n\r\x85\u2028\u2029")
        for problem in loaded.problems:
            assert problem.message
            assert 1 <= problem.line <= lines + 1, problem
            assert problem.column >= 1
        assert SECRET in text or SECRET not in str(loaded)  # the fuzzer learns it
        return
    json.dumps(loaded.redacted())
