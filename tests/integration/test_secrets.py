"""Secrets in every place that can hold one, and none in anything that the proxy writes or shows.

The secrets are planted in the configuration, in its environment and files, in requests, in what upstreams send, and in
Redis's password. Then the program does everything that writes something: each kind of end, refusals, a reload that
works and one that does not, traces, shared and kept streams, quotas, a crash. At last everything that came out is
searched: logs at their most talkative, metrics, the admin listener, errors, traces, Redis, and the dump of a crash.
"""

from __future__ import annotations

import base64
import hmac
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from redis.asyncio import Redis

from tests.conftest import Serve
from tests.doubles.client import Answer, connect, fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import Conn, response, stream_head
from tests.integration.process import Process
from tests.integration.proxy import RunningProxy, write_configuration
from tests.integration.redis import redis_server


class Plants:
    """Makes secrets and finds them again, in each form that might be written."""

    def __init__(self) -> None:
        self.secrets: dict[str, str] = {}

    def __call__(self, place: str) -> str:
        """A new secret for a place; it says which in what a test shows."""
        return self.secrets.setdefault(place, f"zq{len(self.secrets):02d}{os.urandom(12).hex()}")

    def found_in(self, text: bytes) -> list[str]:
        """The places whose secret is in a text, as it is or in base64."""
        return [place for place, secret in self.secrets.items() if any(form in text for form in _forms(secret))]


def _forms(secret: str) -> list[bytes]:
    raw = secret.encode()
    # base64 of the secret behind a text of any length: without the letters that the text before it takes part in.
    shifted = [base64.b64encode(b"x" * shift + raw)[4:-4] for shift in range(3)]
    return [raw, raw.hex().encode(), *shifted]


# The log and the live view have the name of a kept stream, as an operator needs it; nothing else has.
SHOW_STREAMS = ("the log and the dump of the crash", "admin /streams", "the live view")

REFUSED = b"HTTP/1.1 500 No\r\nSet-Cookie: s=%b\r\nContent-Length: %d\r\n\r\n%b"


async def upstream(plants: Plants, conn: Conn) -> None:
    """Answers by the path, each time with secrets of its own."""
    secret = {
        name: plants(f"upstream's {name}").encode() for name in ("set-cookie", "error body", "event", "head", "line")
    }
    while True:
        head, _ = await conn.read_request()
        path = head.target.split(b"?")[0]
        if path == b"/error":
            await conn.send(REFUSED % (secret["set-cookie"], len(secret["error body"]), secret["error body"]))
        elif path == b"/malformed":
            await conn.send(b"HTTP/1.1 200 OK\r\nX-Secret %b\r\n\r\n" % secret["head"])
            return
        elif path == b"/garbage":
            await conn.send(secret["line"] + b"\r\n\r\n")
            return
        elif path == b"/cut":
            await conn.send(stream_head())
            await conn.send_chunk(b"data: %b\n\n" % secret["event"])
            conn.reset()
            return
        elif path in (b"/stream", b"/kept", b"/shared"):
            await conn.send(stream_head("text/event-stream", ("Set-Cookie", f"s={secret['set-cookie'].decode()}")))
            await conn.send_chunk(b'data: {"error":{"message":"%b","type":"server_error"}}\n\n' % secret["event"])
            await conn.send_chunk(b"")
        elif path == b"/live":
            await conn.send(stream_head())
            await conn.send_chunk(b"data: %b\n\n" % secret["event"])
            await conn.stall()
        else:
            await conn.send(response(b"ok", headers=[("Set-Cookie", f"s={secret['set-cookie'].decode()}")]))


def make_configuration(plants: Plants, urls: dict[str, str], folder: Path, redis: str) -> dict[str, Any]:
    """A configuration with a secret wherever one can stand."""
    tokens = folder / "tokens"
    tokens.write_text(f"alice {plants('token of a file')}\n")
    (folder / "admin").write_text(plants("admin token"))
    auth = {
        "bearer": {"tokens": [plants("token"), {"name": "bob", "token": plants("named token")}, {"file": str(tokens)}]},
        "jwt": {"secret": plants("JWT secret") + "0123456789abcdef", "algorithms": ["HS256"], "audience": "a"},
        "from": ["header", {"query": "access_token"}, {"cookie": "session"}],
    }
    set_by_route = {"set": {"authorization": f"Bearer {plants('route header')}", "x-api-key": "${KEY}"}}
    set_by_upstream = {"set": {"x-upstream-key": plants("upstream header"), "cookie": f"a={plants('upstream cookie')}"}}
    common: dict[str, Any] = {"upstream": "up", "auth": auth, "request_headers": set_by_route}
    quota = {"requests": {"rate": "1000/1m"}, "client_key": "header:x-api-key", "store": redis}
    primary, sentinel = plants("password of a primary"), plants("password of a Sentinel")
    sources = {
        "sentinels": f"redis+sentinel://u:{primary}@127.0.0.1:9/s?sentinel_password={sentinel}",
        "cluster": f"valkeys+cluster://u:{plants('password of a cluster')}@127.0.0.1:9",
    }
    return {
        "server": {"listen": "127.0.0.1:0", "drain_timeout": "1s"},
        "admin": {"listen": "127.0.0.1:0", "token": f"${{file:{folder / 'admin'}}}"},
        "log": {"level": "debug", "access": "on"},
        "tracing": {"endpoint": urls["collector"], "headers": {"x-collector": plants("collector header")}},
        "upstreams": {
            "up": {"endpoints": [urls["upstream"]], "request_headers": set_by_upstream},
            "gone": {"endpoints": [urls["gone"]]},
            "egress": {"endpoints": ["http://127.0.0.1:9"], "proxy": f"http://u:{plants('egress')}@127.0.0.1:9"},
            **{name: {"redis": {"url": url, "channel": "a", "kind": "stream"}} for name, url in sources.items()},
        },
        "routes": [
            {"path": "/kept", **common, "resume": {"store": redis, "window": "1m"}},
            {"path": "/shared", **common, "share": {}},
            {"path": "/quota", **common, "limits": quota},
            {"path": "/gone", **common, "upstream": "gone"},
            {"path": "/egress", **common, "upstream": "egress"},
            {"path": "/stream", **common, "protocol": "openai", "on_truncation": "error_event"},
            {"path": "/cut", **common, "on_truncation": "error_event"},
            *({"path": f"/{name}", "upstream": name, "auth": auth} for name in sources),
            {"path": "/*", **common},
        ],
    }  # fmt: skip


class Out:
    """Everything that came out, by where it came from."""

    def __init__(self) -> None:
        self.texts: dict[str, list[bytes]] = {}

    def add(self, where: str, text: bytes) -> None:
        self.texts.setdefault(where, []).append(text)


def request_headers(plants: Plants, authorization: str) -> list[tuple[str, str]]:
    """Fields in which a client sends secrets."""
    return [
        ("Host", "proxy.test"),
        ("Authorization", f"Bearer {authorization}"),
        ("Cookie", f"session={plants('session cookie')}; other={plants('other cookie')}"),
        ("X-Api-Key", plants("client's API key")),
        ("Proxy-Authorization", f"Basic {plants('proxy credentials')}"),
        ("Referer", f"https://page.example/?token={plants('referer')}"),
        ("X-Anything", plants("any field")),
    ]


async def ask(proxy: RunningProxy, target: str, fields: list[tuple[str, str]], method: str = "GET") -> Answer | None:
    """One request, with a body that holds a secret for the upstream; None if there is no response."""
    body = json.dumps({"model": "m", "messages": [fields[-1][1]]}).encode() if method == "POST" else None
    async with await connect(proxy.url) as client:
        await client.request(target, method=method, headers=fields, body=body)
        try:
            return await client.read_response()
        except PeerEnded:
            return None


def signed_token(plants: Plants) -> str:
    """A valid JWT; its signature is the secret."""
    head, claims = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"aud": "a", "sub": "carol", "exp": int(time.time()) + 3600})
    ]
    key = (plants("JWT secret") + "0123456789abcdef").encode()
    signature = base64.urlsafe_b64encode(hmac.digest(key, head + b"." + claims, "sha256")).rstrip(b"=").decode()
    plants.secrets["JWT"] = signature
    return f"{head.decode()}.{claims.decode()}.{signature}"


async def everything(proxy: RunningProxy, plants: Plants, out: Out) -> None:
    """Each kind of exchange; responses that are the proxy's own are kept to be searched."""
    token = plants("token")
    only_alice = [
        ("Host", "proxy.test"),
        ("Authorization", f"Bearer {token}"),
        ("X-Api-Key", plants("client's API key")),
    ]
    query = f"access_token={plants('query token')}&key={plants('query value')}"
    for target in (
        "/",
        "/error",
        "/malformed",
        "/garbage",
        "/cut",
        "/stream",
        "/kept",
        "/shared",
        "/quota",
        "/gone",
        "/egress",
    ):
        for fields in (only_alice, request_headers(plants, plants("wrong token"))):
            answer = await ask(
                proxy,
                f"{target}?{query}" if fields is not only_alice else f"{target}?key={plants('query value')}",
                fields,
            )
            own = answer is not None and (answer.get("proxy-status") or b"").startswith(b"streamproxy;")
            if answer is not None and own:
                out.add(f"the error at {target}", answer.head.raw + answer.body)
    await ask(proxy, "/stream", only_alice, "POST")
    carol = [("Host", "proxy.test"), ("Authorization", f"Bearer {signed_token(plants)}")]
    for target in ("/", "/kept", "/quota", "/error"):
        answer = await ask(proxy, target, carol)
        assert answer is not None
        assert answer.status != 401
    handshake = [
        ("Connection", "upgrade"), ("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", base64.b64encode(plants("WebSocket key")[:16].encode()).decode()),
        ("Sec-WebSocket-Protocol", f"openai-insecure-api-key.{plants('subprotocol')}"),
    ]  # fmt: skip
    await ask(proxy, "/", [*only_alice, *handshake])
    kept = await ask(proxy, "/kept", only_alice)
    assert kept is not None
    assert kept.status == 200
    cursor = kept.get("x-stream-cursor")
    assert cursor is not None
    plants.secrets["cursor"] = cursor.partition(b"/")[0].decode()
    for fields in (only_alice, request_headers(plants, plants("named token"))):
        answer = await ask(proxy, "/kept", [*fields, ("Last-Event-ID", cursor.decode())])
        if answer is not None and answer.status >= 400:
            out.add("the answer to a stranger's cursor", answer.head.raw + answer.body)
    async with await connect(proxy.url) as client:
        await client.send(f"GET /{plants('target')} HTTP/1.1\r\nHost: a\r\nAuthorization : {token}\r\n\r\n".encode())
        out.add("a refused head", (await client.read_response()).body)


async def look(proxy: RunningProxy, plants: Plants, out: Out) -> None:
    """Asks the admin listener for everything, with a stream that lives; with its token, a wrong one, and none."""
    async with await connect(proxy.url) as client:
        secret = plants("query value")
        fields = [
            ("Host", "a"),
            ("Authorization", f"Bearer {plants('token')}"),
            ("Cookie", f"a={plants('other cookie')}"),
        ]
        await client.request(f"/live?key={secret}", headers=fields)
        await client.read_body_until(b"\n\n") if (await client.read_head()).status == 200 else None
        for credentials in (plants("admin token"), plants("wrong admin token"), ""):
            headers = [("Authorization", f"Bearer {credentials}")] if credentials else []
            for path in ("/", "/metrics", "/streams", "/config", "/healthz", "/readyz", "/streams/none"):
                answer = await fetch(f"{proxy.admin}{path}", headers=headers)
                out.add(f"admin {path}", answer.head.raw + answer.body)
        async with await connect(proxy.admin) as viewer:
            fields = [("Host", "localhost"), ("Authorization", f"Bearer {plants('admin token')}")]
            await viewer.request("/streams/live?interval=1", headers=fields)
            await viewer.read_head()
            out.add("the live view", await viewer.read_body_until(b"\n\n"))


async def reload(proxy: RunningProxy, plants: Plants, config: dict[str, Any], out: Out) -> None:
    """A reload that works, and one of a file with secrets in the wrong places."""
    proxy.process.signal(signal.SIGHUP)
    await _until_said(proxy, "the configuration was reloaded")
    wrong = json.loads(json.dumps(config))
    wrong["routes"][0]["auth"]["bearer"]["tokens"] = [{"token": plants("token that is bad") + " x y"}]
    wrong["routes"][1]["auth"]["jwt"]["secret"] = plants("short secret")[:20]
    wrong["routes"][2]["upstream"] = f"http://user:{plants('password in a wrong place')}@127.0.0.1:1"
    wrong["routes"][3]["request_headers"] = {"set": {"authorization": f"Bearer {plants('broken header')}\n"}}
    wrong["upstreams"]["gone"]["endpoints"] = ["${MISSING}", f"ftp://{plants('password of ftp')}@x"]
    wrong["admin"]["token"] = plants("bad admin token") + " with spaces"
    plants.secrets["short secret"] = plants("short secret")[:20]
    write_configuration(proxy.file.parent, wrong)
    proxy.process.signal(signal.SIGHUP)
    await _until_said(proxy, "was not reloaded")
    command = [sys.executable, "-m", "streamproxy"]
    for arguments in (["check"], ["explain", "GET", "http://a/kept"]):
        done = subprocess.run(
            [*command, *arguments, "-c", str(proxy.file)], capture_output=True, check=False, timeout=30
        )
        assert done.returncode != 0
        out.add(f"the command {arguments[0]} on a bad file", done.stdout + done.stderr)
    write_configuration(proxy.file.parent, config)
    environ = os.environ | {"KEY": plants("key of the environment")}
    for arguments in (["check"], ["explain", "GET", f"http://a/kept?key={plants('query value')}"]):
        done = subprocess.run(
            [*command, *arguments, "-c", str(proxy.file)], capture_output=True, check=False, timeout=30, env=environ
        )
        out.add(f"the command {arguments[0]}", done.stdout + done.stderr)


async def _until_said(proxy: RunningProxy, words: str) -> None:
    await proxy.process.line(re.escape(words))


async def contents(url: str) -> bytes:
    """Every key of Redis, with all that it holds but the events of kept streams, which are what it keeps them for."""
    found = b""
    async with Redis.from_url(url, protocol=2) as client:
        for key in await client.keys("*"):
            kind = await client.type(key)
            found += key + b"\n"
            if kind == b"hash":
                found += repr(await client.hgetall(key)).encode()
            elif kind == b"string":
                found += await client.get(key) or b""
            elif not key.endswith(b":data"):
                found += repr(await client.xrange(key) if kind == b"stream" else kind).encode()
    return found


async def test_no_secret_comes_out_anywhere(serve: Serve, tmp_path: Path) -> None:
    plants, out = Plants(), Out()

    async def collect(conn: Conn) -> None:
        while True:
            _, body = await conn.read_request()
            out.add("traces", body)
            await conn.send(response(b""))

    backend = await serve(lambda conn: upstream(plants, conn))
    collector = await serve(collect)
    async with redis_server(tmp_path) as redis:
        await redis.command("CONFIG", "SET", "requirepass", plants("Redis password"))
        url = redis.url.replace("redis://", f"redis://:{plants('Redis password')}@")
        with reserved_port() as port:
            urls = {"upstream": backend.url, "collector": collector.url, "gone": f"http://127.0.0.1:{port}"}
            config = make_configuration(plants, urls, tmp_path, url)
            file = write_configuration(tmp_path, config)
            command = [sys.executable, "-m", "streamproxy", "run", "-c", str(file)]
            environ = {"KEY": plants("key of the environment"), "PYTHONFAULTHANDLER": "1"}
            with Process(command, env=environ) as process:
                main = await process.line(r"listening on (https?://\S+)")
                admin = await process.line(r"admin on (http://\S+)")
                proxy = RunningProxy(process, main[1], admin[1], file)
                await everything(proxy, plants, out)
                await look(proxy, plants, out)
                await reload(proxy, plants, config, out)
                await look(proxy, plants, out)
                out.add("Redis", await contents(url))
                await until(lambda: "traces" in out.texts, "a trace")
                process.signal(signal.SIGABRT)
                await process.exited()
                out.add("the log and the dump of the crash", process.output.encode())
    assert {"Current thread", "Traceback"} & set(re.findall("Current thread|Traceback", process.output)) == {
        "Current thread"
    }
    leaked = {where: plants.found_in(b"\n".join(texts)) for where, texts in out.texts.items()}
    for where in SHOW_STREAMS:
        leaked[where] = [place for place in leaked[where] if place != "cursor"]
    assert {where: places for where, places in leaked.items() if places} == {}
    assert plants.found_in(backend_heads(backend.requests)), "the search itself finds what the upstream was sent"


def backend_heads(requests: list[Any]) -> bytes:
    return b"".join(head.raw for head in requests)


def test_the_search_finds_a_secret_in_each_form() -> None:
    plants = Plants()
    secret = plants("x")
    for text in (secret, base64.b64encode(f"user:{secret}".encode()).decode(), secret.encode().hex()):
        assert plants.found_in(f"a {text} b".encode()) == ["x"]
    assert plants.found_in(b"nothing") == []
