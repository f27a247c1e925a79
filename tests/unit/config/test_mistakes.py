"""What people get wrong, one mistake a row: each is answered by what to change, at its place.

The mistakes of a start (a port that is taken, a socket in no directory) are in ``tests/unit/process/test_sockets.py``.
"""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

import pytest
import yaml

from streamproxy.config import Config, parse_config
from streamproxy.config.advice import advice
from streamproxy.config.examples import EXAMPLES
from streamproxy.config.foreign import _FAMILIAR
from streamproxy.errors import ConfigError
from tests.unit.config.test_errors import in_route
from tests.unit.config.test_examples import all_keys
from tests.unit.project.markdown import Block, blocks

MIGRATING = "docs/migrating.md has the same in streamproxy's form"


class Mistake(NamedTuple):
    text: str
    place: str  # line, column and key
    answer: str  # what the message says, or a part of it that no other message has


def upstream(lines: str) -> str:
    """A file whose upstream ``a`` is written so, on line 1."""
    return f"upstreams: {{a: {lines}}}\nroutes:\n  - {{path: /*, upstream: a}}\n"


def served(line: str) -> str:
    """A file that begins with this line."""
    return f"{line}\nroutes:\n  - {{path: /*, upstream: http://127.0.0.1:8000}}\n"


def to(url: str) -> str:
    """A file whose only route leads to this URL, as it is written."""
    return f"routes:\n  - path: /*\n    upstream: {url}\n"


def at(path: str) -> str:
    """A file whose only route has this path, as it is written."""
    return f"routes:\n  - path: {path}\n    upstream: http://127.0.0.1:8000\n"


NGINX = "server {\n    listen 8080;\n    location / { proxy_pass http://127.0.0.1:8000; }\n}\n"
NGINX_WHOLE = "# ours\nworker_processes auto;\nevents { }\nhttp {\n  upstream llm { server 127.0.0.1:8000; }\n}\n"

MISTAKES = {
    # Files of others.
    "nginx's file": Mistake(NGINX, "1:1", f"this is an nginx configuration; {MIGRATING}"),
    "nginx's whole file": Mistake(NGINX_WHOLE, "2:1", "this is an nginx configuration"),
    "a Caddyfile": Mistake(":8080 {\n    reverse_proxy 127.0.0.1:8000\n}\n", "1:1", "this is a Caddyfile"),
    "Envoy's file": Mistake("static_resources:\n  listeners: []\n", "1:1", "this is an Envoy configuration"),
    "HAProxy's file": Mistake("global\n    daemon\nfrontend web\n    bind *:8080\n", "1:1", "this is an HAProxy"),
    "LiteLLM's file": Mistake("model_list:\n  - model_name: gpt-4o\n", "1:1", "this is a LiteLLM configuration"),
    "Caddy's JSON": Mistake('{"apps": {"http": {}}}', "1:1", "this is a Caddy configuration in JSON"),
    "a compose file": Mistake("services:\n  proxy: {image: x}\n", "1:1", "this is a compose file"),
    "TOML": Mistake('[server]\nlisten = "127.0.0.1:8080"\n', "1:1", "this is TOML"),
    "nginx's location alone": Mistake("location /v1/ {\n  proxy_pass http://a;\n}\n", "1:1", "this is an nginx config"),
    "a site of a Caddyfile, with tabs": Mistake('llm.example {\n\trespond "hi"\n}\n', "1:1", "this is a Caddyfile"),
    "Envoy's routes alone": Mistake("name: r\nvirtual_hosts: []\n", "1:1", "this is an Envoy configuration"),
    "LiteLLM's settings alone": Mistake("general_settings: {}\n", "1:1", "this is a LiteLLM configuration"),
    "Apache's file": Mistake(
        "<VirtualHost *:80>\n  ProxyPass / http://a/\n</VirtualHost>\n",
        "1:1",
        "this is an Apache configuration; the smallest file of streamproxy is routes: [{path: /*, upstream: http",
    ),
    "Kong's file": Mistake('_format_version: "3.0"\nservices: []\n', "1:1", "this is a Kong configuration"),
    "manifests": Mistake("apiVersion: v1\n---\napiVersion: v1\n", "1:1", "this is a Kubernetes manifest"),
    "a unit of systemd": Mistake("[Unit]\nDescription=x\n", "1:1", "this is a systemd unit"),
    "Prometheus's file": Mistake("scrape_configs: []\n", "1:1", "this is a Prometheus configuration"),
    "nothing": Mistake("", "1:1", "the file is empty: at least routes is needed"),
    "a broken file of ours with a line of nginx's": Mistake(
        "routes:\n  - path: /*\n    upstream: http://a\n    response_headers: [\n  server {\n",
        "5:10",
        "not YAML: expected",
    ),
    # YAML.
    "tabs": Mistake("routes:\n\t- path: /*\n", "2:1", "YAML is indented with spaces, never with tabs"),
    "no space after a colon": Mistake(
        "routes:\n  - path:/*\n    upstream: http://a\n", "3:13", "the colon after a key is followed by a space"
    ),
    "a key that is too deep": Mistake(
        "routes:\n- path: /*\n   upstream: http://a\n", "3:12", "the keys of one mapping begin in the same column"
    ),
    "a key that is not deep enough": Mistake(
        "routes:\n  - path: /*\n   upstream: http://a\n", "3:4", "the keys of one mapping begin in the same column"
    ),
    "a star alone": Mistake(at("*"), "2:12", 'a value that begins with * is quoted: "*…"'),
    "an at sign": Mistake(to("@vllm"), "3:15", 'a value that begins with @ is quoted: "@…"'),
    "an address of IPv6": Mistake(served("server: {listen: [::1]:8080}"), "1:19", 'is quoted: "[::1]:8080"'),
    "a reference in braces": Mistake(in_route("cors: {origins: ${X}}"), "4:22", 'a reference is quoted: "${NAME}"'),
    "a key twice": Mistake(in_route("path: /a"), "4:5 routes[0].path", "it is already on line 2"),
    # Keys in the wrong place, or of another program.
    "route for routes": Mistake("route:\n  - path: /*\n", "1:1 route", "did you mean 'routes'?"),
    "routes as a mapping": Mistake("routes:\n  /*: http://a\n", "2:3 routes", "must be a list of routes"),
    "listen at the top": Mistake(
        served("listen: 127.0.0.1:8080"), "1:1 listen", "write server: {listen: 127.0.0.1:8080}"
    ),
    "limits at the top": Mistake(served("limits: {max_streams: 1}"), "1:1 limits", "it belongs to a route"),
    "tls at the top": Mistake(served("tls: {}"), "1:1 tls", "it belongs to server"),
    "proxy_pass": Mistake(
        in_route("proxy_pass: http://a"), "4:5 routes[0].proxy_pass", "write upstream: http://host:port"
    ),
    "location": Mistake(in_route("location: /"), "4:5 routes[0].location", "write path: /v1/* for a prefix"),
    "proxy_read_timeout": Mistake(
        in_route("proxy_read_timeout: 600s"),
        "4:5 routes[0].proxy_read_timeout",
        "timeouts.idle, the wait for the response",
    ),
    "proxy_buffering": Mistake(
        in_route("proxy_buffering: off"), "4:5 routes[0].proxy_buffering", "nothing to switch off"
    ),
    "proxy_set_header": Mistake(in_route("proxy_set_header: x"), "4:5 routes[0]", "write request_headers: {set: {Name"),
    "client_max_body_size": Mistake(in_route("client_max_body_size: 1m"), "4:5 routes[0]", "{max_request_body: 20MiB}"),
    "timeout": Mistake(in_route("timeout: 30s"), "4:5 routes[0].timeout", "write timeouts: {first_byte: 60s, idle: 5m"),
    "strip_prefix": Mistake(in_route("strip_prefix: /v1"), "4:5 routes[0]", "write rewrite: {strip_prefix: /prefix}"),
    "health of a route": Mistake(in_route("health: {path: /}"), "4:5 routes[0].health", "to an entry of upstreams"),
    "servers": Mistake(upstream("{servers: [http://a]}"), "1:17 upstreams.a.servers", "write endpoints: [http://host"),
    "lb_policy": Mistake(upstream("{endpoints: http://a, lb_policy: x}"), "1:38", "write balance: least_streams"),
    "ssl_certificate": Mistake(served("server: {ssl_certificate: /a}"), "1:10", "write tls: {cert: FILE, key: FILE}"),
    "a field in place of set": Mistake(
        in_route("request_headers: {Authorization: x}"), "4:23", "unknown key; write set: {Name: value}"
    ),
    "admin: off": Mistake(served("admin: off"), "1:8 admin", "write {listen: 127.0.0.1:9090} or {listen: off}"),
    "log: debug": Mistake(served("log: debug"), "1:6 log", "write {level: info}"),
    "a rate alone": Mistake(in_route("limits: {requests: 100/1m}"), "4:24", "write {rate: 100/1m}"),
    "a token alone": Mistake(in_route("auth: abc"), "4:11 routes[0].auth", "write {bearer: {tokens: [TOKEN]}}"),
    "a star for origins": Mistake(in_route('cors: "*"'), "4:11", "write {origins: [https://app.example]}"),
    "upstreams as a list": Mistake(served("upstreams: [{name: a}]"), "1:12", "write {NAME: {endpoints: [http://host"),
    "URLs in a list": Mistake(
        to("[http://a:1, http://b:2]"), "3:15", "must be one upstream, with all its endpoints, or shares by weight"
    ),
    "weights by name": Mistake(to("{a: 95, b: 5}"), "3:15 routes[0].upstream.shares", "is missing: the upstreams with"),
    "a share without its name": Mistake(to("[{weight: 5}]"), "3:16 routes[0].upstream[0].name", "is missing: a name"),
    "a misspelt weight": Mistake(to("[{name: http://a, wieght: 5}]"), "3:33", "did you mean 'weight'?"),
    "a metric that is missing": Mistake(
        upstream("{endpoints: http://a, load: {source: {path: /m}}}"),
        "1:53 upstreams.a.load.source.running",
        "is missing: the metric of running requests",
    ),
    "a misspelt limit": Mistake(in_route("limits: {max_stream: 3}"), "4:14", "did you mean 'max_streams'?"),
    # Values.
    "a time-out as one value": Mistake(
        in_route("timeouts: 30s"),
        "4:15 routes[0].timeouts",
        "must be a mapping with the keys connect, request, first_byte",
    ),
    "10M": Mistake(in_route("limits: {max_request_body: 10M}"), "4:32", "is not a size: write 64KiB, 10MiB, 1GB"),
    "true for a duration": Mistake(in_route("keepalive: true"), "4:16", "is not a duration: write 250ms, 15s, 5m, 1h"),
    "on for a section": Mistake(in_route("resume: on"), "4:13", "{} switches it on with its defaults"),
    "a number for a section": Mistake(in_route("retry: 3"), "4:12", "must be a mapping with the keys attempts, on"),
    "workers: auto": Mistake(served("server: {workers: auto}"), "1:19", "is not a whole number: write 1, 2 and so on"),
    "a million workers": Mistake(
        served("server: {workers: 1000000}"), "1:19", "is not a number of processes: write a number from 1 to 1000"
    ),
    "a port alone": Mistake(served("server: {listen: 8080}"), "1:18", "127.0.0.1:8080 is this machine alone"),
    "a colon and a port": Mistake(served('server: {listen: ":8080"}'), "1:18", "0.0.0.0:8080 every address of it"),
    "a star and a port": Mistake(served('server: {listen: "*:80"}'), "1:18", "0.0.0.0:80 every address of it"),
    "a status alone": Mistake(in_route("retry: {on: 502}"), "4:17", "must be a list, in brackets"),
    "a star for methods": Mistake(in_route('methods: "*"'), "4:14", "leave methods out for all of them"),
    "a socket as upstream": Mistake(to("unix:/run/a.sock"), "3:15", "{endpoints: [{url: http://host, socket: /path}]}"),
    "a port too high": Mistake(served("server: {listen: 0.0.0.0:80800}"), "1:18", "a port is at most 65535"),
    "a URL to listen on": Mistake(
        served("server: {listen: http://0.0.0.0:8080}"), "1:18", "write host:port, [v6]:port"
    ),
    "no scheme": Mistake(to("127.0.0.1:8000"), "3:15", "a URL begins with http:// or https://"),
    "a host without a scheme": Mistake(to("localhost"), "3:15", "a URL begins with http://, and the upstreams are:"),
    "a misspelt upstream": Mistake(
        "upstreams: {vllm: {endpoints: http://a}}\n" + to("vlm"), "4:15", "did you mean 'vllm'?"
    ),
    "an endpoint without a scheme": Mistake(
        upstream("{endpoints: [127.0.0.1:8000]}"), "1:29", "write http://host:port"
    ),
    "an upstream that is a URL": Mistake(upstream("http://a"), "1:16", "must be a mapping with the keys endpoints"),
    "ws://": Mistake(to("ws://127.0.0.1:8000"), "3:15", "WebSocket goes over these too"),
    "a password in a URL": Mistake(to("https://u:p@a"), "3:15", "set the credential with request_headers.set"),
    "a query in a URL": Mistake(to("http://a/?k=1"), "3:15", "an endpoint is a scheme, a host and a port"),
    "a path without a slash": Mistake(at("v1"), "2:11", "is not a path: it must begin with /"),
    "a regular expression": Mistake(at('"^/v1/.*$"'), "2:11", "is not a path: it must begin with /"),
    "two stars": Mistake(at("/v1/**"), "2:11", "write an exact path, or a prefix such as /v1/*"),
    "a star in the middle": Mistake(at("/v1/*/chat"), "2:11", "write an exact path, or a prefix such as /v1/*"),
    "a method in small letters": Mistake(
        in_route("methods: [post]"), "4:15", "write it in capitals, such as GET or POST"
    ),
    "a policy of nginx": Mistake(
        upstream("{endpoints: http://a, balance: least_conn}"), "1:47", "must be least_streams"
    ),
    "a protocol that is an engine": Mistake(in_route("protocol: vllm"), "4:15", "write http, auto, openai, anthropic"),
    "health as a path": Mistake(
        upstream("{endpoints: http://a, health: /x}"), "1:46", "must be a mapping with the keys"
    ),
    "a slash behind an origin": Mistake(in_route("cors: {origins: [https://a/]}"), "4:22", "write https://app.example"),
    "credentials for all": Mistake(in_route('cors: {origins: "*", credentials: on}'), "4:11", "name them"),
    # Between keys, and outside the file.
    "a route behind one that takes all": Mistake(
        at("/*") + "  - {path: /v1/*, upstream: http://a}\n", "4:12", "the route on line 2 comes first and takes all"
    ),
    "one address twice": Mistake(
        served("admin: {listen: 127.0.0.1:8080}"), "1:17", "is listened on already; take another address"
    ),
    "a certificate without a key": Mistake(
        served("server: {tls: {cert: /nope.pem}}"), "1:15", "is missing: the private"
    ),
    "a certificate that is not there": Mistake(
        served("server: {tls: {cert: /nope.pem, key: /nope.key}}"), "1:22", "cannot be read: No such file or directory"
    ),
    "a variable that is not set": Mistake(
        in_route('request_headers: {set: {X: "${NOT_SET}"}}'), "4:32", "set it, or write ${NOT_SET:-default}"
    ),
    "a secret that is not there": Mistake(
        in_route('request_headers: {set: {X: "${file:/nope}"}}'), "4:32", "the file /nope cannot be read: No such file"
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_answered_by_what_to_change(mistake: Mistake) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(mistake.text, name="f.yaml", environ={})
    said = [f"{problem.line}:{problem.column} {problem.where}: {problem.message}" for problem in caught.value.problems]
    assert any(line.startswith(mistake.place) and mistake.answer in line for line in said), said


PAIRS = [block for block in blocks("text") if block.file.name == "migrating.md"]


@pytest.mark.parametrize("block", PAIRS, ids=str)
def test_what_the_page_for_those_who_come_shows_of_others_is_recognised(block: Block) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(block.text, name="f", environ={})
    (problem,) = caught.value.problems
    assert re.fullmatch(rf"this is an? (nginx|Caddyfile|Envoy|LiteLLM).*; {MIGRATING}", problem.message)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            "server: {listen: 127.0.0.1:8000}\n" + to("http://127.0.0.1:8000"),
            "http://127.0.0.1:8000 is this proxy itself (server.listen): give the backend's address",
        ),
        (
            "server: {listen: 0.0.0.0:8000}\n" + to("http://localhost:8000"),
            "http://localhost:8000 is this proxy itself (server.listen): give the backend's address",
        ),
        (to("http://127.0.0.1:9090"), "http://127.0.0.1:9090 is this proxy itself (admin.listen)"),
        (
            served("admin: {listen: 0.0.0.0:9090}"),
            "admin.listen: whoever reaches 0.0.0.0:9090 sees all streams and can stop them: set admin.token",
        ),
        (
            at("/v1/"),
            "routes./v1/.path: /v1/ is this one path alone; a prefix is written /v1/*",
        ),
        (
            in_route('request_headers: {set: {Authorization: "Bearer $OPENAI_API_KEY"}}'),
            "$OPENAI_API_KEY is sent as it stands; a variable is written ${OPENAI_API_KEY}",
        ),
    ],
)
def test_what_is_allowed_and_hardly_meant_is_said(text: str, sentence: str) -> None:
    (said,) = advice(parse_config(text, name="f.yaml"))
    assert sentence in said


@pytest.mark.parametrize(
    "text",
    [
        to("http://127.0.0.1:8000"),
        "server: {listen: 127.0.0.1:8000}\n" + to("http://10.0.0.1:8000"),
        "server: {listen: unix:/run/p.sock}\n" + to("http://127.0.0.1:8000"),
        served('admin: {listen: 0.0.0.0:9090, token: "abc"}'),
        served("admin: {listen: unix:/run/a.sock}"),
        in_route('request_headers: {set: {X-Price: "5 $"}}'),
        at("[/, /v1/*]"),
    ],
)
def test_what_is_meant_gets_no_advice(text: str) -> None:
    assert list(advice(parse_config(text, name="f.yaml"))) == []


def written(section: str, line: str) -> str:
    """A file with these keys in a section, which is dotted and without the numbers of routes and names of upstreams."""
    line = line.replace("http://host:port", "http://host:80").replace("NAME", "a").replace("FILE", "/nope")
    top, *inner = section.split(".")
    keys: dict[str, Any] = yaml.safe_load(line)
    for key in reversed(inner):
        keys = {key: keys}
    route: dict[str, Any] = {"path": "/*", "upstream": "http://a", "protocol": "openai"}
    data: dict[str, Any] = {"upstreams": {"a": {"endpoints": "http://b"}}}
    if top == "routes" or "limits" in keys:
        route |= keys
    elif top == "upstreams":
        data["upstreams"]["a"] = keys if "redis" in keys else data["upstreams"]["a"] | keys
    else:
        data |= {top: keys} if top and not keys.keys() & Config.model_fields.keys() else keys
    return json.dumps(data | {"routes": [route]})


@pytest.mark.parametrize("section", EXAMPLES)
def test_the_example_of_a_section_is_accepted(section: str) -> None:
    for example in EXAMPLES[section].split(" or "):
        outer, _, key = section.rpartition(".")
        line = f"{key}: {example}"
        assert parse_config(written("" if section == "upstreams" else outer, line), name="f.yaml").routes


INSTEAD = [
    (section, match[1])
    for section, keys in _FAMILIAR.items()
    for line in dict.fromkeys(keys.values())
    if (match := re.match(r"write ([a-z0-9_]+: .*?)( for a prefix.*| at the route|, or the name.*)?$", line))
]


@pytest.mark.parametrize(("section", "line"), INSTEAD)
def test_what_is_to_be_written_instead_is_accepted(section: str, line: str) -> None:
    try:
        parse_config(written(section, line), name="f.yaml", environ={"a": "token"})
    except ConfigError as refused:
        assert [problem for problem in refused.problems if "cannot be read" not in str(problem)] == []  # noqa: PT017


@pytest.mark.parametrize("shape", [{"a": "1"}, ["x"], [{"a": "1"}], [["x"]], "x", None], ids=str)
def test_anything_in_the_place_of_anything_is_a_mistake_or_a_configuration(shape: Any) -> None:
    for key in all_keys(Config):
        value = shape
        parts = key.split(".")
        for part in reversed(parts):
            value = [value] if part == "*" and parts[0] == "routes" else {"a" if part == "*" else part: value}
        data: Any = {"routes": [{"path": "/*", "upstream": "http://a"}]} | value
        if key.startswith("routes.*."):
            data["routes"][0] = {"path": "/*", "upstream": "http://a"} | data["routes"][0]
        try:
            parse_config(json.dumps(data), name="f.yaml")
        except ConfigError as refused:
            assert refused.problems, key  # noqa: PT017


def test_a_secret_that_looks_like_a_variable_is_not_repeated() -> None:
    text = in_route('request_headers: {set: {X: "${SECRET}"}}')
    assert list(advice(parse_config(text, name="f.yaml", environ={"SECRET": "ab$CDEF"}))) == []
