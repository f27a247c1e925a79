"""What ``limits``, ``auth`` and ``cors`` may say, and what they are refused with."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from streamproxy.config import Config, json_schema, parse_config
from streamproxy.config.auth import Token, TokenSource
from streamproxy.errors import ConfigError

HEAD = "routes:\n  - path: /*\n    upstream: http://a\n"
SECRET = "0123456789abcdef0123456789abcdef"
VALIDATOR = Draft202012Validator(json_schema())


def parse(line: str) -> Config:
    return parse_config(f"{HEAD}    {line}\n", name="f.yaml")


def problem(line: str) -> str:
    with pytest.raises(ConfigError) as refused:
        parse(line)
    (only,) = refused.value.problems
    assert only.line == 4
    return f"{only.where}: {only.message}".removeprefix("routes[0].")


@pytest.mark.parametrize(
    "line",
    [
        "limits: {max_streams: 5, queue: 10, queue_timeout: off, max_streams_per_client: 2, client_key: header:X-Key}",
        "auth: {bearer: {tokens: [abc]}}",
        "auth: {bearer: {tokens: [abc, {token: def}, {name: bob, token: ghi}]}}",
        "auth: {bearer: {tokens: [abc]}, from: [header, {query: access_token}, {cookie: session}], pass: on}",
        f"auth: {{jwt: {{secret: {SECRET}, algorithms: [HS256], leeway: 1m, issuer: x, audience: y}}}}",
        "auth: {jwt: {jwks_url: 'https://id.example/.well-known/jwks.json?v=1'}}",
        f"auth: {{jwt: {{jwks_file: {__file__}}}, from: [{{cookie: session}}]}}",
        "auth: off",
        "cors: {origins: '*'}",
        "cors: {origins: [https://app.example, 'http://localhost:3000'], credentials: on}",
    ],
)
def test_what_may_be_said_loads_and_fits_the_schema(line: str) -> None:
    parse(line)
    assert [error.message for error in VALIDATOR.iter_errors(yaml.safe_load(f"{HEAD}    {line}\n"))] == []


def test_tokens_have_short_forms(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    file.write_text("x")
    auth = parse(f"auth: {{bearer: {{tokens: [abc, {{file: {file}}}]}}, from: [header, {{query: t}}]}}").routes[0].auth
    assert auth is not None
    assert auth.bearer is not None
    assert auth.bearer.tokens == (Token(token="abc"), Token(file=str(file)))
    assert auth.from_ == ("header", TokenSource(query="t"))


@pytest.mark.parametrize(
    ("origin", "normal"),
    [
        ("HTTPS://App.Example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://app.example:80", "http://app.example"),
        ("http://app.example:443", "http://app.example:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("chrome-extension://abcdef", "chrome-extension://abcdef"),
    ],
)
def test_origins_are_compared_as_browsers_write_them(origin: str, normal: str) -> None:
    cors = parse(f"cors: {{origins: ['{origin}']}}").routes[0].cors
    assert cors is not None
    assert cors.origins == (normal,)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("limits: {queue: 5}", "limits: has a queue without max_streams, whose places it would be for"),
        ("limits: {client_key: principal}", "limits.client_key: 'principal' is nobody without auth"),
        ("auth: {}", "auth: needs bearer or jwt"),
        ("auth: {bearer: {tokens: abc}}", "auth.bearer.tokens: must be a list"),
        ("auth: {bearer: {tokens: []}}", "auth.bearer.tokens: must not be empty"),
        ("auth: {bearer: {tokens: [{}]}}", "auth.bearer.tokens[0]: must be a token, {name: NAME, token: TOKEN} or"),
        ("auth: {bearer: {tokens: [{token: a, file: /dev/null}]}}", "auth.bearer.tokens[0]: must be a token"),
        ("auth: {bearer: {tokens: [{name: a, file: /dev/null}]}}", "auth.bearer.tokens[0]: must not name a file's"),
        ("auth: {bearer: {tokens: [{file: /none/there}]}}", "auth.bearer.tokens[0].file: cannot be read: No such file"),
        ("auth: {bearer: {tokens: [a], from: header}}", "auth.bearer.from: unknown key"),
        ("auth: {bearer: {tokens: [a]}, from: [cookie]}", "auth.from[0]: "),
        ("auth: {bearer: {tokens: [a]}, from: []}", "auth.from: must not be empty"),
        ("auth: {bearer: {tokens: [a]}, from: [{query: a, cookie: b}]}", "auth.from[0]: must be {query: NAME} or"),
        (
            "auth: {bearer: {tokens: [a]}, from: [{query: 'a b'}]}",
            "auth.from[0].query: 'a b' is not the name of a parameter",
        ),
        ("auth: {jwt: {}}", "auth.jwt: needs jwks_file, jwks_url or secret"),
        (f"auth: {{jwt: {{secret: {SECRET}, algorithms: [none]}}}}", "auth.jwt.algorithms[0]: "),
        (f"auth: {{jwt: {{secret: {SECRET}, algorithms: [RS256]}}}}", "auth.jwt: has a secret, and no HS algorithm"),
        (f"auth: {{jwt: {{secret: {SECRET}, algorithms: [HS512]}}}}", "auth.jwt: has a secret shorter than"),
        ("auth: {jwt: {jwks_file: /none/there}}", "auth.jwt.jwks_file: "),
        ("auth: {jwt: {jwks_url: id.example}}", "auth.jwt.jwks_url: 'id.example' is not a URL"),
        ("auth: {jwt: {jwks_url: 'https://u:p@id.example/k'}}", "auth.jwt.jwks_url: "),
        (
            "auth: {jwt: {jwks_url: 'https://id.example/k', algorithms: HS256}}",
            "auth.jwt: has jwks_url, and no alg",
        ),
        ("cors: {}", "cors.origins: is missing: origins such as https://app.example, or *"),
        ("cors: {origins: []}", "cors.origins: must not be empty"),
        ("cors: {origins: ['*'], credentials: on}", "cors: has credentials for every origin (*)"),
        ("cors: {origins: ['*', 'https://a.example']}", "cors: has * beside other origins"),
        (
            "cors: {origins: [app.example]}",
            "cors.origins[0]: 'app.example' is not an origin: write https://app.example",
        ),
        ("cors: {origins: ['https://app.example/']}", "cors.origins[0]: "),
        ("cors: {origins: ['null']}", "cors.origins[0]: "),
    ],
)
def test_what_may_not_be_said_is_refused_at_its_line(line: str, expected: str) -> None:
    assert problem(line).startswith(expected)


@pytest.mark.parametrize(
    "line",
    [
        "auth: {bearer: {tokens: ['se,cret token']}}",
        "auth: {bearer: {tokens: [{name: 'not a name', token: se-cret}]}}",
        "auth: {jwt: {secret: se-cret}}",
        "auth: {jwt: {secret: se-cret, algorithms: [RS256]}}",
    ],
)
def test_a_refused_secret_is_not_repeated(line: str) -> None:
    told = problem(line)
    assert "cret" not in told.replace("a secret", "").replace("or secret", "").replace(".secret", "")


def test_an_empty_variable_is_no_token() -> None:
    """``${TOKEN:-}`` must not let in who brings an empty one."""
    with pytest.raises(ConfigError, match="is not a bearer token"):
        parse("auth: {bearer: {tokens: ['${TOKEN:-}']}}")


def test_tokens_and_secrets_are_hidden_when_the_configuration_is_shown() -> None:
    config = parse(f"auth: {{bearer: {{tokens: [abcdef, {{name: bob, token: ghijkl}}]}}, jwt: {{secret: {SECRET}}}}}")
    shown = str(config.redacted()) + repr(config)
    assert not [secret for secret in ("abcdef", "ghijkl", SECRET) if secret in shown]
