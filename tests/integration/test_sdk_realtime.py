"""openai's Realtime client over WebSocket through the proxy, against a scripted model."""

from __future__ import annotations

import json
from typing import Any

import httpx2
import openai
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as listen

from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration

WORDS = ["A", " voice", " of", " text", " é"]


def delta(number: int, word: str) -> dict[str, Any]:
    item = {"response_id": "r1", "item_id": "i1", "output_index": 0, "content_index": 0}
    return {"type": "response.output_text.delta", "event_id": f"e{number}", "delta": word, **item}


async def test_the_realtime_client_gets_every_event(run_proxy: RunProxy) -> None:
    asked: list[tuple[str, str | None]] = []
    heard: list[dict[str, Any]] = []

    async def model(connection: ServerConnection) -> None:
        assert connection.request is not None
        asked.append((connection.request.path, connection.request.headers.get("Authorization")))
        async for message in connection:
            heard.append(json.loads(message))
            if heard[-1]["type"] == "response.create":
                for number, word in enumerate(WORDS):
                    await connection.send(json.dumps(delta(number, word)))
                await connection.send(json.dumps({"type": "response.done", "event_id": "e", "response": {"id": "r1"}}))

    async with listen(model, "127.0.0.1", 0) as server:
        upstream = f"http://127.0.0.1:{next(iter(server.sockets)).getsockname()[1]}"
        proxy = await run_proxy(configuration(upstream))
        http = httpx2.AsyncClient(trust_env=False)
        async with openai.AsyncOpenAI(base_url=f"{proxy.url}/v1", api_key="key", http_client=http) as client:
            options: Any = {"proxy": None}
            async with client.realtime.connect(model="m", websocket_connection_options=options) as connection:
                await connection.session.update(session={"type": "realtime", "output_modalities": ["text"]})
                await connection.response.create()
                said = []
                async for event in connection:
                    if event.type == "response.done":
                        break
                    assert event.type == "response.output_text.delta"
                    said.append(event.delta)
    assert said == WORDS
    assert asked == [("/v1/realtime?model=m", "Bearer key")]
    assert [message["type"] for message in heard] == ["session.update", "response.create"]
