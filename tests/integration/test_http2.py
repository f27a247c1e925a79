"""HTTP/2 with real peers: curl, h2load, Node and httpx2, in clear text and over TLS."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import Callable

import httpx2
import pytest
from hyperframe.frame import Frame, RstStreamFrame

from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.connection import PeerEnded
from tests.doubles.http2 import connect_h2
from tests.doubles.until import until
from tests.doubles.upstream import Conn, answering, response, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration

NODE = """
const client = require("http2").connect(process.argv[1]);
const request = client.request({":path": "/", ":method": "POST"});
request.on("response", (head) => console.log(head[":status"], head["via"]));
request.setEncoding("utf8");
request.on("data", (chunk) => {
  console.log(JSON.stringify(chunk));
  if (chunk.includes("2")) { request.close(require("http2").constants.NGHTTP2_CANCEL); }
});
request.on("close", () => client.close());
request.end("hello");
"""


async def output(program: str, *arguments: str) -> str:
    """What a program says on its standard output; it has to end well."""
    process = await asyncio.create_subprocess_exec(
        program, *arguments, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, errors = await process.communicate()
    assert process.returncode == 0, (out, errors)
    return out.decode()


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_curl(
    scheme: str, run_proxy: RunProxy, serve: Serve, part: Callable[[str], str], certificate: Certificate
) -> None:
    upstream = await serve(answering(response(b"x" * 300_000, headers=[("X-A", "1")])))
    server = {} if scheme == "http" else {"tls": {"cert": str(certificate.cert), "key": str(certificate.key)}}
    proxy = await run_proxy(configuration(upstream.url, server=server))
    how = ["--http2-prior-knowledge"] if scheme == "http" else ["--http2", "--insecure"]
    said = await output(
        part("curl"), "-sS", *how, "-w", "%{http_version} %{response_code} %{size_download}", "-o", "/dev/null",
        "--data-binary", "u" * 100_000, f"{proxy.url}/a?b",
    )  # fmt: skip
    assert said == "2 200 300000"


async def test_a_client_that_offers_no_http2_gets_http1(
    run_proxy: RunProxy, serve: Serve, part: Callable[[str], str], certificate: Certificate
) -> None:
    upstream = await serve(answering(response(b"ok")))
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    proxy = await run_proxy(configuration(upstream.url, server={"tls": tls}))
    said = await output(part("curl"), "-sS", "--http1.1", "--insecure", "-w", " %{http_version}", proxy.url)
    assert said == "ok 1.1"


async def test_h2load(run_proxy: RunProxy, serve: Serve, part: Callable[[str], str]) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await run_proxy(configuration(upstream.url))
    said = await output(part("h2load"), "-n", "600", "-c", "3", "-m", "50", proxy.url)
    assert "600 succeeded, 0 failed, 0 errored, 0 timeout" in said
    assert "status codes: 600 2xx" in said


async def test_node_reads_a_stream_and_cancels_it(
    run_proxy: RunProxy, serve: Serve, part: Callable[[str], str]
) -> None:
    left = asyncio.Event()

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        for number in range(3):
            await conn.send_chunk(b"data: %d\n\n" % number)
            await asyncio.sleep(0.05)  # so that they come as chunks of their own
        await conn.wait_ended()
        left.set()

    upstream = await serve(script)
    proxy = await run_proxy(configuration(upstream.url))
    said = await output(part("node"), "-e", NODE, proxy.url)
    assert said.splitlines()[0].startswith("200 ")
    assert "data: 2" in said
    async with asyncio.timeout(5):
        await left.wait()


async def test_httpx2(run_proxy: RunProxy, serve: Serve) -> None:
    upstream = await serve(answering(response(b"x" * 100_000)))
    proxy = await run_proxy(configuration(upstream.url))
    async with httpx2.AsyncClient(http1=False, http2=True, trust_env=False) as client:
        answers = await asyncio.gather(*[client.post(proxy.url, content=b"u" * 100_000) for _ in range(20)])
    assert {(answer.http_version, answer.status_code, len(answer.content)) for answer in answers} == {
        ("HTTP/2", 200, 100_000)
    }


async def test_a_stop_lets_the_streams_of_a_connection_end(run_proxy: RunProxy, serve: Serve) -> None:
    end = asyncio.Event()

    async def script(conn: Conn) -> None:
        await conn.read_head()
        await conn.send(stream_head())
        await conn.send_chunk(b"data: 1\n\n")
        await end.wait()
        await conn.send_chunk(b"data: 2\n\n")
        await conn.send_chunk(b"")

    upstream = await serve(script)
    proxy = await run_proxy(configuration(upstream.url))
    client = await connect_h2(proxy.url)
    streams = [await client.request() for _ in range(3)]
    for stream in streams:
        found = await client.started(stream)
        await until(lambda found=found: b"1\n\n" in found.body)
    proxy.process.signal(signal.SIGTERM)
    assert (await client.goaway()).error_code == 0
    end.set()
    for stream in streams:
        answer = await client.response(stream)
        assert (bytes(answer.body), answer.complete) == (b"data: 1\n\ndata: 2\n\n", True)
    await client.aclose()


async def test_a_trusted_proxy_may_cancel_for_all_of_its_clients(run_proxy: RunProxy, serve: Serve) -> None:
    upstream = await serve(answering(response(b"ok")))
    for trusted in ([], ["127.0.0.0/8"]):
        proxy = await run_proxy(configuration(upstream.url, server={"trusted_proxies": trusted}))
        client = await connect_h2(proxy.url)
        for _ in range(15):
            frames: list[Frame] = []
            for _ in range(100):
                frames += client.head(client.fields())
                frames.append(RstStreamFrame(frames[-1].stream_id, error_code=8))
            client.send(*frames)
            if client.over:
                break
            with contextlib.suppress(PeerEnded):
                await client.pong()
        assert [one.error_code for one in client.goaways] == ([] if trusted else [0xB])
        await client.aclose()
