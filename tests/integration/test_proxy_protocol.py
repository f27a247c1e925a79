"""HAProxy in front, which passes on bytes and announces its clients by the PROXY protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import accepts, fetch
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import answering, response
from tests.integration.conftest import RunProxy
from tests.integration.process import Process
from tests.integration.proxy import configuration

FRONT = "127.0.0.2"  # from where HAProxy connects
CLIENT = "127.0.0.3"
ANNOUNCED = {"proxy_protocol": [f"{FRONT}/32"]}

HAPROXY = """\
defaults
    mode tcp
    timeout connect 20s
    timeout client 20s
    timeout server 20s
frontend clients
    bind 127.0.0.1:{port}
    default_backend proxy
backend proxy
    server one {address} source {front} {options}
"""


@asynccontextmanager
async def haproxy(folder: Path, url: str, options: str) -> AsyncIterator[str]:
    """Yields host and port of a HAProxy whose only server has these options."""
    with reserved_port() as port:
        file = folder / "haproxy.cfg"
        address = url.partition("://")[2]
        file.write_text(HAPROXY.format(port=port, address=address, front=FRONT, options=options))
        with Process([require("haproxy"), "-db", "-f", str(file)]) as process:

            async def listens() -> bool:
                assert process.child.poll() is None, process.output
                return await accepts(f"http://127.0.0.1:{port}")

            await until(listens, "HAProxy to listen")
            yield f"127.0.0.1:{port}"


async def curl(url: str, *options: str) -> str:
    """What curl says of a request from CLIENT: the HTTP version and the status."""
    command = [require("curl"), "-sS", "--insecure", "--interface", CLIENT, "-o", "/dev/null"]
    process = await asyncio.create_subprocess_exec(
        *command, "-w", "%{http_version} %{response_code}", *options, url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(60):
        output, _ = await process.communicate()
    return output.decode()


@pytest.mark.parametrize("header", ["send-proxy", "send-proxy-v2", "send-proxy-v2-ssl-cn proxy-v2-options unique-id"])
@pytest.mark.parametrize(
    ("scheme", "options", "version"),
    [
        ("http", ["--http1.1"], "1.1"),
        ("http", ["--http2-prior-knowledge"], "2"),
        ("https", ["--http1.1"], "1.1"),
        ("https", ["--http2"], "2"),
    ],
    ids=["http, 1.1", "http, 2", "https, 1.1", "https, 2"],
)
async def test_the_client_of_haproxy_is_the_one_that_counts(
    header: str,
    scheme: str,
    options: list[str],
    version: str,
    run_proxy: RunProxy,
    serve: Serve,
    certificate: Certificate,
    tmp_path: Path,
) -> None:
    upstream = await serve(answering(response(b"ok")))
    tls = {"tls": {"cert": str(certificate.cert), "key": str(certificate.key)}} if scheme == "https" else {}
    proxy = await run_proxy(configuration(upstream.url, server={**ANNOUNCED, **tls}))
    async with haproxy(tmp_path, proxy.url, header) as front:
        assert await curl(f"{scheme}://{front}/", *options, "--data-binary", "x" * 100_000) == f"{version} 200"
    sent = await upstream.request()
    assert sent.get("x-forwarded-for") == CLIENT.encode()
    await proxy.process.line(f'"client":"{CLIENT}"')


async def test_haproxys_own_health_checks_are_answered(run_proxy: RunProxy, serve: Serve, tmp_path: Path) -> None:
    """They announce themselves as LOCAL: the client is HAProxy."""
    upstream = await serve(answering(response(b"ok")))
    proxy = await run_proxy(configuration(upstream.url, server=ANNOUNCED))
    options = "send-proxy-v2 check check-send-proxy inter 100ms\n    option httpchk GET /health"
    async with haproxy(tmp_path, proxy.url, options):
        sent = await upstream.request()
        assert (sent.target, sent.get("x-forwarded-for")) == (b"/health", FRONT.encode())


async def test_a_front_that_announces_nobody_is_not_served_and_others_are(
    run_proxy: RunProxy, serve: Serve, tmp_path: Path
) -> None:
    upstream = await serve(answering(response(b"ok")))
    proxy = await run_proxy(configuration(upstream.url, server=ANNOUNCED))
    async with haproxy(tmp_path, proxy.url, "") as front:
        assert "0 000" in await curl(f"http://{front}/")
    assert (await fetch(proxy.url)).body == b"ok"
    assert len(upstream.requests) == 1
