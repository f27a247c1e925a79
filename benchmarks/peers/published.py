"""Proxies that hand what is published to many clients, each with one channel.

``publish`` of a peer returns a function that publishes a text there, as the proxy's documentation says. nchan is a
module of nginx (Debian: libnginx-mod-nchan); ``BENCH_NCHAN`` names its file if it is elsewhere.
"""

from __future__ import annotations

import http.client
import json
import os
from pathlib import Path

import redis

from benchmarks.peers.base import EVENTS, Ask, Launch, Peer, Place, Publish, program, program_version
from benchmarks.peers.ours import streamproxy, with_redis
from benchmarks.peers.proxies import open_files

_CHANNEL = "test"  # the one that Pushpin's own test handler holds


def _publish_redis(place: Place) -> Publish:
    server = redis.Redis(port=place.beside)
    return lambda text: server.publish(_CHANNEL, text)


# nchan: https://nchan.io, "Configuration directives"

_NCHAN = """\
load_module {module};
{user}daemon off;
worker_processes 1;
worker_rlimit_nofile {files};
pid {directory}/nginx.pid;
error_log stderr error;
events {{ worker_connections 20000; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    server {{
        listen 127.0.0.1:{listen} backlog=4096;
        keepalive_requests 100000000;
        location = /stream {{
            nchan_subscriber eventsource;
            nchan_channel_id test;
            nchan_subscriber_first_message newest;
        }}
        location = /pub {{ nchan_publisher; nchan_channel_id test; nchan_message_buffer_length 10; }}
        location = /json {{ return 200 "{{}}"; }}
    }}
}}
"""


def _nchan_module() -> Path | None:
    """The module's file; None where it is not installed."""
    path = Path(os.environ.get("BENCH_NCHAN", "/usr/lib/nginx/modules/ngx_nchan_module.so"))
    return path if path.exists() and program("nginx") else None


def _nchan(place: Place) -> Launch:
    text = _NCHAN.format(
        module=_nchan_module(),
        user="user root;\n" if os.geteuid() == 0 else "",
        files=open_files(),
        directory=place.directory,
        listen=place.listen,
    )
    path = place.write("nginx.conf", text)
    return Launch([str(program("nginx")), "-e", "stderr", "-p", str(place.directory), "-c", path], {})


def _nchan_version() -> str | None:
    return program_version("nginx", "-v")() if _nchan_module() else None


def _publish_nchan(place: Place) -> Publish:
    connection = http.client.HTTPConnection("127.0.0.1", place.listen)

    def publish(text: str) -> None:
        connection.request("POST", "/pub", text, {"Content-Type": "text/plain"})
        connection.getresponse().read()

    return publish


# Pushpin: https://pushpin.org/docs/configuration, and "HTTP streaming". The route ``test`` needs no backend.

_PUSHPIN = """\
[global]
include={libdir}/internal.conf
rundir={directory}/run
ipc_prefix=bench-
port_offset=0
[runner]
services=condure,pushpin-proxy,pushpin-handler
http_port=127.0.0.1:{listen}
logdir={directory}
log_level=0
client_maxconn=20000
[proxy]
routesfile={directory}/routes
debug=false
sig_key=
[handler]
push_in_http_addr=127.0.0.1
push_in_http_port={beside}
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
command_spec=
message_rate=10000000
message_hwm=10000000
"""


def _pushpin(place: Place) -> Launch:
    (place.directory / "run").mkdir(exist_ok=True)
    place.write("routes", "* test\n")
    text = _PUSHPIN.format(libdir="{libdir}", directory=place.directory, listen=place.listen, beside=place.beside)
    return Launch([str(program("pushpin")), f"--config={place.write('pushpin.conf', text)}"], {})


def _publish_pushpin(place: Place) -> Publish:
    connection = http.client.HTTPConnection("127.0.0.1", place.beside)

    def publish(text: str) -> None:
        formats = {"http-stream": {"content": f"data: {text}\n\n"}}
        connection.request("POST", "/publish/", json.dumps({"items": [{"channel": _CHANNEL, "formats": formats}]}))
        connection.getresponse().read()

    return publish


def _ask(path: str, place: Place) -> Ask:
    return Ask("/stream", EVENTS)


EVENTS_OF_REDIS = {"redis": {"url": "redis://{beside}/0", "channel": _CHANNEL}}
_LOADS = frozenset({"published"})

PUBLISHED = (
    Peer(
        "streamproxy-events",
        "streamproxy, events from Redis",
        with_redis,
        streamproxy(upstream=EVENTS_OF_REDIS),
        loads=_LOADS,
        streams=1000,
        publish=_publish_redis,
    ),
    Peer(
        "nchan", "nchan in nginx", _nchan_version, _nchan, ask=_ask, loads=_LOADS, streams=1000, publish=_publish_nchan
    ),
    Peer(
        "pushpin",
        "Pushpin",
        program_version("pushpin", "--version"),
        _pushpin,
        ask=_ask,
        loads=_LOADS,
        streams=1000,
        ready="/",
        publish=_publish_pushpin,
    ),
)
