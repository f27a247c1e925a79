"""The JavaScript client, run by Node against a running proxy."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

from tests.conftest import Serve
from tests.doubles.leaks import LeakCheck
from tests.doubles.parts import require
from tests.doubles.stack import RunningStack, running_stack
from tests.doubles.until import until
from tests.doubles.upstream import Conn, stream_head
from tests.integration.cutter import Cutter

MODULE = Path(__file__).parents[2] / "clients/js/streamproxy.js"
HEAD = f'import {{ openStream, resumeStream, StreamLost }} from "{MODULE.as_uri()}";\n'
HEAD += "const url = process.argv[2]; const say = (what) => console.log(JSON.stringify(what));\n"
AUTH = '{ method: "POST", body: "{}", headers: { Authorization: "Bearer a", "Content-Type": "application/json" } }'


def event(number: int) -> bytes:
    return b"event: e\r\ndata: %d\r\ndata: \xe2\x82\xac\r\n\r\n" % number


async def slowly(conn: Conn) -> None:
    """Five events, each when the test lets it, and the end."""
    await conn.read_request()
    await conn.send(stream_head())
    for number in range(1, 6):
        await conn.stall()
        conn.go.clear()
        await conn.send_chunk(event(number))
    await conn.send_chunk(b"")


class Node:
    """A script that runs; ``said`` are the values that it has printed."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.said: list[Any] = []

    async def hear(self) -> Any:
        """The next value that it prints."""
        assert self._process.stdout is not None
        line = await asyncio.wait_for(self._process.stdout.readline(), 30)
        assert line, (await self._end())[1]
        self.said.append(json.loads(line))
        return self.said[-1]

    async def ends(self) -> list[Any]:
        """Wait until it has ended well, and return what else it has printed."""
        out, error = await self._end()
        assert self._process.returncode == 0, error
        return [json.loads(line) for line in out.splitlines()]

    async def _end(self) -> tuple[str, str]:
        out, error = await asyncio.wait_for(self._process.communicate(), 30)
        return out.decode(), error.decode()


async def node(folder: Path, script: str, url: str) -> Node:
    file = folder / "script.mjs"
    file.write_text(HEAD + script)
    pipe = asyncio.subprocess.PIPE
    return Node(await asyncio.create_subprocess_exec(require("node"), str(file), url, stdout=pipe, stderr=pipe))


def proxy_of(upstream: str, leaks: LeakCheck, **resume: Any) -> Any:
    routes = [{"path": "/*", "upstream": upstream, "methods": ["POST"], "keepalive": "20ms", "resume": resume}]
    return running_stack(routes, client_kind="native", server_kind="uvicorn", leaks=leaks)


async def go(conn: Conn) -> None:
    await until(lambda: not conn.go.is_set(), "the upstream to wait")
    conn.go.set()


READ = f"""
const stream = await openStream(url, {AUTH}, {{ backoff: 10 }});
say(stream.response.status);
for await (const event of stream) say([event.type, event.data]);
say(stream.cursor.split("/")[1]);
"""


async def test_a_stream_survives_its_connection_and_is_asked_for_once(
    leaks: LeakCheck, serve: Serve, tmp_path: Path
) -> None:
    upstream = await serve(slowly)
    proxy: RunningStack
    async with proxy_of(upstream.url, leaks) as proxy, Cutter(proxy.url) as cutter:
        script = await node(tmp_path, READ, cutter.url)
        assert await script.hear() == 200
        conn = await upstream.connection()
        for number in range(1, 6):
            await go(conn)
            assert await script.hear() == ["e", f"{number}\n\u20ac"]
            if number in (1, 3):
                cutter.cut()
        assert await script.ends() == ["5"]
        assert cutter.connections >= 3
    assert len(upstream.requests) == 1


async def test_a_stream_that_is_gone_is_given_up(leaks: LeakCheck, serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(slowly)
    script = """
for (const [cursor, key] of [["A".repeat(24) + "/0", "a"]]) {
  try {
    await resumeStream(url, cursor, { headers: { Authorization: `Bearer ${key}` } });
  } catch (error) { say([error instanceof StreamLost, error.status, error.cursor === cursor]); }
}
"""
    async with proxy_of(upstream.url, leaks) as proxy:
        assert await (await node(tmp_path, script, proxy.url)).ends() == [[True, 404, True]]
    assert upstream.requests == []


async def test_an_answer_that_knows_no_cursors_is_not_taken_for_the_rest(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(slowly)
    script = """
const cursor = "A".repeat(24) + "/3";
const lost = await resumeStream(url, cursor).catch((error) => error);
say([lost instanceof StreamLost, lost.status, lost.cursor === cursor]);
"""
    assert await (await node(tmp_path, script, upstream.url)).ends() == [[True, 200, True]]


async def test_stop_ends_the_answer_at_the_upstream(leaks: LeakCheck, serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(slowly)
    script = f"""
const stream = await openStream(url, {AUTH});
for await (const event of stream) {{ say(event.data[0]); await stream.stop(); }}
say("stopped");
"""
    async with proxy_of(upstream.url, leaks) as proxy:
        running = await node(tmp_path, script, proxy.url)
        conn = await upstream.connection()
        await go(conn)
        assert await running.hear() == "1"
        await conn.wait_ended()
        assert await running.ends() == ["stopped"]
        await until(lambda: len(proxy.ended) == 2, "both to end")
        assert {exchange.end for exchange in proxy.ended} >= {"complete"}


async def test_a_cursor_that_was_kept_takes_the_stream_up_in_another_program(
    leaks: LeakCheck, serve: Serve, tmp_path: Path
) -> None:
    upstream = await serve(slowly)
    first = f"""
const stream = await openStream(url, {AUTH});
for await (const event of stream) {{ say([event.data[0], stream.cursor]); stream.leave(); }}
"""
    async with proxy_of(upstream.url, leaks) as proxy:
        running = await node(tmp_path, first, proxy.url)
        conn = await upstream.connection()
        await go(conn)
        data, cursor = await running.hear()
        assert data == "1"
        await running.ends()
        second = f"""
const init = {{ headers: {{ Authorization: "Bearer a" }} }};
const stream = await resumeStream(url, {json.dumps(cursor)}, init);
for await (const event of stream) say(event.data[0]);
"""
        running = await node(tmp_path, second, proxy.url)
        for number in "2345":
            await go(conn)
            assert await running.hear() == number
        assert await running.ends() == []
    assert len(upstream.requests) == 1


async def test_a_request_object_keeps_its_credentials(leaks: LeakCheck, serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(slowly)
    script = f"""
const noted = (input, init) => {{
  if (init.method === "DELETE") say(init.credentials);
  return fetch(input, init);
}};
const request = new Request(url, {{ ...{AUTH}, credentials: "include" }});
const stream = await openStream(request, {{}}, {{ fetch: noted }});
await stream.stop();
"""
    async with proxy_of(upstream.url, leaks) as proxy:
        assert await (await node(tmp_path, script, proxy.url)).ends() == ["include"]


async def test_fetch_is_called_as_browsers_want_it(leaks: LeakCheck, serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(slowly)
    script = f"""
const real = globalThis.fetch;
globalThis.fetch = function (...request) {{
  if (this !== undefined && this !== globalThis) throw new TypeError("Illegal invocation");
  return real(...request);
}};
const stream = await openStream(url, {AUTH});
say(stream.response.status);
await stream.stop();
"""
    async with proxy_of(upstream.url, leaks) as proxy:
        assert await (await node(tmp_path, script, proxy.url)).ends() == [200]
