"""The command `streamproxy health`: checks a running proxy, for health checks of containers.

It runs every few seconds, so it imports no other module of the proxy. It needs no shell and no other program.
"""

from __future__ import annotations

import http.client
import socket
import sys
from urllib.parse import urlsplit

import click


class UnixConnection(http.client.HTTPConnection):
    """A connection to the Unix socket ``path``."""

    def __init__(self, path: str, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def connection(admin: str, timeout: float) -> http.client.HTTPConnection:
    """Returns an unopened connection to host:port, http://host:port or unix:/path.sock. Raises ValueError."""
    bare = admin.removeprefix("http+")
    if bare.startswith("unix:/"):
        return UnixConnection(bare.removeprefix("unix:"), timeout)
    parts = urlsplit(admin if "://" in admin else f"http://{admin}")
    if parts.scheme != "http" or not parts.hostname or not parts.port:
        raise ValueError("is not an admin listener: write host:port, http://host:port or unix:/path.sock")
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--admin",
    default="127.0.0.1:9090",
    show_default=True,
    metavar="ADDRESS",
    help="The proxy's admin listener: host:port, http://host:port or unix:/path.sock.",
)
@click.option(
    "--ready", is_flag=True, help="Check whether it accepts new requests (/readyz), not only whether it runs."
)
@click.option("--timeout", default=2.0, show_default=True, type=click.FloatRange(min=0.1), help="In seconds.")
def health(admin: str, ready: bool, timeout: float) -> None:
    """Check the health of a running proxy. The exit status is 0 if it is healthy, otherwise 1."""
    try:
        asked = connection(admin, timeout)
    except ValueError as error:
        raise click.BadParameter(f"{admin!r} {error}", param_hint="--admin") from None
    try:
        asked.request("GET", "/readyz" if ready else "/healthz")
        response = asked.getresponse()
        body = response.read(4096).decode(errors="replace").strip()
    except (OSError, http.client.HTTPException) as error:
        click.echo(f"streamproxy: {admin} does not answer: {error or type(error).__name__}", err=True)
        sys.exit(1)
    finally:
        asked.close()
    click.echo(body, err=response.status != 200)
    sys.exit(response.status != 200)
