"""streamproxy as a peer: its builds, its clients and engines, and its features one by one."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from benchmarks.package import ENVIRONMENT
from benchmarks.peers.base import Launch, Peer, Place, version_of


def streamproxy(
    *,
    build: str = "compiled",
    access: bool = False,
    server: Mapping[str, Any] | None = None,
    upstream: Mapping[str, Any] | None = None,
    route: Mapping[str, Any] | None = None,
    module: str = "streamproxy",
) -> Callable[[Place], Launch]:
    """`streamproxy run` with its defaults; only what would cap the loads is raised.

    ``server``, ``upstream`` and ``route`` are added to those sections; ``{beside}`` in a text of the last two is the
    address of a Redis server that is started. An upstream with ``redis`` is for every path but that of the plain
    answer. ``module`` is the program.
    """

    def launch(place: Place) -> Launch:
        server_section = {"listen": f"127.0.0.1:{place.listen}", "max_connections": 20000, **(server or {})}
        config: dict[str, Any] = {
            "server": server_section,
            "admin": {"listen": "off"},
            "log": {"access": access, "format": "json"},
            **_sections(place, upstream or {}, route or {}),
        }
        text = json.dumps(config, indent=2)
        beside = _redis(place) if "{beside}" in text else []
        path = place.write("streamproxy.yaml", text.replace("{beside}", f"127.0.0.1:{place.beside}"))
        return Launch([sys.executable, "-m", module, "run", "-c", path], ENVIRONMENT[build], beside)

    return launch


def _sections(place: Place, upstream: Mapping[str, Any], route: Mapping[str, Any]) -> dict[str, Any]:
    """The upstreams and routes."""
    plain = {
        "endpoints": [f"http://127.0.0.1:{place.upstream}"],
        "client": "native",
        "connections": {"max": 20000, "max_idle": 1000},
    }
    bench = {"name": "bench", "path": "/*", "upstream": "bench", "keepalive": f"{place.keepalive}s"}
    rest = [bench | {"name": "rest"}] if "models" in route else []
    if "redis" in upstream:
        ready = {"name": "ready", "path": "/json", "upstream": "plain"}
        return {"upstreams": {"plain": plain, "bench": upstream}, "routes": [ready, bench | dict(route), *rest]}
    return {"upstreams": {"bench": plain | dict(upstream)}, "routes": [bench | dict(route), *rest]}


def _redis(place: Place) -> list[str]:
    options = {"--port": place.beside, "--bind": "127.0.0.1", "--save": "", "--dir": place.directory}
    return ["redis-server", *(str(word) for pair in options.items() for word in pair)]


def ours() -> str | None:
    """Asked of the program itself, in the environment that runs the benchmark."""
    return version_of(sys.executable, "-m", "streamproxy", "--version")


def with_redis() -> str | None:
    return ours() if shutil.which("redis-server") else None


def _variant(name: str, label: str, launch: Callable[[Place], Launch], *loads: str, **more: Any) -> Peer:
    """One of our rows. With ``loads`` it is there for those alone."""
    peer = Peer(f"streamproxy{name}", f"streamproxy{label}", ours, launch, True, http2="same", websocket=True)
    return replace(peer, loads=frozenset(loads) or None, **more)


_RESUME = {"resume": {"store": "memory"}}
_RESUME_REDIS = {"resume": {"store": "redis://{beside}/0"}}
_SHARE = {"share": {"key": ["path", "query"]}}

OURS = (
    _variant("", "", streamproxy()),
    _variant("-pure", ", not compiled", streamproxy(build="pure"), "tiny", "fresh", "events", "idle", "llm", "h2-tiny"),
    _variant("-log", ", access log on", streamproxy(access=True), "tiny", "events"),
    _variant("-httpx", ", httpx client", streamproxy(upstream={"client": "httpx"})),
    _variant("-hypercorn", " on hypercorn", streamproxy(server={"engine": "hypercorn"}), http2="", websocket=False),
    _variant("-openai", ", protocol: openai", streamproxy(route={"protocol": "openai"}), "llm", "sustained"),
    _variant("-models", " with models", streamproxy(route={"models": ["*"]}), "models"),
    _variant("-resume", ", resume in memory", streamproxy(route=_RESUME), "resume"),
    _variant("-resume-redis", ", resume in Redis", streamproxy(route=_RESUME_REDIS), "resume", version=with_redis),
    _variant("-share", ", share", streamproxy(route=_SHARE), "share", streams=1000),
)

# Only if they are asked for: whether several workers do more than one, all on the same cores.
SEVERAL = tuple(
    _variant(
        f"-{workers}-{word}",
        f", {workers} {word}, not on one core",
        streamproxy(server={"workers": workers}),
        several=True,
    )
    for workers, word in ((1, "worker"), (2, "workers"), (4, "workers"))
)
