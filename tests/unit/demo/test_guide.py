"""The demo's configuration and its banner: both must be true of the demo's upstream."""

from __future__ import annotations

import asyncio
import json
import re
import shlex

import pytest
import yaml

from streamproxy.config import parse_config
from streamproxy.demo import DemoUpstream, banner, demo_config
from tests.doubles.parts import require

COMMANDS = [
    line.strip() for line in banner("http://proxy", "http://admin").splitlines() if "curl" in line.split(":")[0]
]
# Those that end by themselves, without the proxy's own routes.
QUICK = [line for line in COMMANDS if "http://proxy" in line and not line.endswith(("/events", "/download"))]


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
    assert routed == DemoUpstream().routes.keys() | {"/told/broken"}


def test_every_path_of_the_upstream_is_in_the_banner() -> None:
    text = banner("http://proxy/", "http://admin/")
    named = set(re.findall(r"http://proxy(/[a-z0-9/]*)", text))
    assert named == (DemoUpstream().routes.keys() - {"/v1/models"}) | {"/told/broken"}
    assert "http://proxy//" not in text


def test_every_document_in_the_banner_is_json() -> None:
    bodies = [words[words.index("-d") + 1] for words in map(shlex.split, COMMANDS) if "-d" in words]
    assert len(bodies) == 3
    assert all(json.loads(body)["messages"] for body in bodies)


@pytest.mark.parametrize("line", QUICK, ids=[line.partition("http://proxy")[2] for line in QUICK])
async def test_the_commands_of_the_banner_work(line: str, upstream_url: str) -> None:
    require("curl")
    line = line.replace("http://proxy/told", upstream_url).replace("http://proxy", upstream_url)
    line = line.replace("delay=7", "delay=0").replace("interval=0.2", "interval=0").replace("count=3", "count=1")
    line = line.replace("curl ", "curl -sS --noproxy '*' ")
    process = await asyncio.create_subprocess_shell(
        line, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    body, complaint = await process.communicate()
    if "/broken" in line:
        assert process.returncode == 18, complaint  # curl: transfer closed with outstanding read data remaining
        assert body.count(b"data: ") == 5
    else:
        assert (process.returncode, complaint) == (0, b"")
        assert body.startswith((b'{"', b"data: {", b"event: message_start", b"retry: 1000\nid: 42"))
        assert b'"error"' not in body
