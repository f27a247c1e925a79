"""Who may ask the admin application by which name."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import httpx2
import pytest

from streamproxy.admin.app import create_admin
from streamproxy.config import parse_config
from streamproxy.control import known_hosts
from streamproxy.wire.hosts import Hosts
from tests.unit.admin.proxy import SeenProxy

GUARDED = [
    *(("GET", "/"), ("GET", "/streams"), ("GET", "/streams/live?interval=no"), ("GET", "/config")),
    *(("DELETE", "/streams/one"), ("POST", "/reload")),
]
OPEN = ["/metrics", "/healthz", "/readyz"]


async def ask(method: str, path: str, host: str, server: tuple[str, int | None] = ("127.0.0.1", 9090)) -> int:
    """The status of a request with this Host, to a proxy that calls itself admin.example and has one stream."""
    proxy = SeenProxy()
    proxy.begin("one").task = asyncio.create_task(asyncio.sleep(0))
    transport = httpx2.ASGITransport(create_admin(proxy))
    url = f"http://{server[0]}" if server[1] is None else f"http://{server[0]}:{server[1]}"
    async with httpx2.AsyncClient(transport=transport, base_url=url) as client:
        answer = await client.request(method, path, headers={"host": host})
    if answer.status_code == 403:
        assert answer.headers["content-type"] == "application/problem+json"
        assert host in answer.json()["detail"]
        assert "admin.hosts" in answer.json()["detail"]
    return answer.status_code


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "host",
    [
        *("rebound.example", "rebound.example:9090", "localhost.rebound.example", "127.0.0.1.rebound.example"),
        *("xadmin.example", "admin.example.", "127.0.0.1:9090:9090", "[::1", "", "admin.example@rebound.example"),
    ],
)
async def test_a_name_that_somebody_else_may_own_is_refused(method: str, path: str, host: str) -> None:
    assert await ask(method, path, host) == 403


@pytest.mark.parametrize(("method", "path"), GUARDED)
@pytest.mark.parametrize(
    "host",
    [
        *("admin.example", "ADMIN.example:1", "127.0.0.1:9090", "10.0.0.7", "[::1]", "[2001:db8::1]:9090"),
        *("streamproxy", "llm-proxy_1:9090"),
    ],
)
async def test_addresses_and_known_names_may_ask(method: str, path: str, host: str) -> None:
    assert await ask(method, path, host) in {"/": (200,), "/streams/one": (202,)}.get(path, (200, 400, 501))


@pytest.mark.parametrize("path", OPEN)
async def test_a_scraper_may_call_it_what_it_likes(path: str) -> None:
    assert await ask("GET", path, "proxy.monitoring.svc:9090") == 200


async def test_a_unix_socket_has_no_name() -> None:
    assert await ask("GET", "/streams", "whatever.example", ("unix", None)) == 200


@pytest.mark.parametrize(
    ("admin", "known", "unknown"),
    [
        ({}, ["localhost", "LOCALHOST:9090", "proxy.localhost"], ["localhos", "api.example", "rebound.example"]),
        ({"listen": "proxy.internal:9090"}, ["proxy.internal"], ["internal", "api.example"]),
        ({"hosts": ["proxy", "*.svc.example"]}, ["proxy:1", "a.svc.example"], ["svc.example", "api.example"]),
        ({"mount": "/-/admin"}, ["api.example:8080"], ["rebound.example"]),
        ({"listen": "unix:/run/admin.sock"}, ["localhost"], ["rebound.example"]),
    ],
)
def test_its_names_are_its_own_and_the_listed_ones(
    admin: Mapping[str, object], known: list[str], unknown: list[str]
) -> None:
    hosts = _hosts(admin)
    assert [host for host in known if not hosts.match(host.encode())] == []
    assert [host for host in unknown if hosts.match(host.encode())] == []


def _hosts(admin: Mapping[str, object]) -> Hosts:
    config = {
        "server": {"listen": "api.example:8080"},
        "admin": dict(admin),
        "routes": [{"path": "/*", "upstream": "http://127.0.0.1:1"}],
    }
    return known_hosts(parse_config(str(config), name="test"))
