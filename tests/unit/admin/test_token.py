"""The token of the admin listener: what asks for it, and what does not."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx2
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from streamproxy.admin.app import create_admin
from streamproxy.config import parse_config
from streamproxy.control import Reloaded
from tests.unit.admin.proxy import SeenProxy, admin_config
from tests.unit.admin.test_app import browse

TOKEN = "s3cret-of-the-operator"
RIGHT = {"authorization": f"Bearer {TOKEN}"}
GUARDED = [
    ("GET", "/", 200),
    ("GET", "/streams", 200),
    ("DELETE", "/streams/one", 202),
    ("GET", "/config", 200),
    ("POST", "/reload", 200),
]
OPEN = ["/metrics", "/healthz", "/readyz"]
WRONG = {
    "another token": "Bearer another",
    "a longer token": f"Bearer {TOKEN}x",
    "a shorter token": f"Bearer {TOKEN[:-1]}",
    "no token": "Bearer",
    "an empty token": "Bearer ",
    "another scheme": f"Basic {TOKEN}",
    "no scheme": TOKEN,
    "not ASCII": "Bearer s\xe9cret",
}


class Guarded(SeenProxy):
    """A proxy whose admin listener has a token."""

    def __init__(self) -> None:
        super().__init__()
        self.configuration = admin_config(f"{{hosts: [admin.example], token: {TOKEN}}}")

    async def reload(self) -> Reloaded | None:
        return Reloaded()


@pytest.fixture
def proxy() -> Guarded:
    return Guarded()


@pytest.fixture
async def client(proxy: Guarded) -> AsyncIterator[httpx2.AsyncClient]:
    proxy.begin("one")
    async with browse(create_admin(proxy)) as client:
        yield client


@pytest.mark.parametrize(("method", "path", "status"), [*GUARDED, ("GET", "/streams/live", 200)])
async def test_without_the_token_nothing_is_shown_or_done(
    proxy: Guarded, client: httpx2.AsyncClient, method: str, path: str, status: int
) -> None:
    answer = await client.request(method, path)
    assert (answer.status_code, answer.json()["status"]) == (401, 401)
    assert answer.headers["www-authenticate"] == 'Bearer realm="streamproxy admin"'
    assert proxy.ledger.live["one"].interruption is None


@pytest.mark.parametrize("wrong", WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize(("method", "path", "status"), [*GUARDED, ("GET", "/streams/live", 200)])
async def test_with_a_wrong_token_nothing_is_shown_or_done(
    proxy: Guarded, client: httpx2.AsyncClient, method: str, path: str, status: int, wrong: str
) -> None:
    answer = await client.request(method, path, headers=[(b"authorization", wrong.encode("latin-1"))])
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="streamproxy admin"')
    assert TOKEN not in answer.text
    assert proxy.ledger.live["one"].interruption is None


async def test_a_wrong_token_is_called_invalid(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/streams", headers={"authorization": "Bearer another"})
    assert answer.headers["www-authenticate"] == 'Bearer realm="streamproxy admin", error="invalid_token"'


async def test_two_tokens_are_none(client: httpx2.AsyncClient) -> None:
    fields = [("authorization", "Bearer another"), ("authorization", f"Bearer {TOKEN}")]
    assert (await client.get("/streams", headers=fields)).status_code == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
@pytest.mark.parametrize(("method", "path", "status"), GUARDED)
async def test_with_the_token_all_is_as_without_one(
    client: httpx2.AsyncClient, method: str, path: str, status: int, scheme: str
) -> None:
    answer = await client.request(method, path, headers={"authorization": f"{scheme} {TOKEN}"})
    assert answer.status_code == status


async def test_the_live_view_is_shown_with_the_token(proxy: Guarded) -> None:
    admin = create_admin(proxy)
    async with browse(admin) as client:
        head = await client.head("/streams/live", headers=RIGHT)
    await admin.aclose()
    assert (head.status_code, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")


@pytest.mark.parametrize("path", OPEN)
@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer another"}, RIGHT], ids=["without", "wrong", "right"])
async def test_metrics_and_health_need_no_token(client: httpx2.AsyncClient, path: str, headers: dict[str, str]) -> None:
    assert (await client.get(path, headers=headers)).status_code == 200


async def test_a_browser_gets_the_page_that_asks_for_the_token(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/", headers={"accept": "text/html,application/xhtml+xml,*/*;q=0.8"})
    assert (answer.status_code, answer.headers["content-type"]) == (401, "text/html; charset=utf-8")
    assert "www-authenticate" in answer.headers
    assert "content-security-policy" in answer.headers
    assert 'id="unlock"' in answer.text
    elsewhere = await client.get("/streams", headers={"accept": "text/html"})
    assert elsewhere.headers["content-type"] == "application/problem+json"


async def test_a_mounted_admin_application_asks_for_the_token_too(proxy: Guarded) -> None:
    async with browse(Starlette(routes=[Mount("/-", create_admin(proxy))])) as client:
        assert (await client.get("/-/streams")).status_code == 401
        assert (
            (await client.get("/-/", headers={"accept": "text/html"})).headers["content-type"].startswith("text/html")
        )
        assert (await client.get("/-/streams", headers=RIGHT)).status_code == 200
        assert (await client.get("/-/healthz")).status_code == 200


async def test_the_token_of_a_reloaded_configuration_counts_at_once(proxy: Guarded, client: httpx2.AsyncClient) -> None:
    await proxy.adopt(admin_config("{hosts: [admin.example], token: another}"))
    assert (await client.get("/streams", headers=RIGHT)).status_code == 401
    assert (await client.get("/streams", headers={"authorization": "Bearer another"})).status_code == 200
    await proxy.adopt(admin_config())
    assert (await client.get("/streams")).status_code == 200


async def test_the_configuration_hides_the_token(client: httpx2.AsyncClient) -> None:
    answer = await client.get("/config", headers=RIGHT)
    assert answer.json()["admin"]["token"] == "***"
    assert TOKEN not in answer.text


@pytest.mark.parametrize("text", ["two words", "", '"q"'])
def test_what_is_no_token_is_refused_without_being_repeated(text: str) -> None:
    config = {"admin": {"token": text}, "routes": [{"path": "/*", "upstream": "http://a"}]}
    with pytest.raises(Exception, match=r"admin\.token: .*is not a bearer token") as raised:
        parse_config(str(config), name="f.yaml")
    assert not text or text not in str(raised.value)
