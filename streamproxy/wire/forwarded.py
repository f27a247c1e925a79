"""Whom to believe about where a request came from: trusted proxies, and X-Forwarded-For."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def is_trusted(address: str, networks: Sequence[Network]) -> bool:
    """Whether an address is in one of the networks; one that is not an IP address (a unix socket's) is not."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def original_client(forwarded_for: bytes, peer: str, networks: Sequence[Network]) -> str:
    """The first address from the right of X-Forwarded-For that no trusted proxy of ours has."""
    client = peer
    for member in reversed(forwarded_for.decode("latin-1").split(",")):
        address = member.strip()
        try:
            ipaddress.ip_address(address)
        except ValueError:
            break
        client = address
        if not is_trusted(address, networks):
            break
    return client
