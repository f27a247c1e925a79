"""The names that a Host may be (RFC 9110, section 7.2)."""

from __future__ import annotations

from collections.abc import Iterable


class Hosts:
    """Names to compare a Host with, without its port and in any case: whole ones, and ``*.suffix`` for every name below
    it."""

    def __init__(self, patterns: Iterable[str]) -> None:
        lower = [pattern.lower().encode() for pattern in patterns]
        self._names = frozenset(name for name in lower if not name.startswith(b"*."))
        self._suffixes = tuple(name[1:] for name in lower if name.startswith(b"*."))

    def match(self, host: bytes) -> bool:
        """Whether the value of a Host field is one of them."""
        name = bare_host(host)
        return name in self._names or name.endswith(self._suffixes)


def bare_host(host: bytes) -> bytes:
    """The value of a Host field in lower case and without its port; an IPv6 address keeps its brackets."""
    host = host.lower()
    if not host.endswith(b"]"):
        bare, colon, port = host.rpartition(b":")
        if colon and port.isdigit():
            return bare
    return host
