"""The dashboard's queries and the rules, asked of a real Prometheus that scrapes a proxy under traffic."""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.doubles.client import connect, fetch
from tests.doubles.connection import PeerEnded
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.prometheus import DEPLOY, WINDOW, Prometheus, prometheus
from tests.integration.proxy import Config, configuration

GUARD = 30.0
DASHBOARD = json.loads((DEPLOY / "grafana/streamproxy.json").read_text())
RULES = [
    rule
    for group in yaml.safe_load((DEPLOY / "prometheus/rules.yaml").read_text())["groups"]
    for rule in group["rules"]
]
CHAT = json.dumps({"model": "m", "max_tokens": 3, "stream": True, "messages": [{"role": "user", "content": "x"}]})


# Gauges of the demo's own proxy, in the place of an engine's.
ENGINE = {"running": "streamproxy_streams_active", "waiting": "streamproxy_connections"}


class Watched(NamedTuple):
    """A Prometheus that scrapes a proxy, while every kind of traffic goes on."""

    prometheus: Prometheus
    proxy: str


def routes(upstream: str, engine: str, dead: str) -> Config:
    """Routes that give each series something to show: streams, a queue, retries, failures."""
    return configuration(
        [
            {"name": "chat", "path": "/v1/*", "upstream": "demo", "protocol": "auto"},
            {"name": "silent", "path": "/slow", "upstream": "demo", "keepalive": "100ms"},
            {"name": "limited", "path": "/events", "upstream": "demo", "limits": {"max_streams": 1, "queue": 10}},
            {"name": "retried", "path": "/ndjson", "upstream": "pair", "retry": {"attempts": 2}},
            {"name": "dead", "path": "/dead", "upstream": dead},
            {"name": "other", "path": "/other", "upstream": dead, "fallback": ["demo"]},
            {"name": "engine", "path": "/engine", "upstream": "engine"},
            {"name": "quota", "path": "/quota", "upstream": "demo", "limits": {"requests": {"rate": "1/1h"}}},
            {"name": "kept", "path": "/kept/*", "upstream": "demo", "rewrite": {"strip_prefix": "/kept"}, "resume": {}},
            {"name": "shared", "path": "/shared", "upstream": "demo", "share": {}},
            {"name": "rest", "path": "/*", "upstream": "demo"},
        ],
        upstreams={
            "demo": {"endpoints": [upstream]},
            "engine": {"endpoints": [engine], "load": {"source": ENGINE}},
            "pair": {"endpoints": [upstream, dead]},
        },
    )


async def chat(url: str) -> None:
    for path in ("/v1/chat/completions", "/v1/messages"):
        async with await connect(url) as client:
            fields = [("Content-Type", "application/json")]
            await client.request(path, method="POST", headers=fields, body=CHAT.encode())
            await client.read_response()


async def leave(url: str) -> None:
    """Go away in the middle of a stream."""
    async with await connect(url) as client:
        await client.request("/ndjson?interval=0.02")
        await client.read_head()
        await client.read_body_until(b"\n")


async def broken(url: str) -> None:
    async with await connect(url) as client:
        await client.request("/broken?after=1")
        await client.read_response()


async def come_back(url: str) -> None:
    """Read a stream, and again from its beginning."""
    answer = await fetch(url + "/kept/events?interval=0.02&count=3")
    cursor = answer.get("x-stream-cursor")
    assert cursor is not None
    await fetch(url + "/kept/events", headers=[("Last-Event-ID", cursor.decode())])


def ask(path: str) -> Callable[[str], Awaitable[object]]:
    async def request(url: str) -> None:
        await fetch(url + path)

    return request


KINDS = (
    chat,
    leave,
    broken,
    ask("/slow?delay=0.3"),
    ask("/dead"),
    ask("/nowhere"),
    ask("/other"),
    ask("/quota"),
    come_back,
    *[ask("/events?interval=0.02&count=3")] * 3,
)


@asynccontextmanager
async def traffic(url: str, kinds: Sequence[Callable[[str], Awaitable[object]]] = KINDS) -> AsyncIterator[None]:
    """Every kind of request, again and again."""

    async def repeat(kind: Callable[[str], Awaitable[object]]) -> None:
        while True:
            with suppress(ConnectionError, PeerEnded):  # what is broken on purpose
                await kind(url)
            await asyncio.sleep(0.05)  # the pace of the traffic

    tasks = [asyncio.create_task(repeat(kind)) for kind in kinds]
    try:
        yield
        assert [task.exception() for task in tasks if task.done()] == []
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def watched(run_proxy: RunProxy, tmp_path: Path) -> AsyncIterator[Watched]:
    command = [sys.executable, "-m", "streamproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with Process(command) as demo, reserved_port() as port:
        upstream = (await demo.line(r"^listening on (http://\S+)"))[1]
        engine = (await demo.line(r"^admin on (http://\S+)"))[1]
        proxy = await run_proxy(routes(upstream, engine, f"http://127.0.0.1:{port}"))
        async with prometheus(tmp_path, proxy.admin) as server, traffic(proxy.url):
            yield Watched(server, proxy.url)
        await demo.stop()


def filled(expression: str) -> str:
    """A panel's query as Grafana sends it with everything chosen."""
    return re.sub(r"\$(job|route|upstream)\b", ".+", expression.replace("$__rate_interval", WINDOW))


def dashboard_queries() -> Iterator[tuple[str, str]]:
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", []):
            yield f"{panel['title']} {target['refId']}", filled(target["expr"])


async def until_all_have_data(server: Prometheus, queries: dict[str, str]) -> None:
    """Wait until each query has given a number; one that is an error fails at once."""
    waiting = dict(queries)

    async def without_data() -> dict[str, str]:
        for name, expression in list(waiting.items()):
            if await server.query(expression):
                del waiting[name]
        return waiting

    await until(without_data, "every query to have data", holds=lambda left: not left, timeout=60)


async def test_every_query_of_dashboard_and_rules_finds_data_in_a_proxy_under_traffic(watched: Watched) -> None:
    server = watched.prometheus
    recorded = {rule["record"]: rule["expr"] for rule in RULES if "record" in rule}
    panels = dict(dashboard_queries())
    assert len(panels) > 30
    await until_all_have_data(server, panels | recorded)
    await until_all_have_data(server, {name: name for name in recorded})

    for variable in DASHBOARD["templating"]["list"][1:]:
        parts = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert parts is not None
        assert await server.label_values(filled(parts[1]), parts[2]), variable["name"]

    names = set(await server.get("/api/v1/label/__name__/values"))
    for rule in RULES:
        if "alert" in rule:
            await server.query(rule["expr"])
            metrics = set(re.findall(r"\b(?:job_\w+:|streamproxy_|process_)[\w:]+|\bup\b", rule["expr"]))
            assert metrics, rule["alert"]
            assert metrics <= names, rule["alert"]
    await check_rules(server)


async def test_what_is_shown_of_models_has_data_in_the_demo_itself(tmp_path: Path) -> None:
    def chats(path: str, **more: object) -> Callable[[str], Awaitable[object]]:
        async def request(url: str) -> None:
            fields = [("Content-Type", "application/json"), ("Authorization", "Bearer red-key")]
            async with await connect(url) as client:
                body = json.dumps(json.loads(CHAT) | more).encode()
                await client.request(path, method="POST", headers=fields, body=body)
                await client.read_response()

        return request

    kinds = [
        chats("/v1/chat/completions", model="demo-1"),
        chats("/v1/chat/completions", model="demo-fails"),
        chats("/tenants/v1/chat/completions", model="demo-1"),
    ]
    command = [sys.executable, "-m", "streamproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with Process(command) as demo:
        url = (await demo.line(r"^listening on (http://\S+)"))[1]
        admin = (await demo.line(r"^admin on (http://\S+)"))[1]
        async with prometheus(tmp_path, admin) as server, traffic(url, kinds):
            titles = ("Time to first event", "Tokens", "Answers and chunks", "Failures inside", "Load of", "Refused by")
            panels = {name: query for name, query in dashboard_queries() if name.startswith(titles)}
            assert len(panels) == 9
            await until_all_have_data(server, panels)
            metric = "gen_ai_client_operation_time_to_first_chunk_seconds_count"
            assert "demo-1" in await server.label_values(metric, "gen_ai_request_model")
        await demo.stop()


async def check_rules(server: Prometheus) -> None:
    """Prometheus itself has evaluated every rule without an error."""
    groups: list[Any] = (await server.get("/api/v1/rules"))["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) == len(RULES)
    assert [(rule["name"], rule["lastError"]) for rule in rules if rule.get("lastError")] == []
    assert {rule["health"] for rule in rules} == {"ok"}
