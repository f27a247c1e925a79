"""The other proxies, each as one hop to a port, with its defaults wherever they matter here."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.doubles.client import accepts
from tests.doubles.parts import find
from tests.doubles.until import until
from tests.integration.nginx import nginx
from tests.integration.process import Process, reserved_port
from tests.integration.proxy import configuration, running

_HAPROXY = """\
defaults
    mode http
    timeout connect 2s
    timeout client 5s
    timeout server 5s
frontend f
    bind 127.0.0.1:{port}
    default_backend b
backend b
    http-reuse always
    server s 127.0.0.1:{upstream}
"""
_CADDY = """\
{{
    admin off
    auto_https off
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{upstream}
}}
"""
_ENVOY = """\
static_resources:
  listeners:
  - address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: f
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts: [{{name: all, domains: ["*"], routes: [{{match: {{prefix: /}}, route: {{cluster: b}}}}]}}]
  clusters:
  - name: b
    load_assignment:
      cluster_name: b
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""


class Peer(NamedTuple):
    """``program`` is the path of its program or None; ``start`` runs it in a folder, with an upstream's port."""

    program: str | None
    start: Callable[[int, Path], object]


@asynccontextmanager
async def _ours(upstream: int, folder: Path) -> AsyncIterator[int]:
    async with running(configuration(f"http://127.0.0.1:{upstream}", log={"access": "off"}), folder) as proxy:
        yield int(proxy.url.rpartition(":")[2])
        assert "Traceback" not in proxy.process.output, proxy.process.output[-3000:]


@asynccontextmanager
async def _nginx(upstream: int, folder: Path) -> AsyncIterator[int]:
    directives = (
        f"proxy_pass http://127.0.0.1:{upstream};",
        "proxy_http_version 1.1;",
        "proxy_set_header Host $http_host;",
        'proxy_set_header Connection "";',
    )
    async with nginx(folder, f"location / {{ {' '.join(directives)} }}") as front:
        yield int(front.url.rpartition(":")[2])


async def _until_accepts(port: int, process: Process) -> None:
    async def listens() -> bool:
        assert process.child.poll() is None, process.output
        return await accepts(f"http://127.0.0.1:{port}")

    await until(listens, f"{process.name} to listen")


def _program(template: str, name: str, command: Callable[[str, Path], list[str]]) -> Callable[[int, Path], object]:
    @asynccontextmanager
    async def start(upstream: int, folder: Path) -> AsyncIterator[int]:
        program = where(name)
        assert program is not None
        with reserved_port() as port:
            file = folder / f"{name}.conf"
            file.write_text(template.format(port=port, upstream=upstream))
            with Process([program, *command(program, file)], env={"HOME": str(folder)}) as process:
                await _until_accepts(port, process)
                yield port

    return start


def where(name: str) -> str | None:
    """The path of a program; Envoy is installed beside Python."""
    beside = Path(sys.executable).with_name(name)
    return str(beside) if beside.exists() else find(name)


def peers() -> dict[str, Peer]:
    """All of them, by name; ours is ``streamproxy``."""
    haproxy = _program(_HAPROXY, "haproxy", lambda program, file: ["-db", "-f", str(file)])
    caddy = _program(_CADDY, "caddy", lambda program, file: ["run", "--adapter", "caddyfile", "--config", str(file)])
    envoy = _program(
        _ENVOY, "envoy",
        lambda program, file: [
            "--config-yaml", file.read_text(), "--use-dynamic-base-id", "--concurrency", "1", "-l", "error"
        ],
    )  # fmt: skip
    return {
        "streamproxy": Peer(sys.executable, _ours),
        "nginx": Peer(find("nginx"), _nginx),
        "haproxy": Peer(where("haproxy"), haproxy),
        "caddy": Peer(where("caddy"), caddy),
        "envoy": Peer(where("envoy"), envoy),
    }
