"""Users' code in Python and Node: what it sees of a stream is its text, and the exception that ended it."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol, Self

import anthropic
import httpx2
import openai
import pytest

from tests.doubles.parts import missing, require
from tests.integration.browser import Browser

HERE = Path(__file__).parent
HI: list[Any] = [{"role": "user", "content": "hi"}]
Words = AsyncIterator[str]


class End(NamedTuple):
    """The exception that ended a stream: the name of its class, its status if it has one, and its message."""

    name: str = ""
    status: int | None = None
    message: str = ""


class Seen(NamedTuple):
    """What a user has seen so far: the text, and the end, which is None while the stream goes on."""

    text: str = ""
    end: End | None = None


class User(Protocol):
    """Somebody's program that reads a stream."""

    async def seen(self) -> Seen: ...

    async def stop(self) -> None:
        """Leave, as a program does when its user presses *Stop*."""


async def openai_words(url: str, model: str, most: int) -> Words:
    http = httpx2.AsyncClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, http_client=http) as client:
        stream = await client.chat.completions.create(model=model, messages=HI, stream=True, max_tokens=most)
        async for chunk in stream:
            if not chunk.choices:
                continue  # it has the usage
            said = chunk.choices[0].delta
            if said.content:
                yield said.content
            for call in said.tool_calls or []:
                assert call.function is not None
                yield (call.function.name or "") + (call.function.arguments or "")


async def responses_words(url: str, model: str, most: int) -> Words:
    http = httpx2.AsyncClient(trust_env=False)
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="key", max_retries=0, http_client=http) as client:
        stream = await client.responses.create(model=model, input="hi", stream=True, max_output_tokens=most)
        async for event in stream:
            if event.type == "response.output_text.delta":
                yield event.delta
            if event.type == "response.output_item.done" and event.item.type == "function_call":
                yield event.item.name + event.item.arguments
            if event.type == "response.failed" and event.response.error is not None:
                yield f"[{event.response.error.message}]"


async def anthropic_words(url: str, model: str, most: int) -> Words:
    http = httpx2.AsyncClient(trust_env=False)
    async with anthropic.AsyncAnthropic(base_url=url, api_key="key", max_retries=0, http_client=http) as client:
        async for event in await client.messages.create(model=model, max_tokens=most, messages=HI, stream=True):
            if event.type == "content_block_start" and event.content_block.type == "tool_use":
                yield event.content_block.name
            if event.type == "content_block_delta" and event.delta.type == "text_delta":
                yield event.delta.text
            if event.type == "content_block_delta" and event.delta.type == "input_json_delta":
                yield event.delta.partial_json


async def gemini_words(url: str, model: str, most: int) -> Words:
    genai = pytest.importorskip("google.genai", exc_type=ImportError)
    options = genai.types.HttpOptions(base_url=url, async_client_args={"trust_env": False})
    client = genai.Client(api_key="key", http_options=options)
    try:
        async for chunk in await client.aio.models.generate_content_stream(model=model, contents="hi"):
            for call in chunk.function_calls or []:
                yield call.name + json.dumps(call.args, separators=(",", ":"))
            if not chunk.function_calls and chunk.text:
                yield chunk.text
    finally:
        await client.aio.aclose()
        client.close()


async def ollama_words(url: str, model: str, most: int) -> Words:
    sdk = pytest.importorskip("ollama", exc_type=ImportError)
    client = sdk.AsyncClient(host=url, trust_env=False)
    try:
        async for piece in await client.chat(model=model, messages=HI, stream=True):
            for call in piece.message.tool_calls or []:
                yield call.function.name + json.dumps(dict(call.function.arguments), separators=(",", ":"))
            if piece.message.content:
                yield piece.message.content
    finally:
        await client._client.aclose()  # it has no public way


PYTHON: dict[str, Callable[[str, str, int], Words]] = {
    "openai": openai_words,
    "responses": responses_words,
    "anthropic": anthropic_words,
    "genai": gemini_words,
    "ollama": ollama_words,
}


class PythonUser:
    """A task that reads one stream; ``most`` tokens are asked for, where an API is asked for a number."""

    def __init__(self, sdk: str, url: str, model: str, most: int = 9) -> None:
        self._seen = Seen()
        self._task = asyncio.get_running_loop().create_task(self._run(PYTHON[sdk](url, model, most)))

    async def seen(self) -> Seen:
        return self._seen

    async def stop(self) -> None:
        self._task.cancel()

    async def _run(self, words: Words) -> None:
        try:
            async for word in words:
                self._seen = Seen(self._seen.text + word)
        except asyncio.CancelledError as error:
            end = End(type(error).__name__)
        except Exception as error:
            codes = (getattr(error, name, None) for name in ("status_code", "code"))
            status = next((code for code in codes if isinstance(code, int)), None)
            end = End(type(error).__name__, status, str(error))
        else:
            end = End()
        self._seen = Seen(self._seen.text, end)


class NodeUser:
    """One of the streams that the program in Node reads."""

    def __init__(self, program: NodeUsers, number: int) -> None:
        self.now = Seen()
        self._program = program
        self._number = number

    async def seen(self) -> Seen:
        return self.now

    async def stop(self) -> None:
        self._program.write({"stop": self._number})


class NodeUsers:
    """A program in Node that reads any number of streams at once; a thread reads what it says of them."""

    def __init__(self) -> None:
        if not (HERE / "node_modules").is_dir():
            missing("the SDKs of Node are missing: make sdks")
        self._users: dict[int, NodeUser] = {}
        command = [require("node"), str(HERE / "users.js")]
        self._child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, name="users in Node", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._child.terminate()
        self._child.wait()
        self._reader.join()
        for pipe in (self._child.stdin, self._child.stdout):
            assert pipe is not None
            pipe.close()

    def start(self, sdk: str, url: str, model: str) -> NodeUser:
        """A new user of this SDK."""
        number = len(self._users) + 1
        self._users[number] = user = NodeUser(self, number)
        self.write({"id": number, "sdk": sdk, "url": url, "model": model})
        return user

    def write(self, order: dict[str, Any]) -> None:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(order) + "\n")
        self._child.stdin.flush()

    def _read(self) -> None:
        assert self._child.stdout is not None
        for line in self._child.stdout:
            said = json.loads(line)
            user = self._users[said["id"]]
            user.now = _said(user.now, said)


def _said(seen: Seen, said: dict[str, Any]) -> Seen:
    return Seen(seen.text + said["text"]) if "text" in said else Seen(seen.text, End(**(said["end"] or {})))


WORDS = re.compile(r'"(?:content|name|arguments|message)": ?"((?:[^"\\]|\\.)+)"')


class CurlUser:
    """curl, whose user finds the words in what it prints."""

    def __init__(self, url: str, model: str) -> None:
        body = json.dumps({"model": model, "messages": HI, "stream": True})
        quiet = (require("curl"), "--disable", "--noproxy", "*", "--no-progress-meter", "--no-buffer", "--fail")
        command = [*quiet, "--json", body, f"{url}/v1/chat/completions"]
        self._child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._printed = ""
        self._end: End | None = None
        self._reader = threading.Thread(target=self._read, name="curl", daemon=True)
        self._reader.start()

    async def seen(self) -> Seen:
        return Seen("".join(json.loads(f'"{word}"') for word in WORDS.findall(self._printed)), self._end)

    async def stop(self) -> None:
        self._child.terminate()  # SIGINT may be ignored, as it is by what a shell runs in the background

    def _read(self) -> None:
        with self._child as child:
            assert child.stdout is not None
            assert child.stderr is not None
            for line in child.stdout:
                self._printed += line
            complaint = child.stderr.read()
        status = child.returncode
        self._end = End() if status == 0 else End(f"curl {status}", None, complaint)


class BrowserUser:
    """One of the streams that a page in Chromium reads."""

    def __init__(self, chromium: Browser, number: int) -> None:
        self._chromium = chromium
        self._number = number

    async def start(self, kind: str, url: str, model: str) -> None:
        """Read a stream with ``fetch`` or an ``EventSource``."""
        await self._chromium.evaluate(f"start(...{json.dumps([self._number, kind, url, model])})")

    async def seen(self) -> Seen:
        text, ended, end = await self._chromium.evaluate(f"look({self._number})")
        return Seen(text, End(**(end or {})) if ended else None)

    async def stop(self) -> None:
        await self._chromium.evaluate(f"stop({self._number})")
