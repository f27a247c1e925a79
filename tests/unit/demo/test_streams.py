"""The demo's other endpoints, and what a client that leaves does to each of them."""

from __future__ import annotations

import asyncio
import hashlib
import json

import pytest

from streamproxy.demo import DemoUpstream
from streamproxy.errors import ExchangeAborted
from tests.unit.demo.asgi import Exchange, events, get, post

APP = DemoUpstream(token_delay=0)
CHAT = b'{"stream": true, "messages": [{"role": "user", "content": "hello"}]}'


async def test_the_clock_numbers_its_events_and_ends_after_count() -> None:
    exchange = await get(APP, "/events?interval=0&count=3")
    assert [event["id"] for event in events(exchange.body)] == ["1", "2", "3"]
    assert [json.loads(event["data"])["n"] for event in events(exchange.body)] == [1, 2, 3]
    assert exchange.body.startswith(b"retry: 1000\n")
    assert exchange.body.count(b"retry:") == 1


async def test_the_clock_goes_on_after_the_last_event_id() -> None:
    exchange = await get(APP, "/events?interval=0&count=2", last_event_id="41")
    assert [event["id"] for event in events(exchange.body)] == ["42", "43"]


@pytest.mark.parametrize("last", ["", "x", "-1", "1" * 40, "²"])
async def test_an_unknown_last_event_id_starts_the_clock_anew(last: str) -> None:
    exchange = await get(APP, "/events?interval=0&count=1", last_event_id=last)
    assert events(exchange.body)[0]["id"] == "1"


async def test_ndjson_is_one_document_a_line() -> None:
    exchange = await get(APP, "/ndjson?interval=0&count=3")
    assert exchange.fields[b"content-type"] == b"application/x-ndjson"
    assert [json.loads(line)["n"] for line in exchange.body.decode().splitlines()] == [1, 2, 3]


async def test_slow_sends_its_head_at_once_and_its_tokens_late() -> None:
    exchange = Exchange(APP, "GET", "/slow?delay=3600")
    await exchange.has_sent(2)
    assert exchange.status == 200
    assert exchange.body == b""
    exchange.leave()
    await exchange.finish()
    late = await get(APP, "/slow?delay=0")
    assert len(events(late.body)) == 10


async def test_broken_never_looks_finished() -> None:
    exchange = Exchange(APP, "GET", "/broken?after=2")
    with pytest.raises(ExchangeAborted):
        await exchange.finish()
    assert len(events(exchange.body)) == 2
    assert not exchange.complete


@pytest.mark.parametrize("size", [0, 1, 250, 251, 65_260, 65_261, 300_000])
async def test_a_download_is_known_from_its_positions(size: int) -> None:
    exchange = await get(APP, f"/download?bytes={size}")
    assert exchange.fields[b"content-length"] == b"%d" % size
    assert exchange.body == bytes(position % 251 for position in range(size))
    assert exchange.complete


async def test_a_head_request_gets_the_length_of_a_gigabyte_and_no_body() -> None:
    exchange = await Exchange(APP, "HEAD", "/download").finish()
    assert exchange.fields[b"content-length"] == b"1000000000"
    assert exchange.body == b""
    assert exchange.complete


async def test_an_upload_is_counted_and_hashed_as_it_comes() -> None:
    exchange = await post(APP, "/upload", b"abc", b"", b"def")
    assert exchange.json() == {"bytes": 6, "sha256": hashlib.sha256(b"abcdef").hexdigest()}


@pytest.mark.parametrize(
    "target", ["/events?interval=3600", "/ndjson?interval=0", "/slow?delay=3600", "/download?bytes=999999999999999"]
)
async def test_a_client_that_leaves_ends_the_stream(target: str) -> None:
    before = asyncio.all_tasks()
    exchange = Exchange(APP, "GET", target)
    await exchange.has_sent(2)
    exchange.leave()
    await exchange.finish()
    assert not exchange.complete
    assert asyncio.all_tasks() == before


async def test_a_client_that_leaves_ends_the_model() -> None:
    exchange = Exchange(DemoUpstream(token_delay=3600), "POST", "/v1/chat/completions", body=[CHAT])
    await exchange.has_sent(3)
    exchange.leave()
    await exchange.finish()
    assert len(events(exchange.body)) == 1


@pytest.mark.parametrize("target", ["/upload", "/v1/messages"])
async def test_a_client_that_leaves_inside_its_request_gets_no_answer(target: str) -> None:
    exchange = Exchange(APP, "POST", target, body=[b"half", b""])
    exchange.incoming.get_nowait()
    exchange.incoming.get_nowait()
    exchange.leave()
    await exchange.finish()
    assert exchange.sent == []


async def test_a_cancelled_stream_leaves_no_task_behind() -> None:
    before = asyncio.all_tasks()
    exchange = Exchange(APP, "GET", "/events?interval=3600")
    await exchange.has_sent(2)
    exchange.task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await exchange.finish()
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "target",
    [
        "/events?interval=x",
        "/events?interval=-1",
        "/events?interval=nan",
        "/ndjson?interval=inf",
        "/ndjson?count=-1",
        "/slow?delay=1e9",
        "/download?bytes=1e9",
        "/download?bytes=" + "9" * 16,
        "/broken?after=",
    ],
)
async def test_a_query_that_cannot_be_is_refused_with_its_name(target: str) -> None:
    exchange = await get(APP, target)
    assert exchange.status == 400
    assert target.partition("?")[2].partition("=")[0] in exchange.json()["error"]


async def test_an_unknown_path_gets_the_list_of_the_known() -> None:
    exchange = await get(APP, "/nothing")
    assert exchange.status == 404
    assert "POST /v1/messages" in exchange.json()["error"]


async def test_a_wrong_method_gets_the_right_ones() -> None:
    exchange = await get(APP, "/upload")
    assert exchange.status == 405
    assert exchange.fields[b"allow"] == b"POST"


async def test_a_websocket_is_refused() -> None:
    sent = []

    async def receive() -> dict[str, str]:
        return {"type": "websocket.connect"}

    async def send(message: object) -> None:
        sent.append(message)

    await APP({"type": "websocket", "path": "/events"}, receive, send)
    assert sent == [{"type": "websocket.close"}]
