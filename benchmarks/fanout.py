"""Proxies that hand one published message to many clients, for `benchmarks.keep`.

Each has one channel: clients read it with ``GET /sub``, and a message is published as its own documentation says.
nchan is a module of nginx, in Debian libnginx-mod-nchan; ``BENCH_NCHAN`` names its file where it is not installed.
Pushpin is in Debian as pushpin.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.base import Launch, Place, program
from benchmarks.peers.proxies import open_files

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
        location = /sub {{
            nchan_subscriber eventsource;
            nchan_channel_id bench;
            nchan_subscriber_first_message newest;
        }}
        location = /pub {{ nchan_publisher; nchan_channel_id bench; nchan_message_buffer_length 10; }}
        location = /json {{ return 200 "{{}}"; }}
    }}
}}
"""


def nchan_module() -> Path | None:
    """The module's file; None where it is not installed."""
    path = Path(os.environ.get("BENCH_NCHAN", "/usr/lib/nginx/modules/ngx_nchan_module.so"))
    return path if path.exists() and program("nginx") else None


def nchan(place: Place) -> Launch:
    text = _NCHAN.format(
        module=nchan_module(),
        user="user root;\n" if os.geteuid() == 0 else "",
        files=open_files(),
        directory=place.directory,
        listen=place.listen,
    )
    path = place.write("nginx.conf", text)
    return Launch([str(program("nginx")), "-e", "stderr", "-p", str(place.directory), "-c", path], {})


def publish_nchan(port: int) -> Callable[[str], None]:
    """What publishes a text over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port)

    def publish(text: str) -> None:
        connection.request("POST", "/pub", text, {"Content-Type": "text/plain"})
        connection.getresponse().read()

    return publish


# Pushpin: https://pushpin.org/docs/configuration, and "HTTP streaming"

_PUSHPIN = """\
[global]
include={{libdir}}/internal.conf
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
push_in_http_port=5561
push_in_http_max_headers_size=10000
push_in_http_max_body_size=1000000
command_spec=tcp://127.0.0.1:5563
message_rate=10000000
message_hwm=10000000
"""


def pushpin(place: Place) -> Launch:
    (place.directory / "run").mkdir(exist_ok=True)
    place.write("routes", f"* 127.0.0.1:{place.upstream}\n")
    path = place.write("pushpin.conf", _PUSHPIN.format(directory=place.directory, listen=place.listen))
    return Launch([str(program("pushpin")), f"--config={path}"], {})


def publish_pushpin(port: int) -> Callable[[str], None]:
    """What publishes a text over one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", 5561)

    def publish(text: str) -> None:
        formats = {"http-stream": {"content": f"data: {text}\n\n"}}
        connection.request("POST", "/publish/", json.dumps({"items": [{"channel": "bench", "formats": formats}]}))
        connection.getresponse().read()

    return publish
