"""Files of config/ that promise what only a request can show."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.conftest import Start
from tests.conftest import Connect, Serve
from tests.doubles.client import connect
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Script, answering, response, silent, stream_head, streaming
from tests.unit.config.test_examples import Yaml12
from tests.unit.dialects.wire import chat, sse

FOLDER = Path(__file__).parents[2] / "config"
JSON = [("Content-Type", "application/json")]
STREAM = b"".join([sse(chat({"content": "hi"})), sse(chat(finish="stop")), b"data: [DONE]\n\n"])


def example(name: str, **urls: str) -> tuple[list[Any], dict[str, Any]]:
    """Routes and upstreams of a file, with other addresses in place of the upstreams' own."""
    text = (FOLDER / f"{name}.yaml").read_text().replace("${OPENAI_API_KEY}", "sk-test")
    read = yaml.load(text, Yaml12)
    for upstream, url in urls.items():
        read["upstreams"][upstream]["endpoints"] = [url]
        read["upstreams"][upstream].pop("tls", None)
    return read["routes"], read["upstreams"]


async def resetting(conn: Conn) -> None:
    await conn.read_request()
    conn.reset()


async def silent_behind_its_head(conn: Conn) -> None:
    await conn.read_request()
    await conn.send(stream_head())
    await conn.wait_ended()


FAILURES: dict[str, Script] = {
    "limited": answering(response(b"{}", status="429 Too Many Requests")),
    "down": answering(response(b"", status="503 Service Unavailable")),
    "reset": resetting,
    "failure": streaming(sse({"error": {"message": "broken"}})),
    "silent": silent,
    "silent behind its head": silent_behind_its_head,
}


@pytest.mark.parametrize("failure", FAILURES)
async def test_openai_fails_and_your_own_engine_answers_without_its_key(
    start: Start, serve: Serve, failure: str
) -> None:
    bodies: list[bytes] = []

    async def engine(conn: Conn) -> None:
        bodies.append((await conn.read_request())[1])
        await conn.send(stream_head())
        for chunk in (STREAM, b""):
            await conn.send_chunk(chunk)

    openai, vllm = await serve(FAILURES[failure]), await serve(engine)
    routes, upstreams = example("openai-fallback", openai=openai.url, vllm=vllm.url)
    timeouts = routes[0]["timeouts"]
    for name in timeouts.keys() & {"first_byte", "first_event"}:  # in hundredths of a second
        timeouts[name] = f"{int(timeouts[name].removesuffix('s')) * 10}ms"
    proxy = await start(routes, upstreams=upstreams)
    async with await connect(proxy.url) as client:
        fields = [*JSON, ("Authorization", "Bearer mine"), ("Cookie", "a=b")]
        body = b'{"model":"gpt-4o","stream":true}'
        await client.request("/v1/chat/completions", method="POST", headers=fields, body=body)
        answer = await client.read_response("POST")
    assert (answer.status, answer.body, answer.complete) == (200, STREAM, True)
    assert openai.requests[0].get("authorization") == b"Bearer sk-test"
    assert (vllm.requests[0].get("authorization"), vllm.requests[0].get("cookie")) == (None, None)
    said = {"model": "qwen3-32b", "stream": True, "stream_options": {"include_usage": True}}
    assert [json.loads(body) for body in bodies] == [said]


async def test_what_ollama_is_asked_while_it_starts_waits_for_it(start: Start, serve: Serve, dial: Connect) -> None:
    ollama = await serve(streaming(b'{"model":"m","done":true}\n', content_type="application/x-ndjson"))
    ollama.stop_listening()
    routes, upstreams = example("ollama", ollama=ollama.url)
    proxy = await start(routes, upstreams=upstreams)
    client = await dial(proxy.url)
    await client.request("/api/chat", method="POST", headers=JSON, body=b'{"model":"m"}')
    generate: Any = proxy.app.deployment.routes[0].handler
    await until(lambda: len(generate.__self__._plan.origin.line) == 1, "the request to wait")
    await ollama.start()
    answer = await client.read_response("POST")
    assert (answer.status, answer.body, answer.complete) == (200, b'{"model":"m","done":true}\n', True)
