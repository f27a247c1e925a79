"""The demo's configuration and its banner: both must be true of the demo's upstream."""

from __future__ import annotations

import json
import re
import shlex

import pytest
import yaml

from streamproxy.config import parse_config
from streamproxy.demo import DemoUpstream, banner, demo_config, tries

OWN = {"/told/broken", "/kept/v1/chat/completions", "/tenants/v1/chat/completions"}  # which the proxy rewrites
COMMANDS = [line.strip() for line in banner("http://proxy", "http://admin").splitlines() if line.startswith("    ")]


def test_the_configuration_is_one_that_the_proxy_takes() -> None:
    config = parse_config(demo_config("http://127.0.0.1:4711"), name="demo")
    assert [endpoint.url for endpoint in config.upstreams["demo"].endpoints] == ["http://127.0.0.1:4711"]
    assert {route.upstream for route in config.routes} == {"demo"}


@pytest.mark.parametrize("address", ["[::1]:8080", "unix:/run/proxy.sock", "127.0.0.1:0"])
def test_any_address_can_be_listened_on(address: str) -> None:
    document = yaml.safe_load(demo_config("http://[::1]:4711", listen=address, admin=address))
    assert document["server"]["listen"] == document["admin"]["listen"] == address
    assert document["upstreams"]["demo"]["endpoints"] == ["http://[::1]:4711"]


def test_every_path_of_the_upstream_has_a_route() -> None:
    routed = {
        path for route in parse_config(demo_config("http://127.0.0.1:1"), name="demo").routes for path in route.path
    }
    assert routed == DemoUpstream().routes.keys() | OWN


def test_every_path_of_the_upstream_is_in_the_banner() -> None:
    text = banner("http://proxy/", "http://admin/")
    named = {path.replace("/demo-1:", "/*") for path in re.findall(r"http://proxy(/[a-z0-9/]*(?:-1:)?)", text)}
    assert named == (DemoUpstream().routes.keys() - {"/v1/models"}) | OWN
    assert "http://proxy//" not in text


def test_every_document_in_the_banner_is_json() -> None:
    bodies = [words[words.index("-d") + 1] for words in map(shlex.split, COMMANDS) if "-d" in words]
    assert len(bodies) == 13
    assert all(json.loads(body).keys() & {"messages", "prompt", "input", "contents"} for body in bodies)


def test_a_page_of_another_origin_may_send_every_request_that_it_offers() -> None:
    routes = parse_config(demo_config("http://127.0.0.1:1"), name="demo").routes
    open_to_all = {path for route in routes for path in route.path if route.cors and route.cors.origins == ("*",)}
    offered = {one.target.partition("?")[0] for one in tries()}
    assert offered <= open_to_all
    assert all(json.loads(one.body)["messages"] for one in tries() if one.body)
    assert len({one.label for one in tries()}) == len(tries())
