"""The examples of deploy/ that run beside the proxy: nginx and Envoy in front, and the pod's preStop."""

from __future__ import annotations

import os
import re
import ssl
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import yaml

from tests.conftest import Connect, Serve
from tests.doubles.certificates import Certificate
from tests.doubles.client import RawClient, connect, fetch
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, stream_head
from tests.integration.conftest import RunProxy
from tests.integration.process import ROOT, Process
from tests.integration.proxy import configuration

DEPLOY = ROOT / "deploy"
WAIT = "print('a stream runs', flush=True); time.sleep(0.05)"
EVENTS = [b"data: %d\n\n" % number for number in range(1, 4)]


async def one_event_at_a_time(conn: Conn) -> None:
    """Send each event when the test says that the client has the one before."""
    await conn.read_request()
    await conn.send(stream_head())
    for event in EVENTS:
        await conn.send_chunk(event)
        await conn.stall()
        conn.go.clear()
    await conn.send_chunk(b"")


async def passes_events_at_once(client: RawClient, upstream: Upstream) -> None:
    """Ask for a stream whose upstream sends an event only when the one before has come."""
    fields = [("Accept", "text/event-stream"), ("X-Forwarded-For", "203.0.113.9")]
    await client.request("/a%2Fb/?x=", headers=fields)
    assert (await client.read_head()).status == 200
    for event in EVENTS:
        assert await client.read_body_until(b"\n\n") == event
        (await upstream.connection()).go.set()
    assert (await client.read_rest()).complete
    assert upstream.requests[0].target == b"/a%2Fb/?x="


def nginx_configuration(folder: Path, port: int, proxy: str, certificate: Certificate) -> Path:
    """The example inside a main file, with the test's own ports and certificate."""
    example = (DEPLOY / "nginx/streamproxy.conf").read_text()
    for old, new in {
        "server 127.0.0.1:8080;": f"server {proxy.removeprefix('http://')};",
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/nginx/tls/api.example.pem": str(certificate.cert),
        "/etc/nginx/tls/api.example.key": str(certificate.key),
    }.items():
        assert old in example
        example = example.replace(old, new)
    (folder / "streamproxy.conf").write_text(example)
    user = "user root;" if os.geteuid() == 0 else ""  # the worker has to enter the test's folder
    temporary = "".join(f"{kind}_temp_path {folder}/{kind};" for kind in ("proxy", "fastcgi", "uwsgi", "scgi"))
    file = folder / "nginx.conf"
    file.write_text(
        f"daemon off; pid {folder}/pid; error_log stderr warn; {user} events {{}}\n"
        f"http {{ access_log off; client_body_temp_path {folder}/body; {temporary} include streamproxy.conf; }}\n"
    )
    return file


async def test_the_nginx_example_passes_events_on_at_once(
    run_proxy: RunProxy, serve: Serve, certificate: Certificate, tmp_path: Path
) -> None:
    upstream = await serve(one_event_at_a_time)
    proxy = await run_proxy(configuration(upstream.url, server={"trusted_proxies": ["127.0.0.1/32"]}))
    program = require("nginx")
    with reserved_port() as port:
        file = nginx_configuration(tmp_path, port, proxy.url, certificate)
        checked = subprocess.run(
            [program, "-t", "-p", str(tmp_path), "-c", str(file), "-e", "stderr"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert checked.returncode == 0, checked.stderr
        assert "[warn]" not in checked.stderr
        with Process([program, "-p", str(tmp_path), "-c", str(file), "-e", "stderr"]) as process:
            async with await until_it_listens(port, process, certificate.client_context()) as client:
                await passes_events_at_once(client, upstream)
            assert await process.stop() == 0, process.output
    assert upstream.requests[0].get("x-forwarded-proto") == b"https"
    assert upstream.requests[0].get("x-forwarded-for") == b"203.0.113.9, 127.0.0.1, 127.0.0.1"


async def until_it_listens(port: int, process: Process, tls: ssl.SSLContext) -> RawClient:
    async def connected() -> RawClient | None:
        assert process.child.poll() is None, process.output
        with suppress(ConnectionRefusedError):
            return await connect(f"https://127.0.0.1:{port}", tls=tls)
        return None

    client = await until(connected, "nginx to listen")
    assert client is not None
    return client


def envoy() -> str:
    """The program's path. Without it the test fails in CI, and is skipped elsewhere."""
    beside = Path(sys.executable).with_name("envoy")  # where the test extra installs it
    return str(beside) if beside.exists() else require("envoy")


def test_envoy_takes_the_example_as_it_is() -> None:
    command = [envoy(), "--mode", "validate", "-c", str(DEPLOY / "envoy/envoy.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr.lower()


def ports_of_the_test(config: str, url: str, admin: str) -> str:
    """Envoy's example with free ports of its own, in front of a proxy at these addresses."""
    document = yaml.safe_load(config)
    document["admin"]["address"]["socket_address"]["port_value"] = 0
    resources = document["static_resources"]
    resources["listeners"][0]["address"]["socket_address"] = {"address": "127.0.0.1", "port_value": 0}
    endpoint = resources["clusters"][0]["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]
    endpoint["address"]["socket_address"]["port_value"] = int(url.rpartition(":")[2])
    endpoint["health_check_config"]["port_value"] = int(admin.rpartition(":")[2])
    return yaml.safe_dump(document)


async def test_the_envoy_example_passes_events_on_at_once(
    run_proxy: RunProxy, serve: Serve, dial: Connect, tmp_path: Path
) -> None:
    upstream = await serve(one_event_at_a_time)
    proxy = await run_proxy(configuration(upstream.url))
    file, address = tmp_path / "envoy.yaml", tmp_path / "admin"
    file.write_text(ports_of_the_test((DEPLOY / "envoy/envoy.yaml").read_text(), proxy.url, proxy.admin))
    command = [envoy(), "-c", str(file), "--admin-address-path", str(address), "--concurrency", "1"]
    with Process([*command, "--disable-hot-restart", "-l", "warn"]) as process:
        await passes_events_at_once(await dial(await front_of(process, address)), upstream)
        await process.stop()


async def front_of(process: Process, address: Path) -> str:
    """The URL at which Envoy listens, once it does: it waits for its first health check."""

    async def live() -> str:
        assert process.child.poll() is None, process.output
        if address.exists() and (admin := address.read_text().strip()):
            listeners = (await fetch(f"http://{admin}/listeners")).body.decode()
            state = (await fetch(f"http://{admin}/server_info")).body.decode()
            found = re.search(r"front::(127\.0\.0\.1:\d+)", listeners)
            if found and '"state": "LIVE"' in state:
                # Envoy would send to a single endpoint that it believes to be ill, too.
                assert "health_flags::healthy" in (await fetch(f"http://{admin}/clusters")).body.decode()
                return f"http://{found[1]}"
        return ""

    return await until(live, "Envoy to listen")


def pre_stop(admin: str) -> list[str]:
    """The command of the sidecar manifest's preStop, asking another admin listener and without its first wait."""
    documents = yaml.safe_load_all((DEPLOY / "kubernetes/sidecar.yaml").read_text())
    (pod,) = [document["spec"]["template"]["spec"] for document in documents if document["kind"] == "Deployment"]
    _, option, script = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    for old, new in {"http://127.0.0.1:9090": admin, "sleep(5)": "sleep(0)", "time.sleep(1)": WAIT}.items():
        assert old in script
        script = script.replace(old, new)
    return [sys.executable, option, script]


async def test_the_pod_s_server_stays_until_its_last_stream_has_ended(
    run_proxy: RunProxy, serve: Serve, dial: Connect
) -> None:
    upstream = await serve(one_event_at_a_time)
    proxy = await run_proxy(configuration(upstream.url))
    client = await dial(proxy.url)
    await client.request("/events")
    await client.read_head()
    with Process(pre_stop(proxy.admin)) as hook:
        await hook.line("a stream runs")
        for event in EVENTS:
            assert await client.read_body_until(b"\n\n") == event
            assert hook.child.poll() is None
            (await upstream.connection()).go.set()
        assert (await client.read_rest()).complete
        assert await hook.exited() == 0, hook.output
