"""Attacks on every endpoint of the admin application, read from its routing table: a new endpoint is tried at once."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import httpx2
import pytest
from starlette.routing import Route

from streamproxy.admin.app import create_admin
from streamproxy.control import Reloaded
from tests.unit.admin.proxy import SeenProxy, admin_config
from tests.unit.admin.test_app import browse

TOKEN = "the-only-right-token"
RIGHT = {"authorization": f"Bearer {TOKEN}"}
WRONG = {"authorization": f"Bearer {TOKEN}-not"}
# What may be asked for without a token and under any name. Another endpoint here is a decision, not an accident.
OPEN = {"/metrics", "/healthz", "/readyz"}
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT", "M-SEARCH")
SAFE = {"GET", "HEAD"}
CROSS_ORIGIN = (
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
)


def table() -> Iterator[tuple[str, str, str]]:
    """Each endpoint with each of its methods: the route's path, a path that it serves, and the method."""
    for route in create_admin(SeenProxy()).routes:
        assert isinstance(route, Route), "an endpoint whose attacks are not known"
        assert route.methods, "an endpoint that takes every method"
        for method in sorted(route.methods):
            yield route.path, route.path.replace("{id:path}", "one"), method


ENDPOINTS = list(table())
GUARDED = [(path, method) for name, path, method in ENDPOINTS if name not in OPEN]
CHANGING = [(path, method) for path, method in GUARDED if method not in SAFE]


class Watched(SeenProxy):
    """A proxy with a token and one stream, which notes whether anything was done to it."""

    def __init__(self) -> None:
        super().__init__()
        self.configuration = admin_config(f"{{hosts: [admin.example], token: {TOKEN}}}")
        self.begin("one")
        self.reloads = 0

    async def reload(self) -> Reloaded | None:
        self.reloads += 1
        return Reloaded()

    @property
    def untouched(self) -> bool:
        return not self.reloads and self.ledger.live["one"].interruption is None


@pytest.fixture
def proxy() -> Watched:
    return Watched()


@pytest.fixture
async def client(proxy: Watched) -> AsyncIterator[httpx2.AsyncClient]:
    admin = create_admin(proxy)
    async with browse(admin) as client:
        yield client
    await admin.aclose()


def test_the_table_has_what_the_page_and_the_commands_use() -> None:
    assert {("/streams", "GET"), ("/streams/live", "GET"), ("/config", "GET"), ("/", "GET")} <= set(GUARDED)
    assert set(CHANGING) == {("/streams/one", "DELETE"), ("/reload", "POST")}
    assert {name for name, _, _ in ENDPOINTS} >= OPEN


@pytest.mark.parametrize(("path", "method"), GUARDED)
@pytest.mark.parametrize("headers", [{}, WRONG], ids=["without a token", "with a wrong token"])
async def test_a_guarded_endpoint_wants_the_token(
    proxy: Watched, client: httpx2.AsyncClient, path: str, method: str, headers: dict[str, str]
) -> None:
    answer = await client.request(method, path, headers=headers)
    assert answer.status_code == 401
    assert TOKEN not in answer.text
    assert "one" not in answer.text.replace("none", "") or path == "/"
    assert proxy.untouched


@pytest.mark.parametrize(("path", "method"), GUARDED)
@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "admin.example.evil.example:9090"])
async def test_a_rebound_name_gets_nothing_even_with_the_token(
    proxy: Watched, client: httpx2.AsyncClient, path: str, method: str, host: str
) -> None:
    answer = await client.request(method, path, headers=RIGHT | {"host": host})
    assert answer.status_code == 403
    assert proxy.untouched


@pytest.mark.parametrize(("path", "method"), CHANGING)
@pytest.mark.parametrize("headers", CROSS_ORIGIN, ids=str)
async def test_another_origin_changes_nothing_even_with_the_token(
    proxy: Watched, client: httpx2.AsyncClient, path: str, method: str, headers: dict[str, str]
) -> None:
    assert (await client.request(method, path, headers=RIGHT | headers)).status_code == 403
    assert proxy.untouched


@pytest.mark.parametrize("path", sorted({path for _, path, _ in ENDPOINTS}))
async def test_a_method_that_an_endpoint_does_not_have_does_nothing(
    proxy: Watched, client: httpx2.AsyncClient, path: str
) -> None:
    taken = {method for _, other, method in ENDPOINTS if other == path}
    for method in METHODS:
        if method not in taken:
            answer = await client.request(method, path, headers=RIGHT)
            # DELETE /streams/live stops the stream with this id, and there is none.
            assert answer.status_code == (404 if (path, method) == ("/streams/live", "DELETE") else 405), method
            assert proxy.untouched
            cross = {"origin": "https://evil.example"}
            assert (await client.request(method, path, headers=RIGHT | cross)).status_code in (403, 404, 405)


@pytest.mark.parametrize(("path", "method"), GUARDED)
async def test_no_answer_lets_another_origin_read_it(client: httpx2.AsyncClient, path: str, method: str) -> None:
    for headers in (RIGHT, {}):
        preflight = {"origin": "https://evil.example", "access-control-request-method": method}
        options = await client.options(path, headers=headers | preflight)
        assert not [name for name in options.headers if name.startswith("access-control-")]
        if path != "/streams/live":
            answer = await client.request(method, path, headers=headers | {"origin": "https://evil.example"})
            assert not [name for name in answer.headers if name.startswith("access-control-")]


@pytest.mark.parametrize("path", ["//streams", "/streams/", "/STREAMS", "/./streams", "/%2e/config", "/config/", "/x"])
async def test_no_other_spelling_leads_past_the_guard(proxy: Watched, client: httpx2.AsyncClient, path: str) -> None:
    for method in METHODS:
        assert (await client.request(method, path)).status_code in (401, 404, 405)
    assert proxy.untouched
