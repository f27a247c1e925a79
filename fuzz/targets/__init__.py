"""One module for each target. Its ``check`` takes any bytes, and raises if a promise is broken.

A module may also have ``DICTIONARY``, words that inputs are made of, and ``mutate``, which changes an input and keeps
its structure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "fuzz" / "corpus"
FOUND = ROOT / "build" / "fuzz"  # inputs that reach new code, logs, and what was found
PARTS = (
    "request_head",
    "response",
    "http1_server",
    "chunked",
    "sse",
    "ndjson",
    "json_members",
    "websocket",
    "http2_server",
    "http2_client",
    "proxy_header",
    "cursors",
    "configuration",
)


class Target(NamedTuple):
    """``mutate`` takes an input, its largest size in bytes and a seed, and returns another input."""

    name: str
    check: Callable[[bytes], None]
    dictionary: Sequence[bytes]
    mutate: Callable[[bytes, int, int], bytes] | None


def folders_of(name: str) -> list[Path]:
    """Returns the folders with the inputs of a target that are kept in the repository."""
    more = [ROOT / "config"] if name == "configuration" else []
    return [CORPUS / name, *more]


def load(name: str) -> Target:
    """Imports a target. Raises ImportError for an unknown name."""
    module: Any = import_module(f"fuzz.targets.{name}")
    return Target(name, module.check, getattr(module, "DICTIONARY", ()), getattr(module, "mutate", None))
