"""What a configuration is refused with, whose files of tokens and keys, or whose secret, cannot be used."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from streamproxy.auth import examine
from streamproxy.config import parse_config
from streamproxy.deployment import LocalFile
from streamproxy.errors import ConfigError

HEAD = "routes:\n  - path: /*\n    upstream: http://a\n"
KEYS = json.dumps({"keys": [{"kty": "oct", "k": "A" * 43}]})
PEM = "-----BEGIN PUBLIC KEY-----\\nMIIB\\n-----END PUBLIC KEY-----"


def problems(text: str) -> list[str]:
    try:
        parse_config(text, name="f.yaml", examine=partial(examine, open_file=LocalFile))
    except ConfigError as error:
        return str(error).splitlines()
    return []


def refused(line: str) -> str:
    """The one problem that a route with this line has."""
    (problem,) = problems(f"{HEAD}    {line}\n")
    return problem.removeprefix("f.yaml:4:").partition(": routes[0].auth.")[2]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "f"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'{"keys":"x"}', "it is not a JWK Set: a JSON object with a list of keys"),
        (b'{"keys":[]}', "it has no key for any of the algorithms that are accepted"),
        (b'{"keys":[{"kty":"RSA","n":"AQAB","e":5,"kid":"k"}]}', "its key 'k' cannot be read"),
        (b'{"keys":[{"kty":"RSA","key_ops":5,"kid":"k"}]}', "its key 'k' cannot be read"),
        (b"", "it is not JSON: Expecting value: line 1 column 1 (char 0)"),
        (b"[" * 100_000, "it is not JSON: maximum recursion depth exceeded"),
        (b"\xff", "it is not UTF-8 text"),
    ],
)
def test_a_broken_set_of_keys_is_refused_at_its_place(file: Path, content: bytes, why: str) -> None:
    file.write_bytes(content)
    assert refused(f"auth: {{jwt: {{jwks_file: {file}}}}}").partition("cannot be used: ")[2].startswith(why)


def test_keys_that_no_accepted_algorithm_uses_are_refused(file: Path) -> None:
    file.write_text(KEYS)
    line = f"auth: {{jwt: {{jwks_file: {file}, algorithms: [%s]}}}}"
    assert "it has no key for any of the algorithms" in refused(line % "ES256")
    assert problems(f"{HEAD}    {line % 'HS256'}\n") == []


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"good\n# a comment\na b c\n", "line 3 must be a token, or a name and a token"),
        (b"se,cret\n", "line 1 is not a bearer token"),
        (b"\xff\xfe", "it is not UTF-8 text"),
    ],
)
def test_a_broken_file_of_tokens_is_refused_at_its_place(file: Path, content: bytes, why: str) -> None:
    file.write_bytes(content)
    told = refused(f"auth: {{bearer: {{tokens: [abc, {{file: {file}}}]}}}}")
    assert told.startswith("bearer.tokens[1].file: ")
    assert told.partition("cannot be used: ")[2].startswith(why)
    assert "se,cret" not in told


def test_a_public_key_is_no_secret() -> None:
    told = refused(f'auth: {{jwt: {{secret: "{PEM}"}}}}')
    assert told == "jwt.secret: is an asymmetric key: public keys belong into jwks_file"


def test_without_the_package_for_signed_tokens_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "streamproxy.auth.jwt", None)
    told = refused(f"auth: {{jwt: {{secret: {'x' * 32}}}}}")
    assert told == "jwt: needs another package: pip install 'streamproxy[jwt]'"


def test_all_that_is_wrong_is_said_at_once_and_each_thing_once(file: Path) -> None:
    file.write_text("a b c")
    text = (
        f"routes:\n  - path: /a\n    upstream: nowhere\n    auth: {{bearer: {{tokens: [{{file: {file}}}]}}}}\n"
        f"  - path: /b\n    upstream: http://b\n    auth: {{jwt: {{jwks_file: {file}, secret: short}}}}\n"
        "  - path: /c\n    upstream: http://c\n    auth: {jwt: {jwks_file: /none/there}}\n"
    )
    assert [problem.split(": ")[0] for problem in problems(text)] == [
        "f.yaml:3:15", "f.yaml:4:37", "f.yaml:7:17", "f.yaml:7:29", "f.yaml:10:29",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "auth", ["off", "[]", "5", "{jwt: off}", "{jwt: []}", "{bearer: {tokens: x}}", "{jwt: {jwks_file: off, secret: 5}}"]
)
def test_what_is_no_such_section_is_left_to_who_says_so(auth: str) -> None:
    assert len(problems(f"{HEAD}    auth: {auth}\n")) == (0 if auth == "off" else 1)
