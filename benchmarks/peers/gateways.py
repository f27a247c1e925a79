"""LLM gateways that the registries of PyPI and npm have, each installed apart. They are measured only if asked for.

They serve OpenAI's API alone, so that they are asked for chat completions, whatever the load.

Not here, since what is needed to run them is not in a registry: Bifrost (its npm package downloads the program when
it starts), agentgateway (PyPI has another package of that name).
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from benchmarks.peers.base import Ask, Launch, Peer, Place, completion

LITELLM: Final = ("litellm[proxy]", "prometheus-client>=0.20,<1")  # the second for its metrics
PORTKEY: Final = "@portkey-ai/gateway"
# It fails with newer releases of what it listens with: github.com/Portkey-AI/gateway/issues/1389.
_OVERRIDES: Final = {"@hono/node-server": "1.13.8"}
_LOADS: Final = frozenset({"tiny", "ttfb", "events", "llm", "sustained"})


def _model(path: str) -> str:
    """The name of a model for a path of the upstream."""
    return path.partition("?")[0].strip("/")


def install_litellm(out: Path) -> None:
    """Install LiteLLM into its own environment, unless it is there. Raises CalledProcessError."""
    home = out / "litellm-venv"
    if not (home / "bin" / "litellm").exists():
        subprocess.run([sys.executable, "-m", "venv", str(home)], check=True)
        subprocess.run([str(home / "bin" / "pip"), "install", "--quiet", *LITELLM], check=True)


def litellm(out: Path) -> Peer:
    """LiteLLM's proxy as a peer."""
    python = out / "litellm-venv" / "bin" / "python"

    def find() -> str | None:
        if not python.exists():
            return None
        code = "from importlib.metadata import version; print(version('litellm'))"
        return subprocess.run([str(python), "-c", code], capture_output=True, text=True).stdout.strip() or None

    def launch(place: Place) -> Launch:
        models = [
            {
                "model_name": name,
                "litellm_params": {
                    "model": f"openai/{name}",
                    "api_base": f"http://127.0.0.1:{place.upstream}/{name}/v1",
                    "api_key": "none",
                },
            }
            for name in ("tiny", "events", "chat")
        ]
        path = place.write("litellm.yaml", json.dumps({"model_list": models}))
        command = [str(python.with_name("litellm")), "--config", path, "--host", "127.0.0.1"]
        # Nobody else here checks credentials; without one LiteLLM has to be told that this is meant.
        open_to_all = "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY"
        env = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", open_to_all: "true"}
        return Launch([*command, "--port", str(place.listen), "--num_workers", "1", "--telemetry", "False"], env)

    def ask(path: str, place: Place) -> Ask:
        return Ask("/v1/chat/completions", completion(_model(path)))

    # 5,000 events a second are several times what one core of it carries: a hundred streams would never all begin.
    return _gateway("litellm", "LiteLLM proxy", find, launch, ask, "/health/liveliness")


def install_portkey(out: Path) -> None:
    """Install Portkey's gateway into a folder of its own, unless it is there. Raises CalledProcessError."""
    home = out / "portkey"
    if not (home / "node_modules").exists():
        home.mkdir(parents=True, exist_ok=True)
        (home / "package.json").write_text(json.dumps({"overrides": _OVERRIDES}))
        command = ["npm", "install", "--silent", "--no-audit", "--no-fund", PORTKEY]
        subprocess.run(command, cwd=home, check=True)


def portkey(out: Path) -> Peer:
    """Portkey's open source gateway as a peer."""
    home = out / "portkey" / "node_modules" / "@portkey-ai" / "gateway"

    def find() -> str | None:
        package = home / "package.json"
        if not package.exists() or shutil.which("node") is None:
            return None
        found: str = json.loads(package.read_text())["version"]
        return found

    def launch(place: Place) -> Launch:
        command = ["node", str(home / "build" / "start-server.js"), "--headless", f"--port={place.listen}"]
        return Launch(command, {"NODE_ENV": "production"})

    def ask(path: str, place: Place) -> Ask:
        host = f"http://127.0.0.1:{place.upstream}/{_model(path)}/v1"
        headers = ("Authorization: Bearer none", "x-portkey-provider: openai", f"x-portkey-custom-host: {host}")
        return Ask("/v1/chat/completions", completion(_model(path), *headers))

    return _gateway("portkey", "Portkey gateway", find, launch, ask, "/")


def _gateway(
    name: str,
    label: str,
    find: Callable[[], str | None],
    launch: Callable[[Place], Launch],
    ask: Callable[[str, Place], Ask],
    ready: str,
) -> Peer:
    return Peer(name, label, find, launch, ask=ask, loads=_LOADS, streams=10, ready=ready)


def install(out: Path) -> list[Peer]:
    """The gateways, installed. Raises CalledProcessError."""
    install_litellm(out)
    peers = [litellm(out)]
    if shutil.which("npm") is not None:
        install_portkey(out)
        peers.append(portkey(out))
    return peers
