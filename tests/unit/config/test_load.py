"""What a file says, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from streamproxy.config import Address, Config, Endpoint, load_config, parse_config
from streamproxy.errors import ConfigError

MINIMAL = "routes:\n  - path: /*\n    upstream: http://127.0.0.1:8000\n"


def parse(text: str, environ: Mapping[str, str] | None = None) -> Config:
    return parse_config(text, name="proxy.yaml", environ=environ)


def test_the_smallest_file_has_every_default() -> None:
    config = parse(MINIMAL)
    assert config.server.listen == (Address("127.0.0.1", 8080),)
    assert config.admin.listen == (Address("127.0.0.1", 9090),)
    route = config.routes[0]
    assert (route.name, route.paths, route.methods, route.hosts) == ("/*", ("/*",), (), ())
    assert (route.timeouts.first_byte, route.timeouts.total, route.buffer) == (300.0, None, 65536)
    assert route.keepalive is not None
    assert (route.keepalive.interval, route.keepalive.shape) == (15.0, "auto")


def test_an_endpoint_takes_ten_thousand_streams_unless_somebody_limits_them() -> None:
    (upstream,) = parse(MINIMAL).upstreams.values()
    assert upstream.connections.max == 10_000


def test_a_url_as_upstream_makes_one_of_its_own_that_routes_share() -> None:
    config = parse(
        "routes:\n"
        "  - {path: /a, upstream: http://127.0.0.1:8000}\n"
        "  - {path: /b, upstream: http://127.0.0.1:8000/}\n"
        "  - {path: /c, upstream: http://127.0.0.1:8001}\n"
    )
    assert [route.upstream for route in config.routes] == [
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8000",
        "http://127.0.0.1:8001",
    ]
    assert set(config.upstreams) == {"http://127.0.0.1:8000", "http://127.0.0.1:8001"}
    assert config.upstreams["http://127.0.0.1:8001"].endpoints == (Endpoint(url="http://127.0.0.1:8001"),)


def test_lists_and_mappings_have_short_forms() -> None:
    config = parse(
        "server: {listen: 'unix:/run/p.sock'}\n"
        "upstreams: {b: {endpoints: http://b}}\n"
        "routes: [{path: /x, methods: GET, hosts: a.example, upstream: b, keepalive: 1m}]\n"
    )
    assert config.server.listen == (Address(path="/run/p.sock"),)
    assert config.upstreams["b"].endpoints[0].url == "http://b"
    route = config.routes[0]
    assert (route.methods, route.hosts) == (("GET",), ("a.example",))
    assert route.keepalive is not None
    assert route.keepalive.interval == 60.0


@pytest.mark.parametrize("off", ["off", "Off", "false", "null", "~", "", "'off'"])
def test_off_disables_in_every_spelling(off: str) -> None:
    config = parse(f"admin: {{listen: {off}}}\nroutes:\n  - path: /\n    upstream: http://a\n    keepalive: {off}\n")
    assert config.admin.listen == ()
    assert config.routes[0].keepalive is None


@pytest.mark.parametrize("on", ["on", "yes", "true", "True", "'on'"])
def test_a_switch_may_be_quoted(on: str) -> None:
    assert parse(f"log: {{access: {on}}}\n{MINIMAL}").log.access is True


def test_text_stays_text_whatever_yaml_would_make_of_it() -> None:
    config = parse(
        MINIMAL
        + "    request_headers:\n      set: {a: on, b: off, c: 1.10, d: 0777, e: 2024-01-01, f: 1:30, g: 'null'}\n"
    )
    assert config.routes[0].request_headers.set == {
        "a": "on",
        "b": "off",
        "c": "1.10",
        "d": "0777",
        "e": "2024-01-01",
        "f": "1:30",
        "g": "null",
    }


def test_an_empty_section_has_its_defaults() -> None:
    config = parse(
        "server:\nlog:\nupstreams:\nroutes:\n  - path: /*\n    upstream: http://127.0.0.1:8000\n    limits:\n"
    )
    assert config == parse(MINIMAL)


def test_anchors_and_merge_keys_work() -> None:
    config = parse(
        "routes:\n"
        "  - &base\n"
        "    path: /a\n"
        "    upstream: http://a\n"
        "    timeouts: &slow {idle: 1h, total: 2h}\n"
        "  - <<: *base\n"
        "    path: /b\n"
        "    timeouts: {<<: [*slow], total: 3h}\n"
    )
    second = config.routes[1]
    assert (second.name, second.upstream) == ("/b", "http://a")
    assert (second.timeouts.idle, second.timeouts.total) == (3600.0, 10800.0)


def test_references_are_replaced_in_values() -> None:
    config = parse(
        "server: {listen: '127.0.0.1:${PORT}', max_connections: '${MAX}'}\n"
        "log: {access: '${ACCESS:-off}'}\n"
        "routes:\n"
        "  - path: /*\n"
        "    upstream: ${BACKEND:-http://127.0.0.1:8000}\n"
        "    timeouts: {idle: '${IDLE}', total: \"${TOTAL}\"}\n"
        "    buffer: ${BUFFER}\n"
        "    request_headers: {set: {a: 'x${EMPTY:-y}z', b: $$5, c: 'pa$s', d: '${QUOTE}'}}\n",
        {
            "PORT": "81",
            "MAX": "5",
            "IDLE": "5",
            "TOTAL": "off",
            "BUFFER": "8KiB",
            "EMPTY": "",
            "QUOTE": "{a: [${PORT}\"'",
        },
    )
    route = config.routes[0]
    assert config.server.listen == (Address("127.0.0.1", 81),)
    assert (config.server.max_connections, config.log.access, route.buffer) == (5, False, 8192)
    assert (route.upstream, route.timeouts.idle, route.timeouts.total) == ("http://127.0.0.1:8000", 5.0, None)
    assert route.request_headers.set == {"a": "xyz", "b": "$5", "c": "pa$s", "d": "{a: [${PORT}\"'"}


def test_a_reference_to_a_file_loses_its_final_line_break(tmp_path: Path) -> None:
    secret = tmp_path / "key"
    secret.write_bytes(b"s3cret\r\n")
    config = parse(MINIMAL + f"    request_headers: {{set: {{X-Key: '<${{file:{secret}}}>'}}}}\n")
    assert config.routes[0].request_headers.set == {"X-Key": "<s3cret>"}


def test_references_in_keys_are_only_text() -> None:
    with pytest.raises(ConfigError) as caught:
        parse("${A}: 1\n" + MINIMAL, {"A": "server"})
    assert "unknown key" in str(caught.value)


def test_a_route_named_by_an_interpolated_path_keeps_the_reference_as_its_name() -> None:
    config = parse("routes:\n  - path: /hook/${KEY}\n    upstream: http://a\n", {"KEY": "s3cret"})
    assert config.routes[0].paths == ("/hook/s3cret",)
    assert config.routes[0].name == "/hook/${KEY}"


def test_the_environment_is_only_what_is_handed_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STREAMPROXY_TEST_PORT", "81")
    with pytest.raises(ConfigError, match="STREAMPROXY_TEST_PORT is not set"):
        parse("server:\n  max_connections: ${STREAMPROXY_TEST_PORT}\n" + MINIMAL)


def test_a_configuration_is_frozen() -> None:
    config = parse(MINIMAL)
    with pytest.raises(ValidationError):
        config.routes[0].timeouts.idle = 1.0  # type: ignore[misc]


def test_a_file_is_read_with_or_without_a_byte_order_mark(tmp_path: Path) -> None:
    file = tmp_path / "proxy.yaml"
    file.write_text(MINIMAL, encoding="utf-8")
    plain = load_config(file)
    file.write_text(MINIMAL, encoding="utf-8-sig")
    assert load_config(str(file)) == plain == parse(MINIMAL)
