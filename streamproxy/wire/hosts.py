"""Hosts and ports: the default ports, and Host fields (RFC 9110 section 7.2) against names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

DEFAULT_PORTS: Final = {"http": 80, "https": 443}  # RFC 9110 section 4.2


class Hosts:
    """A set of host names, and of patterns ``*.suffix`` that match every name below the suffix.

    Matching ignores case and the port.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        lower = [pattern.lower().encode() for pattern in patterns]
        self._names = frozenset(name for name in lower if not name.startswith(b"*."))
        self._suffixes = tuple(name[1:] for name in lower if name.startswith(b"*."))

    def match(self, host: bytes) -> bool:
        """Whether the value of a Host field matches."""
        name = bare_host(host)
        return name in self._names or name.endswith(self._suffixes)


def bare_host(host: bytes) -> bytes:
    """Returns the value of a Host field in lower case without its port; an IPv6 address keeps its brackets."""
    host = host.lower()
    if not host.endswith(b"]"):
        bare, colon, port = host.rpartition(b":")
        if colon and port.isdigit():
            return bare
    return host
