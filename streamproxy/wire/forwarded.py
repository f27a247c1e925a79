"""Trusted proxies and X-Forwarded-For: where a request came from."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_trusted(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks. False if it is not an IP address (a Unix socket)."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    parsed = unmapped(parsed)
    return any(parsed in network for network in networks)


def unmapped(address: Address) -> Address:
    """Returns the IPv4 address of one that is written in IPv6's form (RFC 4291 section 2.5.5.2); any other as it is."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def address_of(member: str) -> str | None:
    """Returns the address in a member of X-Forwarded-For, without quotes, brackets and port, or None if it has none.

    Proxies in the field write ``203.0.113.7``, ``203.0.113.7:54321``, ``2001:db8::1``, ``[2001:db8::1]:443``, and the
    forms of RFC 7239 section 6 in quotes. Every spelling of an address returns the same text (RFC 5952), so that limits
    count one client once.
    """
    text = member.strip()
    if len(text) > 1 and text[0] == text[-1] == '"':
        text = text[1:-1].strip()
    if text.startswith("["):
        text, bracket, port = text[1:].partition("]")
        if not bracket or (port and not _is_port(port)):
            return None
    elif text.count(":") == 1:
        text, _, port = text.partition(":")
        if not _is_port(":" + port):
            return None
    try:
        return str(unmapped(ipaddress.ip_address(text)))
    except ValueError:
        return None


def _is_port(text: str) -> bool:
    return text.startswith(":") and text[1:].isascii() and text[1:].isdigit() and len(text) <= 6


def original_client(forwarded_for: bytes, peer: str, networks: Sequence[Network]) -> str:
    """Returns the first address from the right of X-Forwarded-For that is not a trusted proxy's.

    A member that is not an address ends the search; the result is then the last trusted address before it. Empty
    members are skipped (RFC 9110 section 5.6.1.2).
    """
    client = peer
    for member in reversed(forwarded_for.decode("latin-1").split(",")):
        if not member or member.isspace():
            continue
        address = address_of(member)
        if address is None:
            break
        client = address
        if not is_trusted(address, networks):
            break
    return client
