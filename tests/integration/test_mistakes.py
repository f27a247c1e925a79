"""Mistakes that only a request shows: each has a name, and the page of the troubles says what to change.

Those that a file shows are in ``tests/unit/config/test_mistakes.py``.
"""

from __future__ import annotations

from pathlib import Path

from tests.conftest import Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import fetch
from tests.doubles.ports import reserved_port
from tests.doubles.upstream import Conn, answering, response
from tests.integration.proxy import configuration, running
from tests.unit.project.markdown import DOCS, table


async def takes_no_tls(conn: Conn) -> None:
    """What servers of HTTP answer to bytes that are none."""
    await conn.read_exactly(5)
    await conn.send(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
    await conn.wait_ended()


async def speaks_ssh(conn: Conn) -> None:
    await conn.send(b"SSH-2.0-OpenSSH_9.2\r\n")
    await conn.wait_ended()


async def test_an_upstream_that_cannot_be_asked_has_a_row_that_says_what_to_change(
    serve: Serve, tmp_path: Path, certificate: Certificate
) -> None:
    plain = await serve(takes_no_tls)
    other = await serve(speaks_ssh)
    secure = await serve(answering(response(b"ok")), tls=certificate.server_context())
    rows = table(DOCS / "troubleshooting.md", "symptom")
    with reserved_port() as free:
        mistakes = {
            "/name": ("http://streamproxy.invalid:8000", "dns_error", "getent hosts NAME"),
            "/nobody": (f"http://127.0.0.1:{free}", "connection_refused", "/readyz"),
            "/plain": (plain.url.replace("http:", "https:"), "tls_protocol_error", "`http://` in the endpoint"),
            "/tls": (secure.url.replace("https:", "http:"), "connection_terminated", "`https://` in the endpoint"),
            "/ssh": (other.url, "http_protocol_error", "port of the endpoint"),
            "/unknown": (secure.url, "tls_certificate_error", "set `ca` for a private CA"),
        }
        config = configuration([{"path": path, "upstream": url} for path, (url, _, _) in mistakes.items()])
        async with running(config, tmp_path) as proxy:
            for path, (_, error, remedy) in mistakes.items():
                answer = await fetch(proxy.url + path)
                assert answer.get("proxy-status") == f"streamproxy; error={error}".encode(), path
                assert f'"error":"{error}"' in (await proxy.process.line(f'"path":"{path}".*'))[0]
                (row,) = [row for row in rows if f"`{error}`" in row[0] and answer.status == int(row[0][:3])]
                assert remedy in row[2]
