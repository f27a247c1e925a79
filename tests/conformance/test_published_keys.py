"""``auth.jwt.jwks_url``: keys that an issuer publishes, over real sockets."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import cache
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from jwt.algorithms import ECAlgorithm

from streamproxy.auth import remote
from streamproxy.config import parse_config
from streamproxy.errors import StreamproxyError
from tests.conformance.conftest import StartStack, _Starter
from tests.conftest import Connect, Serve
from tests.doubles.client import fetch
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import route
from tests.doubles.upstream import Conn, answering, response


@cache
def key(kid: str) -> EllipticCurvePrivateKey:
    return generate_private_key(SECP256R1())


def token(kid: str, **claims: Any) -> str:
    return jwt.encode({"sub": "alice", **claims}, key(kid), algorithm="ES256", headers={"kid": kid})


class Issuer:
    """Publishes the keys of these names; None: it answers with 500."""

    def __init__(self, *names: str) -> None:
        self.names: tuple[str, ...] | None = names

    async def script(self, conn: Conn) -> None:
        while True:
            await conn.read_request()
            if self.names is None:
                await conn.send(response(b"down", status="500 Internal Server Error"))
                continue
            jwks = [ECAlgorithm.to_jwk(key(name).public_key(), as_dict=True) | {"kid": name} for name in self.names]
            await conn.send(response(json.dumps({"keys": jwks}).encode()))


@pytest.fixture
async def stack(leaks: LeakCheck, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[StartStack]:
    """Our own client and server: the keys are read by neither of them."""
    monkeypatch.setattr(remote, "AGAIN", 0.0)
    async with AsyncExitStack() as exits:
        yield _Starter("native", "uvicorn", leaks, exits)


async def status(url: str, credential: str) -> int:
    return (await fetch(url, headers=[("Authorization", f"Bearer {credential}")])).status


async def test_a_token_of_a_new_key_is_let_in_and_one_of_an_old_key_is_not(stack: StartStack, serve: Serve) -> None:
    issuer = Issuer("old")
    published, upstream = await serve(issuer.script), await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, auth={"jwt": {"jwks_url": f"{published.url}/keys"}})])
    assert len(published.requests) == 1  # before the first request
    assert await status(proxy.url, token("old")) == 200
    assert len(published.requests) == 1
    issuer.names = ("new",)
    assert await status(proxy.url, token("new")) == 200
    assert await status(proxy.url, token("old")) == 401
    assert [one.principal for one in proxy.ended[:2]] == ["jwt:alice"] * 2


async def test_keys_stay_good_through_an_outage(stack: StartStack, serve: Serve) -> None:
    issuer = Issuer("old")
    published, upstream = await serve(issuer.script), await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, auth={"jwt": {"jwks_url": published.url}})])
    issuer.names = None
    assert await status(proxy.url, token("new")) == 401
    assert await status(proxy.url, token("old")) == 200
    await published.stop()
    assert await status(proxy.url, token("new")) == 401
    assert await status(proxy.url, token("old")) == 200
    assert proxy.metric("streamproxy_store_errors_total", store="keys") >= 2
    assert await status(proxy.url, token("old", exp=time.time() - 60)) == 401  # expired: no reading helps


async def test_without_any_keys_a_signed_token_is_neither_good_nor_bad(stack: StartStack, serve: Serve) -> None:
    issuer = Issuer()
    issuer.names = None
    published, upstream = await serve(issuer.script), await serve(answering(response(b"ok")))
    auth = {"jwt": {"jwks_url": published.url}, "bearer": {"tokens": ["static"]}}
    proxy = await stack([route(upstream.url, auth=auth, protocol="openai")])
    answer = await fetch(proxy.url, headers=[("Authorization", f"Bearer {token('old')}")])
    assert (answer.status, answer.get("retry-after"), answer.get("www-authenticate")) == (503, b"1", None)
    assert json.loads(answer.body)["error"]["code"] == "destination_unavailable"
    assert await status(proxy.url, "static") == 200
    assert await status(proxy.url, "unknown") == 401
    assert await status(proxy.url, jwt.encode({}, "s" * 32, algorithm="HS256")) == 401
    issuer.names = ("old",)
    assert await status(proxy.url, token("old")) == 200


async def test_a_published_secret_is_no_key(stack: StartStack, serve: Serve) -> None:
    secret = b"0123456789abcdef0123456789abcdef"
    oct_key = {"kty": "oct", "kid": "s", "k": jwt.utils.base64url_encode(secret).decode()}
    public = ECAlgorithm.to_jwk(key("old").public_key(), as_dict=True) | {"kid": "old"}
    published = await serve(answering(response(json.dumps({"keys": [oct_key, public]}).encode())))
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, auth={"jwt": {"jwks_url": published.url}})])
    assert await status(proxy.url, jwt.encode({}, secret, algorithm="HS256", headers={"kid": "s"})) == 401
    assert await status(proxy.url, token("old")) == 200


async def test_routes_with_models_know_new_keys_too(stack: StartStack, serve: Serve, dial: Connect) -> None:
    issuer = Issuer("old")
    published, upstream = await serve(issuer.script), await serve(answering(response(b"ok")))
    auth = {"jwt": {"jwks_url": published.url}}
    proxy = await stack([route(upstream.url, models=["m"], auth=auth, protocol="openai")])
    issuer.names = ("new",)
    headers = [("Authorization", f"Bearer {token('new')}")]
    client = await dial(proxy.url)
    await client.request("/", method="POST", headers=headers, body=b'{"model":"m"}')
    assert (await client.read_response()).status == 200


async def test_a_client_that_leaves_while_keys_are_read_is_gone(
    stack: StartStack, serve: Serve, dial: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = 0

    async def hanging(conn: Conn) -> None:
        nonlocal asked
        await conn.read_request()
        asked += 1
        if asked > 1:
            await conn.wait_ended()
        jwks = [ECAlgorithm.to_jwk(key("old").public_key(), as_dict=True) | {"kid": "old"}]
        await conn.send(response(json.dumps({"keys": jwks}).encode(), headers=[("Connection", "close")]))

    published, upstream = await serve(hanging), await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, auth={"jwt": {"jwks_url": published.url}})])
    client = await dial(proxy.url)
    await client.request("/", headers=[("Authorization", f"Bearer {token('new')}")])
    await published.request(1)
    client.reset()
    ended = await proxy.end_of()
    assert (ended.end, ended.phase) == ("client_disconnect", "queue")


async def test_a_reload_keeps_good_keys_and_refuses_a_url_that_has_none(stack: StartStack, serve: Serve) -> None:
    issuer = Issuer("old")
    published, upstream = await serve(issuer.script), await serve(answering(response(b"ok")))
    routes = [route("u", name="r", auth={"jwt": {"jwks_url": published.url}})]
    sections: Any = {"upstreams": {"u": {"endpoints": [upstream.url]}}}
    proxy = await stack(routes, **sections)
    issuer.names = None
    await proxy.app.adopt(parse_config(json.dumps({"routes": routes, **sections}), name="test"))
    assert await status(proxy.url, token("old")) == 200
    other = [route("u", name="r", auth={"jwt": {"jwks_url": f"{published.url}/other"}})]
    with pytest.raises(StreamproxyError, match="cannot be read"):
        await proxy.app.adopt(parse_config(json.dumps({"routes": other, **sections}), name="test"))
    assert await status(proxy.url, token("old")) == 200
    issuer.names = ("new",)
    await proxy.app.adopt(parse_config(json.dumps({"routes": other, **sections}), name="test"))
    assert [await status(proxy.url, token(name)) for name in ("old", "new")] == [401, 200]
