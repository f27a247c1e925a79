"""What only shows between keys: names, listeners, files, and routes in the shadow of others."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from streamproxy.config import parse_config
from streamproxy.config.redis import FORMS
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
        "f.yaml:3:26: routes[0].upstream: 'xyz' is not the name of an upstream, nor a URL;"
        " a URL begins with http://, and the upstreams are: backend"
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
        "upstream: http://a, mirror: {upstream: nowhere}",
        "upstream: http://a, mirror: {upstream: http://b, percent: 101}",
        "upstream: {shares: [{name: nowhere}]}",
        "upstream: [{name: http://a}, {name: nowhere}]",
        "upstream: {shares: [{name: http://a, weight: 0}]}",
        "upstream: [{name: http://a}, {name: http://a}]",
    ],
)
def test_upstreams_that_cannot_answer_are_refused(keys: str) -> None:
    assert problems("routes: [{path: /*, " + keys + "}]\n")


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
    assert problems(routes("path: /a, resume: {store: memory}")) == []
    (problem,) = problems(routes("path: /a, resume: {store: 'http://user:pass@r'}"))
    assert problem.endswith(f"is not a store: write memory, or the URL of a Redis: {FORMS}")
    assert "pass@" not in problem


def test_ids_are_auto_on_or_off() -> None:
    for good in ("auto", "on", "off", "'on'", "true"):
        assert problems(routes(f"path: /a, resume: {{ids: {good}}}")) == []
    (problem,) = problems(routes("path: /a, resume: {ids: maybe}"))
    assert problem.endswith("is none of auto, on and off")


ROUTE = "routes: [{path: /*, upstream: http://a}]\n"


@pytest.mark.parametrize(("engine", "served"), [("uvicorn", True), ("hypercorn", False)])
def test_http2_is_served_where_the_engine_has_it(engine: str, served: bool) -> None:
    assert parse_config(f"server: {{engine: {engine}}}\n{ROUTE}", name="f").server.serves_http2 is served
    assert not parse_config(f"server: {{engine: {engine}, http2: off}}\n{ROUTE}", name="f").server.serves_http2


@pytest.mark.parametrize("key", ["http2: on", "proxy_protocol: [10.0.0.0/8]"])
def test_what_only_our_protocols_have_is_refused_under_hypercorn(key: str) -> None:
    with pytest.raises(ConfigError, match=f"server.{key.partition(':')[0]}: .*hypercorn"):
        parse_config(f"server: {{engine: hypercorn, {key}}}\n{ROUTE}", name="f")
    parse_config(f"server: {{engine: uvicorn, {key}}}\n{ROUTE}", name="f")


def test_ids_are_refused_for_gemini() -> None:
    (problem,) = problems(routes("path: /a, protocol: gemini, resume: {ids: on}"))
    assert problem.endswith("routes[0].resume.ids: 'on' is on, and the SDK of gemini fails on ids")


def test_a_kept_stream_is_not_shared_with_everybody() -> None:
    (problem,) = problems(routes("path: /a, resume: {}, share: {key: [path, query]}"))
    assert "routes[0].share.key: leaves out principal" in problem
    assert problems(routes("path: /a, resume: {}, share: {key: [path, principal]}")) == []
    assert problems(routes("path: /a, share: {key: [path]}")) == []


def hashed_by_principal(*routes: str) -> str:
    upstreams = "upstreams: {u: {endpoints: ['http://a', 'http://b'], balance: {hash: principal}}}\n"
    return upstreams + "routes:\n" + "".join(f"  - {{{one}}}\n" for one in routes)


def test_a_principal_to_balance_by_needs_clients_that_are_known() -> None:
    (problem,) = problems(hashed_by_principal("path: /a, upstream: u", "path: /b, upstream: 'http://x', fallback: [u]"))
    assert "upstreams.u.balance.hash: 'principal' is nobody, since no route to this upstream has auth" in problem
    known = "auth: {bearer: {tokens: [t]}}"
    assert problems(hashed_by_principal("path: /a, upstream: u", f"path: /b, upstream: u, {known}")) == []
    assert problems(hashed_by_principal(f"path: /b, upstream: 'http://x', fallback: u, {known}")) == []


@pytest.mark.parametrize("key", ["share", "reconnect"])
def test_what_is_for_get_is_refused_where_get_is_left_out(key: str) -> None:
    (problem,) = problems(routes(f"path: /a, methods: [POST], {key}: {{}}"))
    assert problem.endswith(f"routes[0].{key}: is for GET requests, and the route's methods leave GET out")
    assert problems(routes(f"path: /a, methods: [POST, GET], {key}: {{}}")) == []
    assert problems(routes(f"path: /a, {key}: {{}}")) == []


def events_of(channel: str, *rest: str, **keys: str) -> str:
    more = "".join(f", {name}: {value}" for name, value in keys.items())
    upstreams = f"upstreams: {{e: {{redis: {{url: 'redis://r', channel: '{channel}'{more}}}}}}}\n"
    return upstreams + "routes:\n  - {path: /a, upstream: e" + "".join(f", {key}" for key in rest) + "}\n"


def test_the_channel_of_a_principal_needs_named_clients() -> None:
    (nobody,) = problems(events_of("user:{principal}"))
    assert "routes[0].upstream: 'e' has {principal} in its channel" in nobody
    (unnamed,) = problems(events_of("user:{principal}", "auth: {bearer: {tokens: [secret, {name: n, token: t}]}}"))
    assert "tokens[0]: has no name" in unnamed
    assert "secret" not in unnamed
    assert problems(events_of("user:{principal}", "auth: {bearer: {tokens: [{name: n, token: t}]}}")) == []
    assert problems(events_of("all:{path.2}")) == []


def test_a_file_of_tokens_has_names_where_the_channel_is_a_principals(tmp_path: Path) -> None:
    file = tmp_path / "tokens"
    auth = f"auth: {{bearer: {{tokens: [{{file: '{file}'}}]}}}}"
    file.write_text("# names\nann t1\n")
    assert problems(events_of("user:{principal}", auth)) == []
    file.write_text("ann t1\nt2\n")
    (problem,) = problems(events_of("user:{principal}", auth))
    assert "tokens[0].file: " in problem
    assert "has a token without a name" in problem


@pytest.mark.parametrize("channel", ["{nobody}", "{path.0}", "a{", "a}"])
def test_a_channel_names_what_there_is(channel: str) -> None:
    (problem,) = problems(events_of(channel))
    assert "upstreams.e.redis.channel: has " in problem


def test_events_of_redis_are_not_kept_shared_or_asked_for_again() -> None:
    found = problems(events_of("all", "resume: {}", "share: {}", "reconnect: {}"))
    assert len(found) == 3
    assert all(problem.endswith("is not for an upstream of events from Redis") for problem in found)


def test_an_upstream_has_endpoints_or_a_redis() -> None:
    (neither,) = problems("upstreams: {e: {host: preserve}}\nroutes:\n  - {path: /a, upstream: e}\n")
    assert "needs endpoints, or redis in place of them" in neither
    both = "upstreams: {e: {endpoints: [http://a], redis: {url: redis://r, channel: a}}}\n"
    (problem,) = problems(both + "routes:\n  - {path: /a, upstream: e}\n")
    assert "has endpoints and redis; leave one of the two out" in problem
    (event,) = problems(events_of("a", kind="stream", event="x"))
    assert "has event, which is for pubsub" in event


def test_events_of_redis_are_all_that_a_route_and_an_upstream_have() -> None:
    upstreams = "upstreams: {u: {endpoints: [http://a]}, e: {redis: {url: redis://r, channel: a}}}\n"
    routes_of = "routes: [{path: /a, upstream: u, fallback: [e]}, {path: /b, upstream: [{name: u}, {name: e}]}]\n"
    found = problems(upstreams + routes_of)
    why = "'e' is an upstream of events from Redis, which has to be the only one of its route"
    assert [problem.partition(": ")[2] for problem in found] == [
        f"routes[0].fallback[0]: {why}",
        f"routes[1].upstream[1].name: {why}",
    ]
    (problem,) = problems(upstreams + "routes: [{path: /a, upstream: u, mirror: {upstream: e}}]\n")
    assert problem.endswith(why)
    more = upstreams.replace("redis: {", "models: {a: b}, host: preserve, client: auto, redis: {")
    (problem,) = problems(more + "routes: [{path: /a, upstream: u}]\n")
    assert "upstreams.e: has redis, which has no use for host, models" in problem


@pytest.mark.parametrize(
    "key",
    [
        "fallback: [http://b]",
        "retry: {attempts: 2}",
        "rewrite: {add_prefix: /b}",
        "timeouts: {available: 5s}",
        "timeouts: {first_event: 5s}",
        "mirror: {upstream: http://b}",
    ],
)
def test_what_events_of_redis_have_no_use_for_is_refused(key: str) -> None:
    (problem,) = problems(events_of("all", key))
    assert problem.endswith("is not for an upstream of events from Redis")


@pytest.mark.parametrize(
    "url",
    [
        "redis://user:se#cret@r:6379",
        "redis://user:se/cret@r:6379",
        "redis://user:1234/secret@r:6379",
        "redis+sentinel://user:se#cret@r/mymaster",
        "redis+sentinel://user:se/cret@r/mymaster",
        "redis+cluster://user:1234/secret@r",
        "redis+cluster://user:se?cret@r",
    ],
)
def test_a_password_that_breaks_the_url_of_a_redis_is_not_repeated(url: str) -> None:
    (problem,) = problems(routes(f"path: /a, resume: {{store: '{url}'}}"))
    assert "store: " in problem
    for part in ("secret", "cret@", "user"):
        assert part not in problem.partition("store: ")[2].replace("the user or the password", "")


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ("retry: {on: [error_event]}", "has error_event in retry.on, which needs retry.until: first_event"),
        ("fallback: [u]", "has the fallback u, which has been asked before it"),
        ("fallback: [v, v]", "has the fallback v, which has been asked before it"),
    ],
)
def test_what_could_never_happen_is_refused(keys: str, why: str) -> None:
    upstreams = "upstreams: {u: {endpoints: [http://a]}, v: {endpoints: [http://b]}}\n"
    (problem,) = problems(f"{upstreams}routes: [{{path: /a, upstream: u, {keys}}}]\n")
    assert problem.endswith(why)
    shared = "routes: [{path: /a, upstream: [{name: u}, {name: v}], fallback: [v]}]\n"
    assert problems(upstreams + shared) == []


def test_routes_that_are_a_mapping_are_refused_and_not_a_traceback() -> None:
    with pytest.raises(ConfigError, match=r"routes: must be a list"):
        parse_config("routes:\n  health: {path: /, upstream: http://a}\n", name="f.yaml")
