"""Parses and checks what configuration says of Redis: URLs, and the names of channels.

As in `streamproxy.config.values`, an error never repeats the value, which may contain a password.
"""

from __future__ import annotations

import re
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from streamproxy.config.values import text

FORMS: Final = (
    "redis://HOST:PORT/DB, rediss://… with TLS, unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB"
    " or redis+cluster://HOST:PORT,HOST:PORT (valkey in place of redis is the same)"
)
SHORT_FORMS: Final = (
    "redis://host:port/db, rediss://, unix://, redis+sentinel://host:port,…/service/db or redis+cluster://host:port,…"
)
_SCHEME = re.compile(
    r"(?:(?P<product>redis|valkey)(?P<tls>s?)(?:\+(?P<kind>sentinel|cluster))?|unix)://(?=.)", re.DOTALL
)
_HOST = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^\[\]:@\s]+)(?::(?P<port>[0-9]{1,5}))?")
_PORTS: Final = {"sentinel": 26379, "cluster": 6379}


class RedisPlace(NamedTuple):
    """Where a Redis is: one server (whose URL is as redis-py reads it), a service of Sentinels, or a cluster.

    ``hosts`` are the Sentinels, or nodes of the cluster by which the others are found; ``user`` is the part of the URL
    before them, with its @, and ``query`` that behind ``?``.
    """

    kind: Literal["server", "sentinel", "cluster"]
    scheme: str  # redis, rediss or unix
    user: str = ""
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    database: str = "0"
    query: str = ""
    url: str = ""  # of one server

    def server_url(self, host: str, port: int) -> str:
        """The URL of one server that is part of it."""
        shown = f"[{host}]" if ":" in host else host
        return f"{self.scheme}://{self.user}{shown}:{port}/{self.database}" + (f"?{self.query}" if self.query else "")


def parse_place(url: str) -> RedisPlace:
    """What a URL says. Raises ValueError, whose message says what is allowed and never repeats the URL."""
    found = _SCHEME.match(url)
    if found is None:
        raise ValueError(f"is not the URL of a Redis: write {FORMS}")
    rest = url[found.end() :]
    scheme = f"redis{found['tls']}" if found["product"] else "unix"
    before, _, query = rest.partition("?")
    authority, _, path = before.partition("/")
    # Otherwise the beginning of a password such as 12?ab could be taken for a port, and be logged.
    if "#" in rest or ("@" in path and scheme != "unix") or ("@" in query and "@" not in authority):
        raise ValueError("has a character that must be percent-encoded: one of / ? # @ in the user or the password")
    service, _, database = path.partition("/") if found["kind"] == "sentinel" else ("", "", path)
    if scheme != "unix" and not (database or "0").isdecimal():
        raise ValueError("has a database that is not a number: write 0 to 15, or leave it out")
    if found["kind"] is None:
        return RedisPlace("server", scheme, url=_server(scheme, rest))
    user, at, names = authority.rpartition("@")
    hosts = tuple(_host(name, _PORTS[found["kind"]]) for name in names.split(","))
    if found["kind"] == "sentinel":
        if not service:
            raise ValueError("names no service of the Sentinels: write redis+sentinel://HOST:26379,HOST:26379/SERVICE")
        return RedisPlace("sentinel", scheme, user + at, hosts, unquote(service), database or "0", query)
    if int(database or "0") or re.search(r"(?:^|&)db=(?!0(?:&|$))", query):
        raise ValueError("names a database: a cluster has none but 0")
    return RedisPlace("cluster", scheme, user + at, hosts, query=query)


def _server(scheme: str, rest: str) -> str:
    """The URL of one server."""
    url = f"{scheme}://{rest}"
    try:
        usable = scheme == "unix" or urlsplit(url).port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"is not the URL of a Redis: write {FORMS}")
    return url


def _host(name: str, default: int) -> tuple[str, int]:
    found = _HOST.fullmatch(name)
    if found is None or not 0 < int(found["port"] or default) < 65536:
        raise ValueError("has an address that is not HOST or HOST:PORT; several are separated by commas")
    return unquote(found["host"]).strip("[]"), int(found["port"] or default)


def store(value: object) -> str:
    """Returns a storage location: ``memory``, or the URL of a Redis. Raises ValueError.

    The message does not repeat the value, which may contain a password.
    """
    raw = text(value)
    if raw != "memory":
        if _SCHEME.match(raw) is None:
            raise ValueError(f"is not a store: write memory, or the URL of a Redis: {FORMS}")
        parse_place(raw)
    return raw


def redis_url(value: object) -> str:
    """Returns the URL of a Redis. Raises ValueError; the message omits the value, which may hold a password."""
    raw = text(value)
    parse_place(raw)
    return raw


CHANNEL_FIELD: Final = re.compile(r"\{([^{}]*)\}")
_CHANNEL_NAMES: Final = re.compile(
    r"principal|path\.[1-9][0-9]?|query\.[A-Za-z0-9._-]+|header\.[A-Za-z0-9!#$%&'*+.^_`|~-]+"
)


def channel(value: object) -> str:
    """Returns the template of a channel's name. Raises ValueError."""
    raw = text(value)
    for name in CHANNEL_FIELD.findall(raw):
        if not _CHANNEL_NAMES.fullmatch(name):
            allowed = "write {principal}, {path.N} (N from 1 to 99), {query.NAME} or {header.NAME}"
            raise ValueError(f"has {{{name}}}: {allowed}")
    if any(brace in CHANNEL_FIELD.sub("", raw) for brace in "{}"):
        raise ValueError("has a brace without its other one")
    if not raw:
        raise ValueError("is empty: it must name a channel")
    return raw
