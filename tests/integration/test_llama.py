"""A real engine behind the proxy: llama.cpp's server, which speaks the APIs of OpenAI and Anthropic."""

from __future__ import annotations

import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.doubles.client import fetch
from tests.doubles.leaks import LeakCheck
from tests.doubles.ports import reserved_port
from tests.doubles.stack import RunningStack, running_stack
from tests.doubles.until import until
from tests.integration import llama
from tests.integration.process import Process
from tests.integration.sdks.users import End, PythonUser, Seen

pytestmark = pytest.mark.skipif(llama.model() is None, reason="llama.cpp's server is missing: make engine")

LOAD = {"path": "/metrics", "running": "llamacpp:requests_processing", "waiting": "llamacpp:requests_deferred"}
CUT = "The upstream did not finish its response"


@pytest.fixture
async def engine() -> AsyncIterator[tuple[Process, str]]:
    """The engine, and its URL."""
    with reserved_port() as port, Process([sys.executable, str(Path(llama.__file__)), str(port)]) as process:
        found = await process.line(r"^listening on (http://\S+)")
        yield process, found[1]


@pytest.fixture
async def proxy(engine: tuple[Process, str], leaks: LeakCheck) -> AsyncIterator[RunningStack]:
    pool = {"endpoints": [engine[1]], "balance": "least_load", "load": {"source": LOAD, "interval": "50ms"}}
    keys: dict[str, Any] = {"protocol": "auto", "usage": "ask", "on_truncation": "error_event"}
    route = {"path": "/*", "upstream": "llama", **keys, "keepalive": {"interval": "20ms", "before_headers": "20ms"}}
    kinds = {"client_kind": "native", "server_kind": "uvicorn"}
    async with running_stack([route], **kinds, leaks=leaks, upstreams={"llama": pool}) as stack:
        await stack.app.deployment.upstreams["llama"].start()
        yield stack
        await stack.app.deployment.upstreams["llama"].quiesce()


async def ended(user: PythonUser) -> Seen:
    return await until(user.seen, "the end", holds=lambda seen: seen.end is not None, timeout=60)


async def test_what_it_says_is_understood(proxy: RunningStack) -> None:
    for number, (sdk, operation) in enumerate([("openai", "chat"), ("responses", "chat"), ("anthropic", "chat")]):
        user = PythonUser(sdk, proxy.url, "smollm2", most=8)
        seen = await ended(user)
        assert seen.text
        assert seen.end == End()
        exchange = await proxy.end_of(number)
        assert (exchange.end, exchange.operation, exchange.model) == ("complete", operation, "smollm2")
        assert exchange.usage.input > 0
        assert exchange.usage.output == 8
        assert exchange.first_event() > 0
        assert exchange.finish_reason
    assert proxy.metric("gen_ai_client_token_usage_sum", gen_ai_token_type="output") == 24


async def test_a_user_who_stops_frees_it(proxy: RunningStack, engine: tuple[Process, str]) -> None:
    user = PythonUser("openai", proxy.url, "smollm2", most=2000)
    await until(user.seen, "a word", holds=lambda seen: bool(seen.text), timeout=60)
    await until(lambda: proxy.metric("streamproxy_endpoint_load", kind="running") == 1, "the engine's reading")
    assert proxy.app.ledger.live
    await user.stop()
    assert (await proxy.end_of()).end == "client_disconnect"
    await until(lambda: proxy.metric("streamproxy_endpoint_load", kind="running") == 0, "the engine to be idle")
    metrics = (await fetch(f"{engine[1]}/metrics")).body.decode()
    assert "llamacpp:requests_processing 0" in metrics


async def test_one_that_is_killed_does_not_look_finished(proxy: RunningStack, engine: tuple[Process, str]) -> None:
    user = PythonUser("openai", proxy.url, "smollm2", most=2000)
    await until(user.seen, "a word", holds=lambda seen: bool(seen.text), timeout=60)
    engine[0].signal(signal.SIGKILL)
    seen = await ended(user)
    assert seen.end == End("APIError", None, CUT)
    assert (await proxy.end_of()).end == "upstream_truncated"
