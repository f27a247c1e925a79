"""What of a configuration is shown, and what is not."""

from __future__ import annotations

import json

import pytest

from streamproxy.config import Config, parse_config
from streamproxy.config.redact import shown_url

FILE = """\
server: {max_connections: '${MAX}'}
upstreams:
  llm:
    endpoints: ["https://${HOST}"]
    proxy: http://user:pa$s@word@proxy:3128
    host: ${SECRET}.example
routes:
  - name: chat
    path: /hook/${SECRET}/*
    upstream: llm
    headers: {x-api-key: literal-condition, x-tenant: blue}
    request_headers:
      set:
        Authorization: Bearer literal-token
        X-Api-Key: literal-key
        X-Plain: plain
        X-Other: a-${SECRET}-b
        X-Scheme: Bearer literal-bearer
      add: {Cookie: literal-cookie}
      remove: [Cookie, "${SECRET}"]
    timeouts: {idle: 5m, total: off}
    keepalive: {interval: 500ms, comment: "${SECRET}"}
"""
SECRET = "s3cret"


@pytest.fixture
def config() -> Config:
    return parse_config(FILE, name="f.yaml", environ={"SECRET": SECRET, "HOST": "api.example", "MAX": "7"})


def test_no_secret_is_shown(config: Config) -> None:
    shown = json.dumps(config.redacted())
    for secret in (SECRET, "literal", "pa$s", "word@"):
        assert secret not in shown


def test_what_came_from_outside_is_hidden_whatever_it_is(config: Config) -> None:
    shown = config.redacted()
    route = shown["routes"][0]
    assert config.server.max_connections == 7
    assert shown["server"]["max_connections"] == "***"
    assert shown["upstreams"]["llm"]["host"] == "***"
    assert route["path"] == "***"
    assert route["keepalive"]["comment"] == "***"
    assert route["request_headers"]["remove"] == ["Cookie", "***"]
    assert route["request_headers"]["set"]["X-Other"] == "***"


def test_names_addresses_and_plain_values_are_shown(config: Config) -> None:
    shown = config.redacted()
    route = shown["routes"][0]
    assert shown["server"]["listen"] == ["127.0.0.1:8080"]
    assert shown["upstreams"]["llm"]["endpoints"][0]["url"] == "https://api.example"
    assert shown["upstreams"]["llm"]["proxy"] == "http://***@proxy:3128"
    assert (route["name"], route["upstream"]) == ("chat", "llm")
    assert route["headers"] == {"x-api-key": "***", "x-tenant": "blue"}
    assert route["request_headers"]["set"]["X-Plain"] == "plain"
    assert route["timeouts"]["idle"] == 300.0
    assert route["timeouts"]["total"] is None
    assert route["keepalive"]["interval"] == 0.5


def test_header_values_are_not_in_the_representation(config: Config) -> None:
    shown = repr(config)
    for secret in ("literal", "pa$s", f"a-{SECRET}-b"):
        assert secret not in shown


def test_an_upstream_that_a_route_brought_along_is_shown_too() -> None:
    config = parse_config("routes: [{path: /, upstream: http://a:1}]", name="f.yaml")
    assert set(config.redacted()["upstreams"]) == {"http://a:1"}
    assert config.plain()["upstreams"] == {}


def test_the_passwords_of_a_url_are_hidden_wherever_it_has_them() -> None:
    sentinels = "redis+sentinel://{}@a,b/s/0?sentinel_password={}&x=1"
    for url in (sentinels, "rediss://h?ssl_password={}#a", "unix:///run/r.sock?db=1&password={} and more"):
        assert shown_url(url.replace("{}", "pass")) == url.replace("{}", "***")
