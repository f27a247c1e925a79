"""``streamproxy demo`` as a user meets it: the commands that it prints are taken from its output, and work."""

from __future__ import annotations

import asyncio
import re
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import AsyncIterator
from typing import NamedTuple

import pytest

from tests.doubles.parts import require

ANY_PORT = "127.0.0.1:0"
TIMED_OUT = 28  # curl: the operation timed out
TRANSFER_CLOSED = 18  # curl: the transfer closed with outstanding read data remaining


class Outcome(NamedTuple):
    status: int
    output: bytes


class Demo(NamedTuple):
    process: asyncio.subprocess.Process
    commands: list[str]

    def command(self, pattern: str) -> str:
        """The only printed command in which a pattern is found."""
        (command,) = [command for command in self.commands if re.search(pattern, command)]
        return command


@pytest.fixture
async def demo() -> AsyncIterator[Demo]:
    """The program, once it has said that both of its listeners accept."""
    require("curl")
    arguments = ("-m", "streamproxy", "demo", "--listen", ANY_PORT, "--admin", ANY_PORT)
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=PIPE, stderr=DEVNULL)
    try:
        assert process.stdout is not None
        lines = []
        async for line in process.stdout:
            lines.append(line.decode())
            if line.startswith(b"admin on "):
                break
        yield Demo(process, [line.strip() for line in lines if line.startswith("    ")])
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def run(command: str) -> Outcome:
    """Run a printed command; curl is only kept from showing its progress and from using a proxy of the machine's."""
    quiet = command.replace("curl ", "curl --silent --noproxy '*' ")
    process = await asyncio.create_subprocess_shell(quiet, stdout=PIPE)
    output, _ = await process.communicate()
    assert process.returncode is not None
    return Outcome(process.returncode, output)


async def test_the_commands_that_are_printed_work(demo: Demo) -> None:
    async def output(pattern: str) -> bytes:
        outcome = await run(demo.command(pattern))
        assert outcome.status == 0, pattern
        return outcome.output

    streams = (r':\d+/v1/chat.*"demo-1", "stream"', '"max_tokens": 7', "/v1/messages", "count=3", "/ndjson")
    chat, whole, message, clock, lines = await asyncio.gather(*map(output, streams))
    assert chat.endswith(b"data: [DONE]\n\n")
    assert b'"finish_reason":"length"' in whole
    assert message.endswith(b'data: {"type":"message_stop"}\n\n')
    assert clock.startswith(b"retry: 1000\nid: 42\n")
    assert lines.count(b"\n") == 10
    assert b'"bytes":10000000' in await output("/upload")
    assert await output("/download") == b""
    assert await output("/streams") == b"[]\n"
    assert b'streamproxy_response_bytes_total{route="download",upstream="demo"} 1e+09' in await output("/metrics$")


async def test_a_late_first_token_is_preceded_by_comments(demo: Demo) -> None:
    status, body = await run(demo.command("/slow").replace("delay=7", "delay=3"))
    assert status == 0
    assert body.startswith(b': keepalive\n\ndata: {"token":"A "}\n\n')
    assert body.count(b": keepalive") == 1


async def test_the_further_apis_and_models_work_as_printed(demo: Demo) -> None:
    async def output(pattern: str) -> bytes:
        outcome = await run(demo.command(pattern))
        assert outcome.status == 0, pattern
        return outcome.output

    ends = {
        "/v1/responses": b'"status":"completed"',
        "/v1/completions": b"data: [DONE]\n\n",
        "streamGenerateContent": b'"finishReason":"STOP"',
        "/api/chat": b'"done":true',
        "/api/generate": b'"done":true',
        r":\d+/v1/chat.*gpt-4o": b'"model":"demo-2"',
        "demo-fails": b'data: {"error":{',
    }
    for end, text in zip(ends.values(), await asyncio.gather(*map(output, ends)), strict=True):
        assert end in text
    metrics = await output("/metrics$")
    tokens = await output("token_usage")
    for model in (b"demo-1", b"gpt-4o"):
        assert re.search(rb'_token_usage_sum\{.*request_model="%b",gen_ai_token_type="output"\} [1-9]' % model, tokens)
        assert re.search(rb'_first_chunk_seconds_sum\{.*request_model="%b"\} 0\.' % model, tokens)
    assert b'streamproxy_error_events_total{route="llm",upstream="demo"' in metrics


async def test_a_stream_is_taken_up_again_where_it_was_left(demo: Demo) -> None:
    first = await run(demo.command("/kept/.* -d"))
    cursors = re.findall(rb"^id: (.+)$", first.output, re.MULTILINE)
    command = demo.command("/kept/.*last-event-id").replace("$ID", cursors[4].decode())
    again = await run(command)
    assert first.output.endswith(b"\n\n" + again.output)
    assert again.output.count(b"data: ") == len(cursors) - 5


async def test_a_mute_engine_is_given_up_for_another_and_then_answered_with_504(demo: Demo) -> None:
    status, answer = await run(demo.command("/mute"))
    assert status == 0
    assert answer.startswith(b"HTTP/1.1 504 ")


async def test_a_websocket_is_switched_to(demo: Demo) -> None:
    status, answer = await run(demo.command("/ws"))
    assert status == TIMED_OUT
    assert answer.startswith(b"HTTP/1.1 101 ")
    assert b"sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in answer


async def test_a_stream_that_dies_looks_dead(demo: Demo) -> None:
    plain, told = [await run(demo.command(path)) for path in (r"\d/broken", "/told/broken")]
    assert (plain.status, told.status) == (TRANSFER_CLOSED, TRANSFER_CLOSED)
    assert plain.output.count(b"data: ") == 5
    assert told.output.startswith(plain.output + b"event: error\ndata: ")


async def test_the_clock_runs_until_its_client_leaves(demo: Demo) -> None:
    process = await asyncio.create_subprocess_shell("exec " + demo.command("/events$"), stdout=PIPE, stderr=DEVNULL)
    assert process.stdout is not None
    assert await process.stdout.readuntil(b"\n\n") != await process.stdout.readuntil(b"\n\n")
    process.kill()
    await process.communicate()
    demo.process.send_signal(signal.SIGTERM)
    assert await demo.process.wait() == 0
