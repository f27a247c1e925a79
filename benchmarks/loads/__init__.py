"""The loads by name. Each is a function of a session that returns numbers by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from benchmarks.loads import http1, http2, llm, open_streams, published, understood, websocket
from benchmarks.peers.base import Peer
from benchmarks.rig import Numbers, Session


def _any(peer: Peer) -> bool:
    return True


def _websocket(peer: Peer) -> bool:
    return peer.websocket


def _ours(peer: Peer) -> bool:
    return peer.name == "streamproxy" or peer.loads is not None


def _published(peer: Peer) -> bool:
    return peer.publish is not None


def _http2(peer: Peer) -> bool:
    return bool(peer.http2)


class Load(NamedTuple):
    """A load by name. ``rounds`` is the most that it is worth, ``fits`` whether a peer can carry it.

    ``prepared`` loads run inside the session's block, with the upstream and the proxy running; others bring their own.
    """

    run: Callable[[Session], Numbers]
    unit: str
    rounds: int = 100
    fits: Callable[[Peer], bool] = _any
    prepared: bool = True


LOADS: dict[str, Load] = {
    "tiny": Load(http1.tiny, "request"),
    "fresh": Load(http1.fresh, "request"),
    "ttfb": Load(http1.ttfb, "request"),
    "events": Load(http1.events, "event"),
    "flood": Load(http1.flood, "MB"),
    "idle": Load(http1.idle, "stream and second", rounds=2),
    "streams": Load(open_streams.streams, "stream and second", rounds=2),
    "download": Load(http1.download, "MB"),
    "upload": Load(http1.upload, "MB"),
    "abort": Load(http1.abort, "stream"),
    "h2-tiny": Load(http2.tiny, "request", fits=_http2),
    "h2-events": Load(http2.events, "event", fits=_http2),
    "websocket": Load(websocket.messages, "message", fits=_websocket, prepared=False),
    "llm": Load(llm.chats, "event"),
    "sustained": Load(llm.sustained, "stream", rounds=1),
    "models": Load(understood.models, "request", fits=_ours),
    "resume": Load(understood.kept, "event", fits=_ours),
    "share": Load(understood.shared, "event and client", fits=_ours),
    "published": Load(published.published, "message and client", fits=_published),
}


def carries(load: str, peer: Peer) -> bool:
    """Whether a load is measured with a peer: what it is there for, and what it can."""
    return LOADS[load].fits(peer) and (peer.loads is None or load in peer.loads)


def measure(load: Load, session: Session) -> Numbers:
    """Start the peer, run the load, stop the peer. Raises BenchError if it could not be done."""
    if not load.prepared:
        return load.run(session)
    with session:
        return load.run(session)
