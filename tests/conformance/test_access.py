"""Credentials and CORS over real sockets: who is let in, what the upstream sees, what a browser may read."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

import jwt
import pytest
from jwt.utils import base64url_encode

from streamproxy.auth import watched
from tests.conformance.conftest import StartStack
from tests.conftest import Connect, Serve
from tests.doubles.client import RawClient
from tests.doubles.stack import Config, route
from tests.doubles.upstream import answering, response, streaming

TOKEN = "opaque-token-1"
SECRET = "0123456789abcdef0123456789abcdef"
BEARER: Config = {"tokens": [{"name": "alice", "token": TOKEN}]}
EVERYWHERE = ["header", {"query": "access_token"}, {"cookie": "session"}]
ORIGIN = ("Origin", "https://app.example")
CORS: Config = {"origins": ["https://app.example"], "credentials": "on"}

quirk = pytest.mark.quirk


def guarded(upstream: str, **auth: Any) -> list[Config]:
    return [route(upstream, auth={"bearer": BEARER, **auth})]


async def test_a_stranger_is_refused_and_reaches_no_upstream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(guarded(upstream.url))
    client = await dial(proxy.url)
    refused = await client.get()
    assert (refused.status, refused.get("www-authenticate")) == (401, b'Bearer realm="streamproxy"')
    assert refused.get("proxy-status") == b"streamproxy; error=http_request_denied"
    assert json.loads(refused.body)["status"] == 401
    assert upstream.connections == []
    assert (await proxy.end_of()).end == "rejected"


async def test_a_wrong_token_is_called_invalid(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(guarded(upstream.url))
    client = await dial(proxy.url)
    refused = await client.get(headers=[("Authorization", f"Bearer {TOKEN}x")])
    assert refused.status == 401
    assert b'error="invalid_token"' in (refused.get("www-authenticate") or b"")
    assert upstream.connections == []


async def test_a_body_does_not_get_a_stranger_in(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(guarded(upstream.url))
    client = await dial(proxy.url)
    await client.request("/", method="POST", body=b"x" * 1000)
    assert (await client.read_response()).status == 401
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("headers", "target", "seen"),
    [
        ([("Authorization", f"Bearer {TOKEN}")], "/a?b=%2F&c", (b"/a?b=%2F&c", None, None)),
        ([], f"/a?b=%2F&access_token={TOKEN}&c", (b"/a?b=%2F&c", None, None)),
        ([], f"/a?access_token={TOKEN}", (b"/a", None, None)),
        ([("Cookie", f"x=1; session={TOKEN}; y=2")], "/a", (b"/a", None, b"x=1; y=2")),
        ([("Cookie", f"session={TOKEN}")], "/a", (b"/a", None, None)),
    ],
    ids=["header", "query", "only in the query", "cookie", "only cookie"],
)
async def test_a_checked_credential_does_not_go_upstream(
    stack: StartStack,
    serve: Serve,
    dial: Connect,
    headers: list[tuple[str, str]],
    target: str,
    seen: tuple[bytes, bytes | None, bytes | None],
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(guarded(upstream.url, **{"from": EVERYWHERE}))
    client = await dial(proxy.url)
    assert (await client.get(target, headers=headers)).status == 200
    head = await upstream.request()
    assert (head.target, head.get("authorization"), head.get("cookie")) == seen
    assert TOKEN.encode() not in head.raw


async def test_once_let_in_no_place_carries_a_credential_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(guarded(upstream.url, **{"from": EVERYWHERE}))
    client = await dial(proxy.url)
    others = [("Authorization", "Bearer others-token"), ("Cookie", "x=1; session=others-token")]
    assert (await client.get(f"/a?access_token={TOKEN}", headers=others)).status == 200
    head = await upstream.request()
    assert (head.target, head.get("authorization"), head.get("cookie")) == (b"/a", None, b"x=1")
    assert b"others-token" not in head.raw


async def test_pass_shows_every_credential_to_the_upstream(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack(guarded(upstream.url, **{"from": EVERYWHERE, "pass": "on"}))
    client = await dial(proxy.url)
    sent = [("Authorization", f"Bearer {TOKEN}"), ("Cookie", "x=1; session=other")]
    assert (await client.get("/a?access_token=third", headers=sent)).status == 200
    head = await upstream.request()
    seen = (head.target, head.get("authorization"), head.get("cookie"))
    assert seen == (b"/a?access_token=third", f"Bearer {TOKEN}".encode(), b"x=1; session=other")


async def test_a_rule_may_send_the_proxys_own_credential_instead(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    (guard,) = guarded(upstream.url)
    proxy = await stack([guard | {"request_headers": {"set": {"Authorization": "Bearer upstreams-own"}}}])
    client = await dial(proxy.url)
    assert (await client.get(headers=[("Authorization", f"Bearer {TOKEN}")])).status == 200
    assert (await upstream.request()).get("authorization") == b"Bearer upstreams-own"


async def test_a_credential_is_in_no_log_and_on_no_page(
    stack: StartStack, serve: Serve, dial: Connect, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    upstream = await serve(answering(response(b"ok")))
    with caplog.at_level(logging.DEBUG):
        proxy = await stack(guarded(upstream.url, **{"from": EVERYWHERE}), log={"access": "on", "level": "debug"})
        client = await dial(proxy.url)
        await client.get(f"/?access_token={TOKEN}")
        await client.get(headers=[("Authorization", f"Bearer {TOKEN}x")])
        await client.get(headers=[("Cookie", f"session={TOKEN}")])
        await proxy.end_of(2)
    logged = caplog.text + "".join(capfd.readouterr())
    assert caplog.text.count("credential refused") == 1, "the operator sees why"
    assert "access_token=***" in logged
    assert TOKEN not in logged
    assert TOKEN not in json.dumps(proxy.app.config())
    assert TOKEN not in b"".join(proxy.app.metrics.exposition()[0]).decode()


async def test_a_token_that_is_put_into_its_file_lets_in_without_a_restart(
    stack: StartStack, serve: Serve, dial: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "PERIOD", 0.0)
    tokens = tmp_path / "tokens"
    tokens.write_text("first\n")
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, auth={"bearer": {"tokens": [{"file": str(tokens)}]}})])
    client = await dial(proxy.url)

    async def status(token: str) -> int:
        return (await client.get(headers=[("Authorization", f"Bearer {token}")])).status

    assert [await status("first"), await status("second")] == [200, 401]
    new = tmp_path / "new"
    new.write_text("carol second\n")
    os.replace(new, tokens)
    assert [await status("first"), await status("second")] == [401, 200]


async def test_keys_that_are_rotated_in_their_file_count_without_a_restart(
    stack: StartStack, serve: Serve, dial: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watched, "PERIOD", 0.0)
    secrets = {"old": SECRET, "new": SECRET[::-1]}
    keys = tmp_path / "jwks.json"

    def publish(*names: str) -> None:
        made = [{"kty": "oct", "kid": name, "k": base64url_encode(secrets[name].encode()).decode()} for name in names]
        new = tmp_path / "next"
        new.write_text(json.dumps({"keys": made}))
        os.replace(new, keys)

    publish("old")
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, auth={"jwt": {"jwks_file": str(keys)}})])
    client = await dial(proxy.url)

    async def statuses() -> list[int]:
        found = []
        for kid, secret in secrets.items():
            token = jwt.encode({"sub": "alice"}, secret, algorithm="HS256", headers={"kid": kid})
            found.append((await client.get(headers=[("Authorization", f"Bearer {token}")])).status)
        return found

    assert await statuses() == [200, 401]
    publish("old", "new")
    assert await statuses() == [200, 200]
    publish("new")
    assert await statuses() == [401, 200]
    keys.write_text("{}")  # broken: what it said before stays in force
    assert await statuses() == [401, 200]


async def test_a_signed_token_lets_in_and_is_taken_out(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b"data: 1\n\n"))
    settings = {"secret": SECRET, "issuer": "https://id.example", "audience": "proxy"}
    proxy = await stack([route(upstream.url, auth={"jwt": settings})])
    claims = {"sub": "alice", "iss": "https://id.example", "aud": "proxy"}
    client = await dial(proxy.url)
    good = jwt.encode(claims, SECRET, algorithm="HS256")
    answer = await client.get(headers=[("Authorization", f"Bearer {good}")])
    assert (answer.status, answer.complete) == (200, True)
    assert (await proxy.end_of()).principal == "jwt:alice"
    forged = jwt.encode(claims, SECRET[::-1], algorithm="HS256")
    assert (await client.get(headers=[("Authorization", f"Bearer {forged}")])).status == 401
    assert [head.get("authorization") for head in upstream.requests] == [None]


@pytest.mark.parametrize("exp", [10**400, float("inf"), -1, "9999999999", True, None])
async def test_a_well_signed_token_whose_end_is_no_time_is_refused(
    stack: StartStack, serve: Serve, dial: Connect, exp: object
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, auth={"jwt": {"secret": SECRET}})])
    token = jwt.PyJWS().encode(json.dumps({"sub": "alice", "exp": exp}).encode(), SECRET, algorithm="HS256")
    client = await dial(proxy.url)
    assert (await client.get(headers=[("Authorization", f"Bearer {token}")])).status == 401
    assert upstream.connections == []


async def preflight(client: RawClient, method: str = "POST", origin: str = ORIGIN[1]) -> tuple[int, dict[bytes, bytes]]:
    asked = [("Origin", origin), ("Access-Control-Request-Method", method)]
    await client.request("/", method="OPTIONS", headers=[*asked, ("Access-Control-Request-Headers", "authorization")])
    answer = await client.read_response("OPTIONS")
    return answer.status, {name.lower(): value for name, value in answer.headers}


async def test_a_preflight_needs_no_credential_and_reaches_no_upstream(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, cors=CORS, auth={"bearer": BEARER}, methods=["POST"])])
    client = await dial(proxy.url)
    status, headers = await preflight(client)
    assert status == 204
    assert headers[b"access-control-allow-origin"] == b"https://app.example"
    assert headers[b"access-control-allow-methods"] == b"POST"
    assert headers[b"access-control-allow-headers"] == b"authorization"
    assert headers[b"access-control-allow-credentials"] == b"true"
    status, headers = await preflight(client, origin="https://evil.example")
    assert (status, b"access-control-allow-origin" in headers) == (204, False)
    assert (await preflight(client, method="DELETE"))[0] == 404  # the route does not take that
    assert upstream.connections == []
    assert (await proxy.end_of()).end == "complete"


async def test_a_browser_may_read_a_stream_and_every_refusal(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(streaming(b"data: 1\n\n"))
    limits = {"max_request_body": 10}
    proxy = await stack([route(upstream.url, cors=CORS, auth={"bearer": BEARER}, limits=limits)])
    client = await dial(proxy.url)
    stranger = await client.get(headers=[ORIGIN])
    known = [ORIGIN, ("Authorization", f"Bearer {TOKEN}")]
    stream = await client.get(headers=known)
    await client.request("/", method="POST", headers=known, body=b"x" * 11)
    too_large = await client.read_response()
    assert [answer.status for answer in (stranger, stream, too_large)] == [401, 200, 413]
    for answer in (stranger, stream, too_large):
        assert answer.get("access-control-allow-origin") == b"https://app.example"
        assert answer.get("access-control-allow-credentials") == b"true"
        assert answer.get("vary") == b"origin"


async def test_an_upstream_that_does_not_answer_is_told_to_the_browser(
    stack: StartStack, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await stack([route(upstream.url, cors=CORS)])
    upstream.stop_listening()
    client = await dial(proxy.url)
    refused = await client.get(headers=[ORIGIN])
    assert (refused.status, refused.get("access-control-allow-origin")) == (502, b"https://app.example")


async def test_what_the_upstream_says_of_cors_is_replaced(stack: StartStack, serve: Serve, dial: Connect) -> None:
    lax = [("Access-Control-Allow-Origin", "*"), ("Access-Control-Allow-Methods", "*"), ("X-Rate", "1")]
    upstream = await serve(answering(response(b"ok", headers=lax)))
    proxy = await stack([route(upstream.url, cors=CORS)])
    client = await dial(proxy.url)
    answer = await client.get(headers=[ORIGIN])
    assert answer.get("access-control-allow-origin") == b"https://app.example"
    assert answer.get("access-control-allow-methods") is None
    assert b"x-rate" in (answer.get("access-control-expose-headers") or b"")
    other = await client.get(headers=[("Origin", "https://evil.example")])
    assert (other.status, other.get("access-control-allow-origin")) == (200, None)


async def test_a_route_without_cors_lets_the_upstream_speak(stack: StartStack, serve: Serve, dial: Connect) -> None:
    upstream = await serve(answering(response(b"ok", headers=[("Access-Control-Allow-Origin", "*")])))
    proxy = await stack(upstream.url)
    client = await dial(proxy.url)
    assert (await preflight(client))[1][b"access-control-allow-origin"] == b"*"
    assert len(upstream.requests) == 1
