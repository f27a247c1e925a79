"""Parses and checks what configuration says of Redis: URLs, and the names of channels.

As in `streamproxy.config.values`, an error never repeats the value, which may contain a password.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import urlsplit

from streamproxy.config.values import text

_REDIS = re.compile(r"(rediss?|unix)://.", re.DOTALL)


def _is_redis(url: str) -> bool:
    """Whether this is the URL of a Redis: a password with ``/``, ``?`` or ``#`` has to be percent-encoded in it."""
    try:
        parts = urlsplit(url)
        return _REDIS.match(url) is not None and (parts.scheme == "unix" or parts.port != 0)
    except ValueError:
        return False


def store(value: object) -> str:
    """Returns a storage location: ``memory``, or the URL of a Redis server. Raises ValueError.

    The message does not repeat the value, which may contain a password.
    """
    raw = text(value)
    if raw != "memory" and not _is_redis(raw):
        raise ValueError("is not a store: write memory, or the URL of a Redis: redis://, rediss:// or unix://")
    return raw


def redis_url(value: object) -> str:
    """Returns the URL of a Redis server. Raises ValueError; the message omits the value, which may hold a password."""
    raw = text(value)
    if not _is_redis(raw):
        raise ValueError("is not the URL of a Redis: write redis://HOST:PORT, rediss:// or unix://")
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
