"""What only shows between keys: names, listeners, files, and routes in the shadow of others."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from streamproxy.config import parse_config
from streamproxy.errors import ConfigError
from tests.doubles.certificates import Certificate, make_certificate

ROUTES = "routes: [{path: /*, upstream: http://a}]\n"


def problems(text: str) -> list[str]:
    """The errors of a file; none when it is good."""
    try:
        parse_config(text, name="f.yaml")
    except ConfigError as error:
        return str(error).splitlines()
    return []


def routes(*conditions: str) -> str:
    return "routes:\n" + "".join(
        f"  - {{name: r{index}, upstream: http://a, {each}}}\n" for index, each in enumerate(conditions)
    )


def test_an_unknown_upstream_comes_with_a_suggestion() -> None:
    text = "upstreams: {backend: {endpoints: http://a}}\nroutes:\n  - {path: /a, upstream: %s}\n"
    assert problems(text % "bakend") == [
        "f.yaml:3:26: routes[0].upstream: 'bakend' is not the name of an upstream, nor a URL; did you mean 'backend'?"
    ]
    assert problems(text % "xyz") == [
        "f.yaml:3:26: routes[0].upstream: 'xyz' is not the name of an upstream, nor a URL; the upstreams are: backend"
    ]


def test_an_address_without_a_scheme_is_told_to_have_one() -> None:
    assert problems("routes: [{path: /a, upstream: 127.0.0.1:8000}]\n") == [
        "f.yaml:1:31: routes[0].upstream: '127.0.0.1:8000' is neither the name of an upstream nor a URL:"
        " a URL begins with http:// or https://"
    ]


def test_two_routes_of_one_name_are_refused() -> None:
    text = "routes:\n  - {name: a, path: /a, upstream: http://a}\n  - {name: a, path: /b, upstream: http://a}\n"
    assert problems(text) == ["f.yaml:3:12: routes[1].name: 'a' is the name of the route on line 2 already"]


def test_two_routes_named_by_one_path_need_names() -> None:
    text = (
        "routes:\n  - {path: /a, methods: GET, upstream: http://a}\n  - {path: /a, methods: PUT, upstream: http://a}\n"
    )
    assert problems(text) == [
        "f.yaml:3:12: routes[1].path: '/a' is the name of the route on line 2 already;"
        " give the route a name, since its path is that of the other one"
    ]


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("path: /*", "path: /v1/*"),
        ("path: /v1/*", "path: /v1/*"),
        ("path: /v1/*", "path: /v1/chat"),
        ("path: /v1/*", "path: /v1/"),
        ("path: [/a, /b/*]", "path: [/b/c, /a]"),
        ("path: /%61", "path: /a"),
        ("path: /a%2fb", "path: /a%2Fb"),
        ("path: /a", "path: /a, methods: [PUT]"),
        ("path: /a, methods: [GET, PUT]", "path: /a, methods: [PUT]"),
        ("path: /a, methods: [GET]", "path: /a, methods: [HEAD]"),
        ("path: /a", "path: /a, hosts: [x.example]"),
        ("path: /a, hosts: ['*.example']", "path: /a, hosts: [X.Example]"),
        ("path: /a, hosts: ['*.example']", "path: /a, hosts: ['*.x.example']"),
        ("path: /a, headers: {x-a: '*'}", "path: /a, headers: {X-A: b, x-c: d}"),
        ("path: /a, headers: {x-a: b}", "path: /a, headers: {x-a: b}"),
        ("path: /a", "path: /a, models: [m]"),
        ("path: /a, models: [m]", "path: /a, models: [m]"),
        ("path: /a, models: ['llama-*']", "path: /a, models: ['llama-3*', llama-2]"),
    ],
)
def test_a_route_that_can_never_match_is_refused(earlier: str, later: str) -> None:
    (line,) = problems(routes(earlier, later))
    assert line.startswith("f.yaml:3:")
    assert line.endswith("can never match: the route on line 2 comes first and takes all of it")
    assert ": routes[1].path: " in line


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("path: /v1/*", "path: /*"),
        ("path: /v1/*", "path: /v1"),
        ("path: /v1/*", "path: /v10/*"),
        ("path: /v1", "path: /v1/*"),
        ("path: /a/b", "path: /a%2Fb"),
        ("path: [/a, /b]", "path: [/a, /c]"),
        ("path: /a, methods: [GET]", "path: /a"),
        ("path: /a, methods: [HEAD]", "path: /a, methods: [GET]"),
        ("path: /a, methods: [GET]", "path: /a, methods: [GET, PUT]"),
        ("path: /a, hosts: [x.example]", "path: /a"),
        ("path: /a, hosts: ['*.example']", "path: /a, hosts: [example]"),
        ("path: /a, hosts: ['*.x.example']", "path: /a, hosts: ['*.example']"),
        ("path: /a, hosts: [x.example]", "path: /a, hosts: ['*.example']"),
        ("path: /a, headers: {x-a: '*'}", "path: /a"),
        ("path: /a, headers: {x-a: b}", "path: /a, headers: {x-a: '*'}"),
        ("path: /a, headers: {x-a: b}", "path: /a, headers: {x-a: c}"),
        ("path: /a, headers: {x-a: b, x-c: d}", "path: /a, headers: {x-a: b}"),
        ("path: /a, models: [m]", "path: /a"),
        ("path: /a, models: [m]", "path: /a, models: [n]"),
        ("path: /a, models: [m]", "path: /a, models: ['m*']"),
    ],
)
def test_a_route_with_something_left_to_match_is_let_through(earlier: str, later: str) -> None:
    assert problems(routes(earlier, later)) == []


def test_several_routes_together_can_take_all_of_a_later_one() -> None:
    three = routes("path: /a/*", "path: /b, methods: [GET]", "path: [/a/x, /b], methods: [GET]")
    assert problems(three) == [
        "f.yaml:4:42: routes[2].path: can never match: the routes on lines 2 and 3 come first and take all of it"
    ]


def test_listeners_do_not_share_an_address() -> None:
    ok = "routes: [{path: /, upstream: http://a}]\n"
    assert problems("server: {listen: [a:1, b:1, a:1]}\n" + ok) == [
        "f.yaml:1:29: server.listen[2]: 'a:1' is listened on already; take another address"
    ]
    assert problems("server: {listen: a:1}\nadmin: {listen: a:1}\n" + ok) == [
        "f.yaml:2:17: admin.listen: 'a:1' is listened on already; take another address"
    ]
    assert problems("server: {listen: 127.0.0.1:9090}\n" + ok) == [
        "f.yaml:1:18: server.listen: '127.0.0.1:9090' is the default address of the admin listener;"
        " set admin.listen too"
    ]
    assert problems("server: {listen: 127.0.0.1:9090}\nadmin: {listen: off}\n" + ok) == []
    assert problems("server: {listen: [a:0, a:0]}\nadmin: {listen: a:0}\n" + ok) == []


def test_files_of_tls_must_be_readable(tmp_path: Path, certificate: Certificate) -> None:
    there = tmp_path / "ca.pem"
    there.write_bytes(certificate.cert.read_bytes())
    tls = json.dumps({"ca": str(there), "cert": str(tmp_path), "key": str(tmp_path / "none")})
    text = f"upstreams:\n  u:\n    endpoints: https://a\n    tls: {tls}\nroutes: [{{path: /, upstream: u}}]\n"
    first, second = problems(text)
    assert first.startswith("f.yaml:4:")
    assert "upstreams.u.tls.cert: " in first
    assert first.endswith("cannot be read: Is a directory")
    assert "upstreams.u.tls.key: " in second
    assert second.endswith("cannot be read: No such file or directory")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    text = f"routes: [{{path: /*, upstream: http://a, auth: {{bearer: {{tokens: [{{file: {pipe}}}]}}}}}}]\n"
    (problem,) = problems(text)
    assert problem.endswith("cannot be read: it is a pipe, which is read only once")


def test_a_key_must_belong_to_its_certificate(tmp_path: Path, certificate: Certificate) -> None:
    other = make_certificate(tmp_path)
    text = f"server:\n  tls:\n    cert: {certificate.cert}\n    key: {other.key}\n"
    (problem,) = problems(text + ROUTES)
    assert problem.startswith("f.yaml:4:10: server.tls.key: ")
    assert problem.endswith("is not the private key of the certificate")
    assert problems(text.replace(str(other.key), str(certificate.key)) + ROUTES) == []


def test_a_key_that_needs_a_password_is_refused_and_never_asked_for(tmp_path: Path) -> None:
    made = make_certificate(tmp_path)
    locked = tmp_path / "locked.pem"
    options = ["-in", str(made.key), "-out", str(locked), "-aes128", "-passout", "pass:hush"]
    subprocess.run(["openssl", "pkey", *options], check=True, capture_output=True)
    (problem,) = problems(f"server: {{tls: {{cert: {made.cert}, key: {locked}}}}}\n" + ROUTES)
    assert problem.endswith("is encrypted; give a key without a password")


def test_files_of_tls_have_in_them_what_their_key_says(tmp_path: Path, certificate: Certificate) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("")
    cert, key = certificate.cert, certificate.key
    for pair, where, why in (
        (f"cert: {empty}, key: {key}", "cert", "has no certificate in PEM form"),
        (f"cert: {cert}, key: {empty}", "key", "has no private key in PEM form"),
        (f"cert: {cert}, key: {key}, client_ca: {empty}", "client_ca", "has no certificate in PEM form"),
    ):
        (problem,) = problems(f"server: {{tls: {{{pair}}}}}\n" + ROUTES)
        assert f" server.tls.{where}: " in problem
        assert problem.endswith(why)


def test_a_certificate_and_its_key_come_together() -> None:
    text = "upstreams: {u: {endpoints: https://a, tls: {cert: /dev/null}}}\nroutes: [{path: /, upstream: u}]\n"
    assert problems(text) == ["f.yaml:1:44: upstreams.u.tls: needs cert and key together"]


def test_an_endpoint_has_a_socket_or_a_name_to_resolve() -> None:
    text = (
        "upstreams: {u: {endpoints: [{url: http://a, socket: /s, resolve: each}]}}\nroutes: [{path: /*, upstream: u}]\n"
    )
    assert problems(text) == [
        "f.yaml:1:29: upstreams.u.endpoints[0]: has a socket, so there is no name to resolve; leave one of the two out"
    ]


TWICE = "upstreams: {u: {endpoints: [%s]}}\nroutes: [{path: /*, upstream: u}]\n"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("http://a", "http://a"),
        ("http://a", "http://A:80/"),
        ("https://a", "{url: https://a:443, weight: 2}"),
        ("{url: http://a, resolve: each}", "http://a"),
        ("'http://[::1]:80'", "'http://[::1]'"),
    ],
)
def test_an_endpoint_is_not_there_twice(one: str, other: str) -> None:
    (problem,) = problems(TWICE % f"{one}, http://b,\n  {other}")
    assert problem.startswith("f.yaml:2:")
    assert " upstreams.u.endpoints[2]" in problem
    assert problem.endswith("is the endpoint on line 1 already; use weight")


def test_endpoints_with_sockets_need_urls_of_their_own_too() -> None:
    text = TWICE % "{url: http://unix, socket: /a}, {url: 'http://%s', socket: /b}"
    (problem,) = problems(text % "unix")
    assert problem.endswith("use another host in the URL, which the socket does not need")
    assert problems(text % "b") == []


def test_two_upstreams_may_have_the_same_endpoint() -> None:
    text = "upstreams: {u: {endpoints: http://a}, v: {endpoints: [http://a, 'http://a:81', 'https://a']}}\n"
    assert problems(text + ROUTES) == []


UPSTREAM = "upstreams:\n  u:\n    endpoints: http://a\n    %s\nroutes: [{path: /*, upstream: u}]\n"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "outlier: {max_ejected_percent: 200}",
            "36: upstreams.u.outlier.max_ejected_percent: '200' is not a percentage: write a number from 1 to 100",
        ),
        (
            "outlier: {max_ejected_percent: 0}",
            "36: upstreams.u.outlier.max_ejected_percent: '0' is not a percentage: write a number from 1 to 100",
        ),
        (
            "health: {status: [200, 99]}",
            "28: upstreams.u.health.status[1]: '99' is not the status of a final response: write a number from"
            " 200 to 599",
        ),
        (
            "health: {status: [600]}",
            "23: upstreams.u.health.status[0]: '600' is not the status of a final response: write a number from"
            " 200 to 599",
        ),
        ("health: {status: []}", "22: upstreams.u.health.status: must not be empty"),
    ],
)  # fmt: skip
def test_health_and_ejection_say_what_is_allowed(line: str, expected: str) -> None:
    assert problems(UPSTREAM % line) == [f"f.yaml:4:{expected}"]


@pytest.mark.parametrize(
    "line",
    [
        "outlier: {max_ejected_percent: 100}",
        "health: {interval: 2s, timeout: 2s}",
        "health: {interval: 100ms, timeout: 6s}",
        "health: {interval: 100ms}",
        "health: {status: [200, 204, 503]}",
    ],
)
def test_health_and_ejection_take_what_is_allowed(line: str) -> None:
    assert problems(UPSTREAM % line) == []


@pytest.mark.parametrize(
    "keys",
    [
        "upstream: http://a, fallback: [nowhere]",
        "upstream: {shares: [{name: nowhere}]}",
        "upstream: [{name: http://a}, {name: nowhere}]",
        "upstream: {shares: [{name: http://a, weight: 0}]}",
        "upstream: [{name: http://a}, {name: http://a}]",
    ],
)
def test_upstreams_that_cannot_answer_are_refused(keys: str) -> None:
    assert problems("routes: [{path: /*, " + keys + "}]\n")


def test_a_cursor_cannot_come_before_its_stream() -> None:
    keys = "upstream: http://a, resume: {}, keepalive: {before_headers: 5s}"
    assert "before there is a cursor" in str(problems("routes: [{path: /*, " + keys + "}]\n"))


def test_statuses_to_retry_on_are_numbers_or_texts() -> None:
    text = "routes: [{path: /*, upstream: http://a, retry: {attempts: 2, on: [reset, 502, '503']}}]\n"
    assert parse_config(text, name="f.yaml").routes[0].retry.on == ("reset", "502", "503")
    assert problems(text.replace("502", "501"))


def test_streams_in_memory_need_one_worker() -> None:
    text = "server: {workers: 2}\n" + routes("path: /a, resume: {window: 1m}", "path: /b, resume: {store: redis://r}")
    assert problems(text) == [
        "f.yaml:3:54: routes[0].resume: keeps streams in the memory of one of several workers:"
        " set store to redis://HOST:PORT"
    ]
    assert problems("server: {workers: 1}\n" + routes("path: /a, resume: {}")) == []


def test_a_store_is_memory_or_a_redis_and_its_url_is_not_repeated() -> None:
    for good in ("memory", "redis://r:6379/0", "rediss://user:pass@r/1?ssl_ca_certs=ca.pem", "unix:///run/r.sock"):
        assert problems(routes(f"path: /a, resume: {{store: '{good}'}}")) == []
    (problem,) = problems(routes("path: /a, resume: {store: 'http://user:pass@r'}"))
    assert problem.endswith("is not a store: write memory, or the URL of a Redis: redis://, rediss:// or unix://")
    assert "pass@" not in problem


def test_ids_are_auto_on_or_off() -> None:
    for good in ("auto", "on", "off", "'on'", "true"):
        assert problems(routes(f"path: /a, resume: {{ids: {good}}}")) == []
    (problem,) = problems(routes("path: /a, resume: {ids: maybe}"))
    assert problem.endswith("is none of auto, on and off")
