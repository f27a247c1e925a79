"""An engine that speaks the APIs of OpenAI, Anthropic, Gemini and Ollama, and does what the model's name says.

``whole`` says a word, ``tools`` calls a tool, and ``long`` says a word and no more. ``failure`` says a word and then
its API's own failure. ``before`` resets the connection before the head. When the test sets ``go`` of its connection,
behind the word, ``after`` resets it and ``marker`` ends without the end marker. Until the test sets ``upstream.go``,
``slow`` has no head and ``mute`` a head and nothing more; ``late`` and ``silent`` reset the connection then.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from tests.doubles.upstream import Conn, response, stream_head

ARGUMENTS = '{"city":"Bern"}'
CALL = f"look{ARGUMENTS}"  # what a user's code makes of the tool's name and arguments


def sse(event: dict[str, Any]) -> bytes:
    name = f"event: {event['type']}\n" if "type" in event else ""
    return f"{name}data: {json.dumps(event)}\n\n".encode()


def line(event: dict[str, Any]) -> bytes:
    return json.dumps(event).encode() + b"\n"


def delta(finish: str | None = None, **content: Any) -> bytes:
    choice = {"index": 0, "delta": content, "finish_reason": finish}
    return sse({"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def part(content: dict[str, Any], **more: str) -> bytes:
    return sse({"candidates": [{"content": {"role": "model", "parts": [content]}, "index": 0, **more}]})


def tool_call(**function: str) -> dict[str, Any]:
    named = {"id": "t1", "type": "function"} if "name" in function else {}
    return {"index": 0, **named, "function": function}


def chat_line(done: bool = False, **message: Any) -> bytes:
    said = {"role": "assistant", "content": "", **message}
    return line({"model": "m", "created_at": "2026-01-01T00:00:00Z", "message": said, "done": done})


def block(index: int, kind: str, **more: Any) -> bytes:
    return sse({"type": f"content_block_{kind}", "index": index, **more})


def responded(kind: str, **more: Any) -> bytes:
    """An event of the Responses API."""
    return sse({"type": f"response.{kind}", "sequence_number": 0, **more})


MESSAGE = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "stop_reason": None}
STARTED = sse({"type": "message_start", "message": MESSAGE | {"usage": {"input_tokens": 1, "output_tokens": 1}}})
STOPPED = sse({"type": "message_stop"})
RESPONSE: dict[str, Any] = {
    "id": "r",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}
IN_ITEM = {"item_id": "i", "output_index": 0}
IN_CALL = {"item_id": "f", "output_index": 1}
SAYING = {"type": "message", "id": "i", "status": "in_progress", "role": "assistant", "content": []}
FUNCTION = {"type": "function_call", "id": "f", "call_id": "t1", "name": "look", "status": "in_progress"}


class Api(NamedTuple):
    """The media type of a stream, its prelude and its word, what ends it well, a failure, and a call of a tool."""

    media: str
    prelude: list[bytes]
    word: bytes
    end: list[bytes]
    failure: bytes
    tool: list[bytes]


# For the end of a request's path.
APIS: dict[str, Api] = {
    "/chat/completions": Api(
        "text/event-stream",
        [delta(role="assistant", content="")],
        delta(content="word"),
        [delta("stop"), b"data: [DONE]\n\n"],
        sse({"error": {"message": "no memory", "type": "server_error", "code": 500}}) + b"data: [DONE]\n\n",
        [
            delta(tool_calls=[tool_call(name="look", arguments="")]),
            delta(tool_calls=[tool_call(arguments=ARGUMENTS[:5])]),
            delta(tool_calls=[tool_call(arguments=ARGUMENTS[5:])]),
            delta("tool_calls"),
            b"data: [DONE]\n\n",
        ],
    ),
    "/responses": Api(
        "text/event-stream",
        [
            responded("created", response=RESPONSE | {"status": "in_progress"}),
            responded("output_item.added", output_index=0, item=SAYING),
        ],
        responded("output_text.delta", **IN_ITEM, content_index=0, delta="word", logprobs=[]),
        [responded("completed", response=RESPONSE | {"status": "completed"})],
        responded(
            "failed",
            response=RESPONSE | {"status": "failed", "error": {"code": "server_error", "message": "no memory"}},
        ),
        [
            responded("output_item.added", output_index=1, item=FUNCTION | {"arguments": ""}),
            responded("function_call_arguments.delta", **IN_CALL, delta=ARGUMENTS),
            responded("function_call_arguments.done", **IN_CALL, name="look", arguments=ARGUMENTS),
            responded("output_item.done", output_index=1, item=FUNCTION | {"arguments": ARGUMENTS}),
            responded("completed", response=RESPONSE | {"status": "completed"}),
        ],
    ),
    "/messages": Api(
        "text/event-stream",
        [STARTED],
        block(0, "start", content_block={"type": "text", "text": ""})
        + block(0, "delta", delta={"type": "text_delta", "text": "word"}),
        [block(0, "stop"), STOPPED],
        sse({"type": "error", "error": {"type": "overloaded_error", "message": "no memory"}}),
        [
            block(0, "start", content_block={"type": "tool_use", "id": "t1", "name": "look", "input": {}}),
            block(0, "delta", delta={"type": "input_json_delta", "partial_json": ARGUMENTS[:5]}),
            block(0, "delta", delta={"type": "input_json_delta", "partial_json": ARGUMENTS[5:]}),
            block(0, "stop"),
            sse({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 9}}),
            STOPPED,
        ],
    ),
    ":streamGenerateContent": Api(
        "text/event-stream",
        [],
        part({"text": "word"}),
        [part({"text": ""}, finishReason="STOP")],
        sse({"error": {"code": 500, "status": "INTERNAL", "message": "no memory"}}),
        [part({"functionCall": {"name": "look", "args": {"city": "Bern"}}}, finishReason="STOP")],
    ),
    "/api/chat": Api(
        "application/x-ndjson",
        [],
        chat_line(content="word"),
        [chat_line(done=True)],
        line({"error": "no memory"}),
        [chat_line(tool_calls=[{"function": {"name": "look", "arguments": {"city": "Bern"}}}]), chat_line(done=True)],
    ),
}
# A stream of no API, as a browser's EventSource asks for it.
APIS["/events"] = Api(
    "text/event-stream",
    [],
    b"data: word\n\n",
    [],
    b"event: error\ndata: no memory\n\n",
    [b"data: " + CALL.encode() + b"\n\n"],
)
# For a browser: a page that has users, by their numbers.
PAGES = {
    "/page.html": b"""<!doctype html><link rel="icon" href="data:,"><script type="module">
        import { chat, events, run } from "./fetch.js";
        const users = {};
        window.look = number => [users[number].text, "end" in users[number], users[number].end];
        window.stop = number => users[number].controller.abort();
        window.start = (number, kind, url, model) => {
            const user = users[number] = { text: "", controller: new AbortController() };
            const words = { fetch: chat, EventSource: events }[kind](url, model, user.controller.signal);
            run(words, said => { user.text += said.text ?? ""; if ("end" in said) user.end = said.end; });
        };
    </script>""",
    "/fetch.js": (Path(__file__).parent / "fetch.js").read_bytes(),
}
SCENES = ("whole", "tools", "late", "slow", "silent", "mute", "failure", "marker", "after", "before", "long")


async def engine(conn: Conn) -> None:
    """Does what the model's name says, one request after the other."""
    while conn.ended is None:
        await _answer(conn)


async def _answer(conn: Conn) -> None:
    head, body = await conn.read_request()
    target = head.target.decode()
    path = target.partition("?")[0]
    page = next((value for end, value in PAGES.items() if path.endswith(end)), None)
    if page is not None:
        kind = "text/javascript" if path.endswith(".js") else "text/html"
        await conn.send(response(page, headers=[("Content-Type", kind)]))
        return
    api = next(one for end, one in APIS.items() if path.endswith(end))
    found = re.search(rf"m-({'|'.join(SCENES)})", body.decode() + target)
    assert found is not None, (target, body)
    scene = found[1]
    if scene == "before":
        conn.reset()
        return
    if scene in ("slow", "late"):
        await conn.upstream.go.wait()
    if scene == "late":
        conn.reset()
        return
    await conn.send(stream_head(api.media))
    if scene in ("mute", "silent"):
        await conn.upstream.go.wait()
    if scene == "silent":
        conn.reset()
        return
    said = [*api.prelude, *(api.tool if scene == "tools" else [api.word])]
    for event in said:
        await conn.send_chunk(event)
    if scene == "long":
        await conn.wait_ended()
    if scene in ("after", "marker"):
        await conn.stall()
    if scene == "after":
        conn.reset()
        return
    for event in {"marker": [], "tools": [], "failure": [api.failure]}.get(scene, api.end):
        await conn.send_chunk(event)
    await conn.send_chunk(b"")
