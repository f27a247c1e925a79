"""The admin listener's answers, and who may ask."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import ASGIApp

from streamproxy import errors
from streamproxy.admin.app import create_admin
from streamproxy.control import Reloaded
from streamproxy.exchange.exchange import Exchange
from streamproxy.observe.access_log import FIELDS
from tests.unit.admin.proxy import Before, SeenProxy
from tests.unit.observe.exchanges import new_exchange, streaming


class Proxy(SeenProxy):
    """A proxy whose reloads end as a test says."""

    def __init__(self) -> None:
        super().__init__()
        self.metrics.declare([("chat", "llm")])
        self.reloaded: Reloaded | None = Reloaded()

    def config(self) -> dict[str, object]:
        return {"routes": [{"path": "/*", "token": "***"}]}

    async def reload(self) -> Reloaded | None:
        return self.reloaded

    def enter(self, request_id: str) -> Exchange:
        exchange = new_exchange()
        exchange.request_id = exchange.id = request_id
        exchange.query = b"key=SECRET"
        self.ledger.open(exchange)
        return exchange


async def _for_ever() -> None:
    await asyncio.Event().wait()


@asynccontextmanager
async def browse(app: ASGIApp, *, raise_app_exceptions: bool = True) -> AsyncIterator[httpx2.AsyncClient]:
    transport = httpx2.ASGITransport(app=app, raise_app_exceptions=raise_app_exceptions)
    async with httpx2.AsyncClient(transport=transport, base_url="http://admin.example:9090") as client:
        yield client


@pytest.fixture
def proxy() -> Proxy:
    return Proxy()


@pytest.fixture
async def client(proxy: Proxy) -> AsyncIterator[httpx2.AsyncClient]:
    async with browse(create_admin(proxy)) as client:
        yield client


async def test_healthz_is_ok_even_when_not_ready(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    proxy.reasons = ["draining"]
    response = await client.get("/healthz")
    assert (response.status_code, response.text) == (200, "ok")


async def test_readyz_says_why_it_is_not_ready(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    response = await client.get("/readyz")
    assert (response.status_code, response.json()) == (200, {"ready": True, "reasons": []})
    proxy.reasons = ["draining", "upstream llm has no endpoint"]
    response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.json() == {"ready": False, "reasons": ["draining", "upstream llm has no endpoint"]}


async def test_metrics_come_in_the_format_that_is_accepted(client: httpx2.AsyncClient) -> None:
    text = await client.get("/metrics")
    assert text.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert 'streamproxy_streams_active{route="chat",upstream="llm"} 0.0\n' in text.text
    assert "\nprocess_open_fds " in text.text
    openmetrics = await client.get("/metrics", headers={"accept": "application/openmetrics-text;version=1.0.0"})
    assert openmetrics.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
    assert openmetrics.text.endswith("# EOF\n")
    assert openmetrics.text.count("# EOF") == 1


async def test_streams_are_the_live_exchanges_oldest_first(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    assert (await client.get("/streams")).json() == []
    for number in range(250):
        proxy.enter(f"id-{number}")
    streaming(proxy.ledger.live["id-3"])
    proxy.ledger.close(proxy.ledger.live["id-1"])
    response = await client.get("/streams")
    assert response.headers["content-type"] == "application/json"
    rows = response.json()
    assert [row["id"] for row in rows] == ["id-0", *(f"id-{number}" for number in range(2, 250))]
    assert all(tuple(row) == ("id", *FIELDS) for row in rows)
    assert (rows[2]["status"], rows[2]["events"], rows[2]["end"]) == (200, 2, None)
    assert "SECRET" not in response.text


async def test_streams_of_a_process_that_drains_come_first_and_say_so(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    proxy.enter("own")
    other = SeenProxy().begin("other")
    proxy.predecessor = Before(other)
    rows = (await client.get("/streams")).json()
    assert [(row["id"], row.get("draining")) for row in rows] == [("other", True), ("own", None)]
    other.task = asyncio.create_task(_for_ever())
    assert (await client.delete("/streams/other")).status_code == 202
    assert isinstance(other.interruption, errors.StoppedByOperator)
    with pytest.raises(asyncio.CancelledError):
        await other.task


async def test_two_exchanges_of_one_request_id_can_be_told_apart(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    proxy.enter("same")
    proxy.enter("same")
    rows = (await client.get("/streams")).json()
    assert [row["request_id"] for row in rows] == ["same", "same"]
    assert len({row["id"] for row in rows}) == 2


@pytest.mark.parametrize("request_id", ["id-1", "a/b", "100%", "a?b#c"])
async def test_delete_ends_the_stream_for_the_operator(
    proxy: Proxy, client: httpx2.AsyncClient, request_id: str
) -> None:
    exchange = proxy.enter(request_id)
    exchange.task = asyncio.create_task(_for_ever())
    path = "/streams/" + "".join(f"%{byte:02X}" for byte in request_id.encode())
    response = await client.delete(path)
    assert (response.status_code, response.json()) == (202, {"id": request_id})
    assert isinstance(exchange.interruption, errors.StoppedByOperator)
    with pytest.raises(asyncio.CancelledError):
        await exchange.task


async def test_delete_of_an_unknown_id_is_404(client: httpx2.AsyncClient) -> None:
    response = await client.delete("/streams/none")
    assert response.status_code == 404
    assert response.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": ""},
        {"origin": "http://admin.example"},
        {"origin": "http://[bad"},
        {"origin": "http://admin.example:9090", "sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        [("origin", "http://admin.example:9090"), ("origin", "http://evil.example")],
        [("sec-fetch-site", "same-origin"), ("sec-fetch-site", "cross-site")],
    ],
)
async def test_another_origin_cannot_end_a_stream(
    proxy: Proxy, client: httpx2.AsyncClient, headers: dict[str, str] | list[tuple[str, str]]
) -> None:
    exchange = proxy.enter("id-1")
    exchange.task = asyncio.current_task()
    response = await client.delete("/streams/id-1", headers=headers)
    assert response.status_code == 403
    assert response.json()["status"] == 403
    assert exchange.interruption is None


async def test_the_admin_page_itself_may_end_a_stream(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    exchange = proxy.enter("id-1")
    headers = {"origin": "http://ADMIN.example:9090", "sec-fetch-site": "same-origin"}
    response = await client.delete("/streams/id-1", headers=headers)
    assert response.status_code == 202
    assert exchange.id == "id-1"


async def test_config_is_what_the_proxy_says(client: httpx2.AsyncClient) -> None:
    response = await client.get("/config")
    assert response.json() == {"routes": [{"path": "/*", "token": "***"}]}


async def test_a_failed_reload_shows_in_readyz_and_leaves_it_ready(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    proxy.reload_problems = ("f.yaml:3:1: foo: unknown key",)
    response = await client.get("/readyz")
    assert response.status_code == 200
    assert response.json() == {"ready": True, "reasons": [], "reload": ["f.yaml:3:1: foo: unknown key"]}


async def test_reload_answers_how_it_went(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    response = await client.post("/reload")
    assert (response.status_code, response.json()) == (200, {"result": "ok"})
    proxy.reloaded = Reloaded(restart=("server.listen",))
    assert (await client.post("/reload")).json() == {"result": "ok", "restart": ["server.listen"]}
    proxy.reloaded = Reloaded(problems=("f.yaml:3:1: foo: unknown key", "f.yaml:9:1: bar: unknown key"))
    response = await client.post("/reload")
    assert (response.status_code, response.headers["content-type"]) == (422, "application/problem+json")
    assert response.json()["problems"] == ["f.yaml:3:1: foo: unknown key", "f.yaml:9:1: bar: unknown key"]


async def test_without_a_file_there_is_nothing_to_reload(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    proxy.reloaded = None
    assert (await client.post("/reload")).status_code == 501


async def test_a_reload_can_only_be_asked_for_from_here(proxy: Proxy, client: httpx2.AsyncClient) -> None:
    assert (await client.post("/reload", headers={"origin": "https://evil.example"})).status_code == 403
    assert (await client.get("/reload")).status_code == 405


@pytest.mark.parametrize("path", ["/metrics/", "/streams/x/", "/nope"])
async def test_an_unknown_path_is_a_problem(client: httpx2.AsyncClient, path: str) -> None:
    response = await client.get(path)
    assert response.status_code == (405 if path.startswith("/streams/") else 404)
    assert response.headers["content-type"] == "application/problem+json"
    assert json.loads(response.text)["type"] == "about:blank"


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", "/metrics"), ("DELETE", "/healthz"), ("PUT", "/readyz"), ("DELETE", "/streams"), ("PATCH", "/config")],
)
async def test_a_wrong_method_is_405_and_says_what_is_allowed(
    client: httpx2.AsyncClient, method: str, path: str
) -> None:
    response = await client.request(method, path)
    assert response.status_code == 405
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert response.json()["title"] == "Method Not Allowed"


@pytest.mark.parametrize("path", ["/metrics", "/healthz", "/readyz", "/streams", "/config"])
async def test_head_has_the_headers_of_get(client: httpx2.AsyncClient, path: str) -> None:
    response = await client.head(path)
    got = await client.get(path)
    assert response.status_code == 200
    assert response.headers["content-type"] == got.headers["content-type"]
    assert response.headers["cache-control"] == "no-store"


async def test_it_works_under_a_prefix(proxy: Proxy) -> None:
    proxy.enter("id-1")
    async with browse(Starlette(routes=[Mount("/_admin", create_admin(proxy))])) as client:
        assert (await client.get("/_admin/healthz")).text == "ok"
        assert (await client.get("/_admin/streams")).json()[0]["id"] == "id-1"
        assert (await client.delete("/_admin/streams/id-1")).status_code == 202
        missing = await client.get("/_admin/nope")
    assert (missing.status_code, missing.headers["content-type"]) == (404, "application/problem+json")


async def test_a_fault_shows_nothing_of_itself() -> None:
    class Broken(Proxy):
        def config(self) -> dict[str, object]:
            raise RuntimeError("SECRET")

    async with browse(create_admin(Broken()), raise_app_exceptions=False) as client:
        response = await client.get("/config")
    assert response.status_code == 500
    assert response.headers["content-type"] == "application/problem+json"
    assert "SECRET" not in response.text


async def test_a_stream_that_ends_while_the_list_is_made_is_left_out(
    proxy: Proxy, client: httpx2.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(150):
        proxy.enter(f"id-{number}")
    sleep = asyncio.sleep

    async def between(seconds: float) -> None:
        if exchange := proxy.ledger.live.get("id-149"):
            proxy.ledger.close(exchange)
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", between)
    ids = [row["id"] for row in (await client.get("/streams")).json()]
    assert ids == [f"id-{number}" for number in range(149)]
