"""What a peer is: a row of the comparison, with how it is started, asked, and recognised as installed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Final, NamedTuple


class Place(NamedTuple):
    """Where a proxy is to run: its port, the upstream's, a directory for its files, and its keepalive in seconds.

    ``http2`` is the port for HTTP/2 of a proxy that does not speak it and HTTP/1.1 on the same one, and ``beside``
    that of a program that a peer has beside it.
    """

    listen: int
    upstream: int
    directory: Path
    keepalive: int
    http2: int = 0
    beside: int = 0

    def write(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text)
        return str(path)


class Launch(NamedTuple):
    """How a proxy is started. ``beside`` is a program that it needs, whose CPU and memory are not its own."""

    command: list[str]
    env: dict[str, str]
    beside: list[str] = []  # noqa: RUF012 - never changed


class Ask(NamedTuple):
    """The request that a peer is sent for a path of the upstream: its own path, and arguments of the load generator."""

    path: str
    arguments: tuple[str, ...] = ("header=Accept: text/event-stream",)


EVENTS: Final = Ask("").arguments


def completion(model: str, *headers: str) -> tuple[str, ...]:
    """The generator's arguments for a chat completion."""
    body = {"model": model, "stream": True, "messages": [{"role": "user", "content": "go"}]}
    fields = ("Content-Type: application/json", *headers)
    return ("method=POST", *(f"header={field}" for field in fields), f"body={json.dumps(body)}")


def ask(path: str, place: Place) -> Ask:
    """The request of a proxy that passes on what it is sent; `/chat` is a chat completion."""
    return Ask("/chat/v1/chat/completions", completion("chat")) if path == "/chat" else Ask(path)


Publish = Callable[[str], object]  # sends a text to all clients


@dataclass(frozen=True)
class Peer:
    """One row of the comparison. ``version`` returns None if the peer is not installed."""

    name: str
    label: str
    version: Callable[[], str | None]
    launch: Callable[[Place], Launch] | None  # None: no proxy at all
    keepalive: bool = False  # sends keepalives itself; the upstream does for the others
    several: bool = False  # not on one core
    ask: Callable[[str, Place], Ask] = ask
    loads: frozenset[str] | None = None  # the only ones that it can carry, or is there for
    streams: int = 100  # of events, at once
    ready: str = "/json"
    http2: str = ""  # where it speaks HTTP/2: on the "same" port, on one of its "own", or not at all
    websocket: bool = False
    publish: Callable[[Place], Publish] | None = None  # how the events come that it did not get from an upstream


def distribution(name: str) -> Callable[[], str | None]:
    """The version of an installed Python package."""

    def find() -> str | None:
        try:
            return version(name)
        except PackageNotFoundError:
            return None

    return find


def program(name: str) -> str | None:
    """A program's path; the directories of administrators' programs are looked into, too."""
    return shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin")))


def program_version(name: str, *arguments: str) -> Callable[[], str | None]:
    """The version that a program says of itself."""

    def find() -> str | None:
        path = program(name)
        return None if path is None else version_of(path, *arguments) or "unknown"

    return find


def version_of(*command: str) -> str | None:
    """The first thing in a program's answer that looks like a version."""
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"\d+\.\d+(\.\d+)*", done.stdout + done.stderr)
    return found[0] if found and not done.returncode else None
