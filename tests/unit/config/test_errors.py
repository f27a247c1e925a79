"""Every mistake is reported at its place, all of a file at once, and no secret with it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from streamproxy.config import load_config, parse_config
from streamproxy.errors import ConfigError, Problem

ROUTES = "routes: [{path: /*, upstream: http://a}]\n"


def problems(text: str, environ: Mapping[str, str] | None = None) -> list[str]:
    """The lines that a file's errors are printed as."""
    with pytest.raises(ConfigError) as caught:
        parse_config(text, name="f.yaml", environ=environ)
    assert str(caught.value) == "\n".join(str(problem) for problem in caught.value.problems)
    return str(caught.value).splitlines()


def in_route(line: str) -> str:
    """A file with one more line in its only route, which is line 4 of it."""
    return f"routes:\n  - path: /*\n    upstream: http://a\n    {line}\n"


def test_a_problem_prints_as_file_line_column_place_and_message() -> None:
    assert str(Problem("f.yaml", 3, 5, "routes[0].path", "is bad")) == "f.yaml:3:5: routes[0].path: is bad"
    assert str(Problem("f.yaml", 1, 1, "", "is empty")) == "f.yaml:1:1: is empty"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "f.yaml:1:1: the file is empty: at least routes is needed"),
        ("# nothing\n", "f.yaml:1:1: the file is empty: at least routes is needed"),
        ("[]", "f.yaml:1:1: must be a mapping of keys: at least routes is needed"),
        ("server:\n", "f.yaml:1:1: routes: is missing: tried in order; the first match serves the request"),
        ("routes:\n", "f.yaml:1:8: routes: must not be empty: at least one route is needed"),
        ("routes: []\n", "f.yaml:1:9: routes: must not be empty: at least one route is needed"),
        ("routes: {}\n", "f.yaml:1:9: routes: must be a list of routes"),
        (
            "routes: [\n",
            "f.yaml:2:1: not YAML: expected the node content, but found '<stream end>'; while parsing a flow node",
        ),
        ("a: 1\n---\n", "f.yaml:2:1: not YAML: but found another document; expected a single document in the stream"),
        ("a: 1\nb: \x01\n", "f.yaml:2:4: the file has a character that YAML does not allow"),
        ("[" * 5000, "f.yaml:1:1: the file is nested too deeply"),
    ],
)
def test_a_file_that_is_no_configuration_at_all(text: str, expected: str) -> None:
    assert problems(text) == [expected]


def test_common_slips_of_yaml_come_with_advice() -> None:
    assert 'an IPv6 address is quoted: "[::1]:8080"' in problems("server:\n  listen: [::1]:8080\n" + ROUTES)[0]
    assert 'a reference is quoted: "${NAME}"' in problems("log: {level: ${LEVEL}}\n" + ROUTES)[0]


def test_yaml_that_means_nothing_here_is_refused() -> None:
    assert problems(ROUTES + "log: {level: !secret x}\n") == [
        "f.yaml:2:14: log.level: has the tag !secret, which means nothing here"
    ]
    assert problems(ROUTES + "log: {? [a] : b}\n") == ["f.yaml:2:9: log: has a key that is not text"]
    assert problems(ROUTES + "log: &a {level: *a}\n") == ["f.yaml:2:6: log.level: contains itself"]
    assert problems(ROUTES + "log: {<<: x}\n") == ["f.yaml:2:11: log: merges (<<) something that is not a mapping"]


@pytest.mark.parametrize("form", ["b{0}: &b{0} [{1}]\n", "b{0}: &b{0}\n  <<: [{1}]\n"])
def test_aliases_that_multiply_are_refused_before_they_fill_the_memory(form: str) -> None:
    text = "b0: &b0 {k: v}\n" + "".join(form.format(n, ", ".join([f"*b{n - 1}"] * 9)) for n in range(1, 12))
    (problem,) = problems(ROUTES + text)
    assert problem.endswith("aliases (*name) repeat more than 100,000 values")


def test_no_tag_creates_an_object(tmp_path: Path) -> None:
    witness = tmp_path / "witness"
    (line,) = problems(ROUTES + f"log: !!python/object/apply:pathlib.Path.touch [!!python/name:x '{witness}']\n")
    assert line.startswith("f.yaml:2:6: log: has the tag")
    assert not witness.exists()


def test_a_file_that_cannot_be_read_is_one_problem(tmp_path: Path) -> None:
    missing = tmp_path / "none.yaml"
    with pytest.raises(ConfigError, match="cannot be read: No such file or directory"):
        load_config(missing)
    binary = tmp_path / "binary.yaml"
    binary.write_bytes(b"\xff\xfe\xff")
    with pytest.raises(ConfigError) as caught:
        load_config(binary)
    assert str(caught.value) == f"{binary}:1:1: cannot be read: it is not UTF-8 text"


def test_an_unknown_key_comes_with_the_nearest_known_one() -> None:
    assert problems(in_route("timeuots: {}")) == [
        "f.yaml:4:5: routes[0].timeuots: unknown key; did you mean 'timeouts'?"
    ]
    assert problems("sever: {}\n" + ROUTES) == ["f.yaml:1:1: sever: unknown key; did you mean 'server'?"]


def test_an_unknown_key_that_is_near_to_none_comes_with_all_there_are() -> None:
    assert problems(in_route("rewrite: {xyz: 1}")) == [
        "f.yaml:4:15: routes[0].rewrite.xyz: unknown key; the keys here are: add_prefix, strip_prefix"
    ]


def test_a_duplicate_key_is_reported_where_it_comes_again() -> None:
    assert problems(in_route("path: /x")) == [
        "f.yaml:4:5: routes[0].path: duplicate key 'path': it is already on line 2"
    ]


def test_a_duplicate_key_hides_no_mistake_in_the_first() -> None:
    assert problems("log: {level: x, level: info}\n" + ROUTES) == [
        "f.yaml:1:14: log.level: 'x' is not allowed here: write debug, info, warning or error",
        "f.yaml:1:17: log.level: duplicate key 'level': it is already on line 1",
    ]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "timeouts: {idle: 5x}",
            "4:22: routes[0].timeouts.idle: '5x' is not a duration:"
            " write 250ms, 15s, 5m, 1h or a number of seconds, or off",
        ),
        ("timeouts: {idle: 0}", "4:22: routes[0].timeouts.idle: '0' must be greater than 0, or off"),
        (
            "keepalive: 5x",
            "4:16: routes[0].keepalive: '5x' is not a duration: write 250ms, 15s, 5m, 1h or a number of seconds",
        ),
        ("keepalive: {interval: 0s}", "4:27: routes[0].keepalive.interval: '0s' must be greater than 0"),
        (
            "buffer: 64k",
            "4:13: routes[0].buffer: '64k' is not a size: write 64KiB, 10MiB, 1GB or a whole number of bytes",
        ),
        ("anti_buffering: maybe", "4:21: routes[0].anti_buffering: 'maybe' is not a switch: write on or off"),
        ("compression: gzip", "4:18: routes[0].compression: 'gzip' is not allowed here: write auto, pass or identity"),
        (
            "methods: [GET, post]",
            "4:20: routes[0].methods[1]: 'post' is not a method: write it in capitals, such as GET or POST",
        ),
        (
            "hosts: [a.*]",
            "4:13: routes[0].hosts[0]: 'a.*' is not a host:"
            " write api.example or *.example, without a scheme, port or path",
        ),
        (
            "request_headers: {set: {a b: c}}",
            "4:29: routes[0].request_headers.set.a b: 'a b' is not a header name:"
            " use letters, digits and !#$%&'*+-.^_`|~",
        ),
        (
            "response_headers: {remove: [Connection]}",
            "4:33: routes[0].response_headers.remove[0]: 'Connection' cannot be changed by a rule:"
            " the proxy writes the fields of a connection itself",
        ),
        (
            "request_headers: {set: {a: 1, A: 2}}",
            "4:28: routes[0].request_headers.set: names one header twice, in different case",
        ),
        ("name: {a: b}", "4:11: routes[0].name: must be text"),
        (
            "rewrite: [a]",
            "4:14: routes[0].rewrite: must be a mapping with the keys strip_prefix, add_prefix; "
            "write {strip_prefix: /prefix}",
        ),
        ("headers: x", "4:14: routes[0].headers: 'x' must be a mapping; write {x-name: value}"),
        ("headers: {a: }", "4:17: routes[0].headers.a: must be text; write \"\" for an empty one"),
        (
            "name: ''",
            "4:11: routes[0].name: is not a name:"
            " it must not be empty, nor have control characters or spaces around it",
        ),
    ],
)  # fmt: skip
def test_a_bad_value_is_reported_with_what_is_allowed(line: str, expected: str) -> None:
    assert problems(in_route(line)) == [f"f.yaml:{expected}"]


def test_what_is_wrong_in_an_upstream() -> None:
    text = (
        "upstreams:\n"
        "  a: {endpoints: [ftp://a]}\n"
        "  b: {endpoints: []}\n"
        "  c: {}\n"
        "  d d: {endpoints: http://d}\n"
        "  e: {endpoints: http://e, client: native, proxy: http://p:1}\n"
        "  f: {endpoints: [{socket: run.sock}]}\n"
        "  g: {endpoints: http://g/v1}\n"
        "  h: {endpoints: http://h, client: httpx, http2: on}\n"
        "  i: {endpoints: http://i, proxy: http://p:1, http2: on}\n" + ROUTES
    )
    assert problems(text) == [
        "f.yaml:2:19: upstreams.a.endpoints[0]: 'ftp://a' is not a URL: write http://host:port, https://host:port",
        "f.yaml:3:18: upstreams.b.endpoints: must not be empty",
        "f.yaml:4:6: upstreams.c: needs endpoints, or redis in place of them",
        "f.yaml:5:3: upstreams.d d: 'd d' is not a name: use letters, digits, '_', '-' and '.'",
        "f.yaml:6:6: upstreams.e: has client: native, which uses no egress proxy; write client: auto or httpx",
        "f.yaml:7:19: upstreams.f.endpoints[0].url: is missing: http://host:port or https://host:port",
        "f.yaml:7:28: upstreams.f.endpoints[0].socket: 'run.sock' is not an absolute path"
        " such as /run/backend.sock, or off",
        "f.yaml:8:18: upstreams.g.endpoints: 'http://g/v1' must not carry a path: use rewrite.add_prefix on the route",
        "f.yaml:9:6: upstreams.h: has client: httpx and http2: on; httpx does not reset streams, write client: auto",
        "f.yaml:10:6: upstreams.i: has http2: on and an egress proxy, which is only spoken through in HTTP/1.1",
    ]


def test_what_is_wrong_in_the_listeners() -> None:
    text = "server:\n  listen: [8080, '[::1]:x']\n  trusted_proxies: [10.0.0.1/8]\nadmin: {mount: admin}\n" + ROUTES
    assert problems(text) == [
        "f.yaml:2:12: server.listen[0]: '8080' is not an address: write host:port, [v6]:port or unix:/path.sock;"
        " 127.0.0.1:8080 is this machine alone, 0.0.0.0:8080 every address of it",
        "f.yaml:2:18: server.listen[1]: '[::1]:x' is not an address: write host:port, [v6]:port or unix:/path.sock",
        "f.yaml:3:21: server.trusted_proxies[0]: '10.0.0.1/8' has bits set behind its prefix length:"
        " the network is 10.0.0.0/8",
        "f.yaml:4:16: admin.mount: 'admin' is not a path prefix: write it as /api, without a * or a query, or off",
    ]


def test_a_reference_that_stands_for_nothing_is_reported_at_its_line(tmp_path: Path) -> None:
    text = (
        "routes:\n"
        "  - path: /*\n"
        "    upstream: ${BACKEND}\n"
        "    request_headers:\n"
        "      set:\n"
        f"        a: x${{file:{tmp_path}/none}}\n"
        "        b: ${a b}\n"
        "        c: ${OPEN\n"
    )
    forms = "${NAME}, ${NAME:-default} or ${file:/path}, and $$ for a dollar sign"
    bad = f"has a reference that cannot be read: write {forms}"
    where = "routes[0].request_headers.set"
    assert problems(text) == [
        "f.yaml:3:15: routes[0].upstream: the variable BACKEND is not set; set it, or write ${BACKEND:-default}",
        f"f.yaml:6:12: {where}.a: the file {tmp_path}/none cannot be read: No such file or directory",
        f"f.yaml:7:12: {where}.b: {bad}",
        f"f.yaml:8:12: {where}.c: {bad}",
    ]


@pytest.mark.parametrize(
    "auth",
    ["{bearer: {tokens: [{file: '${NOT_SET}'}]}}", "{jwt: {jwks_file: '${NOT_SET}'}}", "{jwt: {secret: '${NOT_SET}'}}"],
)
def test_a_value_that_is_not_there_is_one_problem_and_not_its_sections_too(auth: str) -> None:
    (said,) = problems(in_route(f"auth: {auth}"))
    assert "the variable NOT_SET is not set" in said


def test_all_errors_of_a_file_come_at_once_in_its_order() -> None:
    text = (
        "log: {level: loud}\n"
        "server: {listen: 1, listen: 2}\n"
        "upstreams: {llm: {endpoints: http://a/b}}\n"
        "routes:\n"
        "  - {name: x, path: v1, upstream: lm, buffer: -1, retry: {attempts: none}}\n"
        "  - {name: x, path: /v1/*, upstream: '${NONE}', colour: red}\n"
        "  - {path: /v1/x, upstream: llm}\n"
    )
    assert [line.split(" ")[0] + line.split(" ")[1] for line in problems(text)] == [
        "f.yaml:1:14:log.level:",
        "f.yaml:2:18:server.listen:",
        "f.yaml:2:21:server.listen:",
        "f.yaml:3:30:upstreams.llm.endpoints:",
        "f.yaml:5:21:routes[0].path:",
        "f.yaml:5:35:routes[0].upstream:",
        "f.yaml:5:47:routes[0].buffer:",
        "f.yaml:5:69:routes[0].retry.attempts:",
        "f.yaml:6:12:routes[1].name:",
        "f.yaml:6:38:routes[1].upstream:",
        "f.yaml:6:49:routes[1].colour:",
        "f.yaml:7:12:routes[2].path:",
    ]


SECRET = "sekrit"


@pytest.mark.parametrize(
    "line",
    [
        "timeouts: {idle: '${SECRET}'}",
        "buffer: '1${SECRET}'",
        "anti_buffering: ${SECRET}",
        "compression: ${SECRET}",
        "methods: ['${SECRET}']",
        "hosts: ['*${SECRET}']",
        "headers: {x-key: '${SECRET}\n\n'}",
        'request_headers: {set: {x: "${SECRET}\\n"}}',
        f'request_headers: {{set: {{x: "{SECRET}\\n"}}}}',
        f'request_headers: {{add: {{Authorization: "Bearer {SECRET}\\0"}}}}',
        "rewrite: ${SECRET}",
        "limits: {max_request_body: '${SECRET}'}",
        "retry: {attempts: '${SECRET}'}",
        "share: ${SECRET}",
        f"keepalive: http://user:{SECRET}@host/",
        f"buffer: ?key={SECRET}",
        f"buffer: {SECRET * 5}",
    ],
)
def test_a_secret_never_appears_in_an_error(line: str) -> None:
    found = problems(in_route(line), {"SECRET": SECRET + "\x01"})
    assert found
    assert SECRET not in "\n".join(found)


@pytest.mark.parametrize(
    "upstream",
    [
        "{endpoints: 'http://user:sekrit@host'}",
        "{endpoints: 'http://host/?key=sekrit'}",
        "{endpoints: 'http://${SECRET}/x'}",
        "{endpoints: http://a, proxy: 'http://user:sekrit@host:99999'}",
        "{endpoints: http://a, host: '${SECRET} x'}",
        "{endpoints: http://a, tls: {ca: '/${SECRET}'}}",
    ],
)
def test_a_secret_in_an_upstream_never_appears_in_an_error(upstream: str) -> None:
    found = problems(f"upstreams: {{u: {upstream}}}\n{ROUTES}", {"SECRET": SECRET})
    assert found
    assert SECRET not in "\n".join(found)
