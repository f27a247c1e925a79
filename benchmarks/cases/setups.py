"""The proxies of the cases, each in two configurations.

The first is the shortest that its documentation shows; the second has what the documentation says about streams,
retries and draining. ``/twice`` goes to an endpoint that refuses connections and one that serves, ``/dead`` to one that
refuses, and everything else to the upstream.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.package import ENVIRONMENT
from benchmarks.peers.base import Ask, Launch, Place, completion, program, program_version
from benchmarks.peers.gateways import litellm
from benchmarks.peers.ours import ours
from benchmarks.peers.proxies import envoy_binary, envoy_version


class Site(NamedTuple):
    """Where a proxy runs: ``dead`` is a port on which nothing listens, ``admin`` one for its metrics."""

    listen: int
    upstream: int
    dead: int
    admin: int
    directory: Path
    streaming: bool  # the second configuration

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)

    @property
    def place(self) -> Place:
        return Place(self.listen, self.upstream, self.directory, 2)


@dataclass(frozen=True)
class Setup:
    """A column of the table."""

    name: str
    label: str
    version: Callable[[], str | None]
    launch: Callable[[Site], Launch]
    metrics: str = ""  # path on the admin port, of a gateway on its own; none: it has none
    drain: int = signal.SIGTERM  # how its documentation drains it
    drain_path: str = ""  # on the admin port, instead of a signal
    gateway: bool = False  # serves chat completions alone
    ready: str = "/ready"

    def ask(self, scenario: str) -> Ask:
        """The request for a scenario: a chat completion, since all of them pass it on."""
        path = "/v1/chat/completions" if self.gateway else f"/{scenario}/v1/chat/completions"
        return Ask(path, completion(scenario))


def _streamproxy(site: Site) -> Launch:
    streaming: dict[str, Any] = {"keepalive": "2s", "retry": {"attempts": 3, "non_idempotent": True}}
    more = {"protocol": "openai", **streaming} if site.streaming else {}
    resumed = {"resume": {}, "methods": ["GET"], **streaming} if site.streaming else {}
    dead, live = (f"http://127.0.0.1:{port}" for port in (site.dead, site.upstream))
    config = {
        "server": {"listen": f"127.0.0.1:{site.listen}"},
        "admin": {"listen": f"127.0.0.1:{site.admin}"},
        "upstreams": {
            "two": {"endpoints": [dead, live], "balance": "round_robin"},
            "dead": {"endpoints": [dead]},
            "live": {"endpoints": [live]},
        },
        "routes": [
            {"path": "/long/*", "upstream": "live", **resumed},
            {"path": "/twice/*", "upstream": "two", **more},
            {"path": "/dead/*", "upstream": "dead", **more},
            {"path": "/*", "upstream": "live", **more},
        ],
    }
    path = site.write("streamproxy.yaml", json.dumps(config))
    return Launch([sys.executable, "-m", "streamproxy", "run", "-c", path], ENVIRONMENT["pure"])


def _nginx(site: Site) -> Launch:
    streaming = (
        'proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off; proxy_read_timeout 1h; '
        "proxy_next_upstream error timeout non_idempotent;"
    )
    temporary = " ".join(
        f"{name}_temp_path {site.directory}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    dead, live = (f"server 127.0.0.1:{port};" for port in (site.dead, site.upstream))
    text = f"""{"user root;" if os.geteuid() == 0 else ""} daemon off; worker_processes 1; pid {site.directory}/pid;
error_log stderr error; events {{ }}
http {{ access_log off; {temporary}
upstream live {{ {live} }} upstream dead {{ {dead} }} upstream two {{ {dead} {live} }}
server {{ listen 127.0.0.1:{site.listen}; {streaming if site.streaming else ""}
location / {{ proxy_pass http://live; }}
location /twice/ {{ proxy_pass http://two; }}
location /dead/ {{ proxy_pass http://dead; }} }} }}
"""
    command = [str(program("nginx")), "-e", "stderr", "-p", str(site.directory), "-c", site.write("nginx.conf", text)]
    return Launch(command, {})


def _haproxy(site: Site) -> Launch:
    plain = "timeout client 50s\n timeout server 50s"
    streaming = (
        "timeout client 1h\n timeout server 1h\n option http-no-delay\n option abortonclose\n option redispatch 1\n"
        " retry-on all-retryable-errors"
    )
    text = f"""defaults
 mode http
 timeout connect 5s
 {streaming if site.streaming else plain}
frontend site
 bind 127.0.0.1:{site.listen}
 use_backend two if {{ path_beg /twice/ }}
 use_backend dead if {{ path_beg /dead/ }}
 default_backend live
frontend stats
 bind 127.0.0.1:{site.admin}
 http-request use-service prometheus-exporter if {{ path /metrics }}
backend two
 server a 127.0.0.1:{site.dead}
 server b 127.0.0.1:{site.upstream}
backend dead
 server a 127.0.0.1:{site.dead}
backend live
 server b 127.0.0.1:{site.upstream}
"""
    return Launch([str(program("haproxy")), "-db", "-f", site.write("haproxy.cfg", text)], {})


def _caddy(site: Site) -> Launch:
    streaming = (
        "flush_interval -1\n buffer_requests\n lb_try_duration 3s\n lb_retry_match method POST"
        if site.streaming
        else ""
    )
    sites = {"/twice/*": (site.dead, site.upstream), "/dead/*": (site.dead,), "": (site.upstream,)}
    blocks = "".join(
        f"reverse_proxy {path} {' '.join(f'127.0.0.1:{port}' for port in ports)} {{\n lb_policy round_robin\n"
        f" {streaming}\n}}\n"
        for path, ports in sites.items()
    )
    text = f"""{{
 admin 127.0.0.1:{site.admin}
 auto_https off
 servers {{
  metrics
 }}
}}
http://:{site.listen} {{
bind 127.0.0.1
{blocks}}}
"""
    home = str(site.directory)
    env = {"HOME": home, "XDG_DATA_HOME": home, "XDG_CONFIG_HOME": home}
    path = site.write("Caddyfile", text)
    return Launch([str(program("caddy")), "run", "--config", path, "--adapter", "caddyfile"], env)


def _envoy(site: Site) -> Launch:
    def address(port: int) -> dict[str, Any]:
        return {"socket_address": {"address": "127.0.0.1", "port_value": port}}

    def cluster(name: str, *ports: int) -> dict[str, Any]:
        endpoints = [{"endpoint": {"address": address(port)}} for port in ports]
        load = {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]}
        return {"name": name, "type": "STATIC", "load_assignment": load}

    types = "type.googleapis.com/envoy.extensions"
    retry = {"retry_on": "connect-failure,reset", "num_retries": 3}
    streaming = {"timeout": "0s", "retry_policy": retry} if site.streaming else {}
    routes = [
        {"match": {"prefix": prefix}, "route": {"cluster": name, **streaming}}
        for prefix, name in (("/twice/", "two"), ("/dead/", "dead"), ("/", "live"))
    ]
    manager: dict[str, Any] = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "site",
        "http_filters": [
            {"name": "router", "typed_config": {"@type": f"{types}.filters.http.router.v3.Router"}},
        ],
        "route_config": {"virtual_hosts": [{"name": "site", "domains": ["*"], "routes": routes}]},
    }
    if site.streaming:
        manager["stream_idle_timeout"] = "0s"
    chain = {"filters": [{"name": "manager", "typed_config": manager}]}
    config = {
        "admin": {"address": address(site.admin)},
        "static_resources": {
            "listeners": [{"name": "site", "address": address(site.listen), "filter_chains": [chain]}],
            "clusters": [
                cluster("live", site.upstream),
                cluster("dead", site.dead),
                cluster("two", site.dead, site.upstream),
            ],
        },
    }
    path = site.write("envoy.json", json.dumps(config))
    options = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "--drain-time-s", "30"]
    return Launch([str(envoy_binary()), "-c", path, *options], {})


_MODELS = ("paced", "late", "silent", "steady", "left", "cut", "reset", "long")


def _litellm(site: Site) -> Launch:
    def model(name: str, port: int) -> dict[str, Any]:
        base = f"http://127.0.0.1:{port}/{name}/v1"
        return {"model_name": name, "litellm_params": {"model": f"openai/{name}", "api_base": base, "api_key": "none"}}

    live = [model(name, site.upstream) for name in _MODELS]
    others = [model("twice", site.dead), model("twice", site.upstream), model("dead", site.dead)]
    streaming = {"router_settings": {"num_retries": 3}, "litellm_settings": {"callbacks": ["prometheus"]}}
    settings = streaming if site.streaming else {}
    path = site.write("cases.yaml", json.dumps({"model_list": live + others, **settings}))
    base = litellm(_OUT).launch
    assert base is not None
    launch = base(site.place)
    return launch._replace(command=[path if word.endswith("litellm.yaml") else word for word in launch.command])


def _pushpin(site: Site) -> Launch:
    dead, live = (f"127.0.0.1:{port}" for port in (site.dead, site.upstream))
    routes = f"*,path_beg=/twice {dead} {live}\n*,path_beg=/dead {dead}\n* {live}\n"
    internal = Path("/usr/lib/pushpin/internal.conf").read_text().replace("/var/run/zurl", str(site.directory))
    zurl = Path("/etc/zurl.conf").read_text().replace("/var/run/zurl", str(site.directory))
    text = Path("/etc/pushpin/pushpin.conf").read_text()
    for old, new in (
        ("routesfile=routes", f"routesfile={site.write('routes', routes)}"),
        ("{libdir}/internal.conf", site.write("internal.conf", internal)),
        ("rundir=/var/run/pushpin", f"rundir={site.directory}"),
        ("logdir=/var/log/pushpin", f"logdir={site.directory}"),
        *((f"127.0.0.1:{port}", f"127.0.0.1:{site.admin + number}") for number, port in enumerate((5560, 5562, 5563))),
        ("push_in_http_port=5561", f"push_in_http_port={site.admin + 3}"),
    ):
        text = text.replace(old, new)
    path = site.write("pushpin.conf", text)
    command = ["pushpin", "--config", path, "--port", f"127.0.0.1:{site.listen}"]
    return Launch(command, {}, ["zurl", f"--config={site.write('zurl.conf', zurl)}"])


_OUT = Path(__file__).parent.parent / "out"

SETUPS: dict[str, Setup] = {
    setup.name: setup
    for setup in (
        Setup("streamproxy", "streamproxy", ours, _streamproxy, "/metrics"),
        Setup("nginx", "nginx", program_version("nginx", "-v"), _nginx, drain=signal.SIGQUIT),
        Setup("haproxy", "HAProxy", program_version("haproxy", "-v"), _haproxy, "/metrics", signal.SIGUSR1),
        Setup(
            "envoy",
            "Envoy",
            envoy_version,
            _envoy,
            "/stats/prometheus",
            drain_path="/drain_listeners?graceful",
        ),
        Setup("caddy", "Caddy", program_version("caddy", "version"), _caddy, "/metrics"),
        Setup(
            "litellm", "LiteLLM", litellm(_OUT).version, _litellm, "/metrics/", gateway=True, ready="/health/liveliness"
        ),
        Setup("pushpin", "Pushpin", lambda: _pushpin_version(), _pushpin),
    )
}


def _pushpin_version() -> str | None:
    return program_version("pushpin", "--version")() if shutil.which("pushpin") else None
