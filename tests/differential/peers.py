"""The other proxies, each as one hop to a port, with its defaults wherever they matter here.

All but nginx take both HTTP/1.1 and HTTP/2 on one port in clear text, and speak HTTP/2 to an upstream if they are told.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from tests.doubles.client import accepts
from tests.doubles.parts import find
from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration.nginx import nginx
from tests.integration.process import Process
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
    server s 127.0.0.1:{upstream}{proto}
"""
_CADDY = """\
{{
    admin off
    auto_https off
    servers {{
        protocols h1 h2c
    }}
}}
http://:{port} {{
    bind 127.0.0.1
    reverse_proxy {scheme}://127.0.0.1:{upstream}
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
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{{options}: {{}}}}
    load_assignment:
      cluster_name: b
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {upstream}}}}}}}
"""


class Peer(NamedTuple):
    """``program`` is the path of its program or None.

    ``start`` runs it in a folder, with an upstream's port, and whether to speak HTTP/2 to that.
    """

    program: str | None
    start: Callable[[int, Path, bool], object]
    http2: bool = True


@asynccontextmanager
async def _ours(upstream: int, folder: Path, http2: bool) -> AsyncIterator[int]:
    up = {"endpoints": [f"http://127.0.0.1:{upstream}"], "http2": "on" if http2 else "off"}
    routes = [{"path": "/*", "upstream": "up"}]
    async with running(configuration(routes, upstreams={"up": up}, log={"access": "off"}), folder) as proxy:
        yield int(proxy.url.rpartition(":")[2])
        assert "Traceback" not in proxy.process.output, proxy.process.output[-3000:]


@asynccontextmanager
async def _nginx(upstream: int, folder: Path, http2: bool) -> AsyncIterator[int]:
    assert not http2
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


def _program(
    template: str, name: str, command: Callable[[str, Path], list[str]]
) -> Callable[[int, Path, bool], object]:
    @asynccontextmanager
    async def start(upstream: int, folder: Path, http2: bool) -> AsyncIterator[int]:
        program = where(name)
        assert program is not None
        with reserved_port() as port:
            file = folder / f"{name}.conf"
            words = {
                "proto": " proto h2" if http2 else "", "scheme": "h2c" if http2 else "http",
                "options": "http2_protocol_options" if http2 else "http_protocol_options",
            }  # fmt: skip
            file.write_text(template.format(port=port, upstream=upstream, **words))
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
        "nginx": Peer(find("nginx"), _nginx, http2=False),
        "haproxy": Peer(where("haproxy"), haproxy),
        "caddy": Peer(where("caddy"), caddy),
        "envoy": Peer(where("envoy"), envoy),
    }
