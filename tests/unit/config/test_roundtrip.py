"""A law: a configuration, written as YAML and read again, is the same configuration."""

from __future__ import annotations

from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from streamproxy.config import Config, parse_config
from streamproxy.config.values import CONNECTION_LEVEL

tokens = st.text("abcdefghijklmnopqrstuvwxyzXYZ0123456789-_", min_size=1, max_size=12)
headers = tokens.map(lambda name: "x" + name.lower())
header_values = st.text(
    st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")) | st.sampled_from("\t${}'\":#"), max_size=20
)
seconds = st.one_of(
    st.integers(1, 10**6),
    st.floats(0.001, 10**6).map(lambda number: round(number, 3)),
    st.builds("{}{}".format, st.integers(1, 5000), st.sampled_from(["ms", "s", "m", "h"])),
)
off = st.sampled_from([False, None, "off"])
limits = seconds | off
sizes = st.integers(1, 2**40) | st.builds(
    "{}{}".format, st.integers(1, 999), st.sampled_from(["B", "KiB", "MiB", "GB"])
)
switches = st.booleans() | st.sampled_from(["on", "off"])
hosts = st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?", fullmatch=True)
urls = st.builds("{}://{}:{}".format, st.sampled_from(["http", "https"]), hosts, st.integers(1, 65535))
paths = st.lists(tokens, max_size=3).map(lambda parts: "/" + "/".join(parts))
patterns = paths | paths.map(lambda path: path.rstrip("/") + "/*")
labels = st.text(st.characters(codec="utf-8"), min_size=1, max_size=12).filter(
    lambda text: text.isprintable() and text == text.strip()
)


def section(**keys: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping with some of its keys."""
    return st.fixed_dictionaries({}, optional=keys)


rules = section(
    set=st.dictionaries(headers, header_values, max_size=3),
    add=st.dictionaries(headers, header_values, max_size=3),
    remove=st.lists(headers.filter(lambda name: name not in CONNECTION_LEVEL), max_size=3),
)
upstreams = st.fixed_dictionaries(
    {"endpoints": urls | st.tuples(urls).map(list) | st.builds(lambda url: [{"url": url, "socket": "/run/a b"}], urls)},
    optional={
        "client": st.sampled_from(["auto", "httpx"]),
        "host": st.sampled_from(["upstream", "preserve"]) | hosts,
        "proxy": off | st.just("socks5://user:pa$$word@proxy:1080"),
        "tls": section(verify=switches, server_name=off | hosts),
        "connections": section(max=st.integers(1, 10**6), max_idle=st.integers(0, 999), idle_timeout=limits),
    },
)


def routes(names: list[str]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries(
        {"path": patterns | st.lists(patterns, min_size=1, max_size=3), "upstream": st.sampled_from(names) | urls},
        optional={
            "methods": st.lists(st.sampled_from(["GET", "POST", "PROPFIND"]), max_size=2),
            "hosts": st.lists(hosts | hosts.map("*.{}".format), max_size=2),
            "headers": st.dictionaries(headers, header_values, max_size=2),
            "rewrite": section(strip_prefix=paths, add_prefix=paths | off),
            "timeouts": section(
                connect=limits, request=limits, first_byte=limits, idle=limits, write=limits, total=limits
            ),
            "keepalive": limits
            | section(interval=seconds, comment=labels, shape=st.sampled_from(["auto", "block", "line", "blank"])),
            "buffer": sizes,
            "compression": st.sampled_from(["auto", "pass", "identity"]),
            "anti_buffering": switches,
            "on_disconnect": st.sampled_from(["cancel", "continue"]),
            "on_truncation": st.sampled_from(["abort", "error_event"]),
            "request_headers": rules,
            "response_headers": rules,
            "limits": section(max_request_body=sizes | off),
        },
    )


@st.composite
def files(draw: st.DrawFn) -> dict[str, Any]:
    """The plain data of a good file."""
    groups = draw(st.dictionaries(tokens.map(lambda name: "u" + name), upstreams, min_size=1, max_size=2))
    chosen = draw(st.lists(routes(sorted(groups)), min_size=1, max_size=3))
    names = draw(st.lists(labels, min_size=len(chosen), max_size=len(chosen), unique=True))
    for index, (route, name) in enumerate(zip(chosen, names, strict=True)):
        # A header of its own keeps a route out of the shadow of those before it.
        route["name"] = name
        route["headers"] = route.get("headers", {}) | {f"only-{index}": "*"}
    server = section(
        listen=st.sampled_from(["127.0.0.1:0", ["[::1]:0", "unix:/run/a.sock"]]),
        engine=st.sampled_from(["uvicorn", "hypercorn"]),
        trusted_proxies=st.sampled_from([[], ["10.0.0.0/8", "::1"], "fd00::/8"]),
        max_header_size=sizes,
        max_connections=st.integers(1, 10**6),
        head_timeout=limits,
        keepalive_timeout=limits,
        drain_timeout=limits,
    )
    admin = section(listen=off | st.just("localhost:0"), mount=off | paths.filter(lambda path: path != "/"))
    log = section(level=st.sampled_from(["debug", "error"]), format=st.sampled_from(["json", "auto"]), access=switches)
    return {"server": draw(server), "admin": draw(admin), "log": draw(log), "upstreams": groups, "routes": chosen}


def written(data: Any) -> str:
    """Plain data as YAML, with dollar signs doubled."""

    def escape(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: escape(item) for name, item in value.items()}
        if isinstance(value, list):
            return [escape(item) for item in value]
        return value.replace("$", "$$") if isinstance(value, str) else value

    return yaml.safe_dump(escape(data), allow_unicode=True)


@settings(max_examples=60, deadline=None)
@given(files())
def test_a_configuration_written_and_read_again_is_the_same(data: dict[str, Any]) -> None:
    config = parse_config(written(data), name="f.yaml")
    assert parse_config(written(config.plain()), name="again") == config
    assert Config.model_validate(config.plain()) == config


@settings(max_examples=40, deadline=None)
@given(files())
def test_what_a_file_says_is_what_the_configuration_has(data: dict[str, Any]) -> None:
    config = parse_config(written(data), name="f.yaml")
    assert [route.name for route in config.routes] == [route["name"] for route in data["routes"]]
    for route, said in zip(config.routes, data["routes"], strict=True):
        assert dict(route.request_headers.set) == said.get("request_headers", {}).get("set", {})
        assert route.headers == said["headers"]
        assert route.upstream == said["upstream"]
