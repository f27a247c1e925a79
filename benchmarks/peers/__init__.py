"""The peers by name."""

from __future__ import annotations

from collections.abc import Iterable

from benchmarks.package import compile_package
from benchmarks.peers.base import Ask, Launch, Peer, Place
from benchmarks.peers.ours import OURS, streamproxy
from benchmarks.peers.ours import SEVERAL as _SEVERAL
from benchmarks.peers.proxies import PROXIES
from benchmarks.peers.published import PUBLISHED

__all__ = ["PEERS", "SEVERAL", "Ask", "Launch", "Peer", "Place", "prepare", "streamproxy"]

# Only if they are asked for.
SEVERAL: dict[str, Peer] = {peer.name: peer for peer in _SEVERAL}

PEERS: dict[str, Peer] = {
    peer.name: peer for peer in (Peer("direct", "no proxy", lambda: "", None), *OURS, *PROXIES, *PUBLISHED)
}


def prepare(names: Iterable[str], as_built: bool = False) -> None:
    """Build what the peers of these names need; ``as_built`` takes an older build. Raises BenchError."""
    if any(name.startswith("streamproxy") and name != "streamproxy-pure" for name in names):
        compile_package(as_built)
