"""The configuration of `streamproxy proxy` is a file that loads, and says what was asked for."""

from __future__ import annotations

import pytest

from streamproxy.config import Config, parse_config
from streamproxy.config.single import single_upstream
from streamproxy.errors import ConfigError

LISTEN, ADMIN = "127.0.0.1:8080", "127.0.0.1:9090"


def load(url: str, **more: str) -> Config:
    return parse_config(single_upstream(url, LISTEN, ADMIN, **more), name="test")


def test_it_differs_from_the_defaults_in_the_upstream_alone() -> None:
    smallest = parse_config('routes: [{path: "/*", upstream: "http://h:8000"}]', name="test")
    assert load("http://h:8000").plain() == smallest.plain()


def test_a_host_and_a_port_alone_are_http() -> None:
    assert load("h:8000").routes[0].upstreams == ("http://h:8000",)


def test_a_path_is_put_in_front_and_a_bare_slash_is_none() -> None:
    assert load("https://h/api/v2/").routes[0].rewrite.add_prefix == "/api/v2"
    assert load("https://h/").routes[0].rewrite.add_prefix == ""


def test_protocol_and_keepalive_are_the_routes() -> None:
    route = load("http://h", protocol="openai", keepalive="off").routes[0]
    assert (route.protocol, route.keepalive) == ("openai", None)


@pytest.mark.parametrize("url", ["http://h/?q=1", "http://h/#f", "http://user:word@h", "unix:/h.sock", "http:/h"])
def test_what_an_upstream_cannot_have_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="is not an upstream"):
        single_upstream(url, LISTEN, ADMIN)


@pytest.mark.parametrize("url", ["http://", "ftp://h", "http://h/${HOME}", 'http://h"x', "http://h:port"])
def test_any_other_url_stays_a_value(url: str) -> None:
    try:
        config = load(url)
    except ConfigError:
        return
    assert config.routes[0].rewrite.add_prefix == "/${HOME}"
