"""Checks of the keys that need to know whose a request is: they are of no use where clients are not authenticated."""

from __future__ import annotations

from collections.abc import Iterator

from streamproxy.config.document import Document, Finding
from streamproxy.config.redact import Path
from streamproxy.config.references import has_bare_lines
from streamproxy.config.units import is_off

# Keys of a route that name one of the upstreams which its requests may go to.
ONE_OF_SEVERAL = ("upstream.*.name", "upstream.shares.*.name", "fallback", "fallback.*")


def nobodies(document: Document) -> Iterator[Finding]:
    """Finds keys that name the principal where there is none."""
    for path in document.match(("routes", "*", "limits", "client_key")):
        if document.get(path) == "principal" and not _authenticates(document, path[:2]):
            yield Finding(path, "is nobody without auth on the route: set auth, or take client_ip or header:NAME")
    for path in document.match(("upstreams", "*", "balance", "hash")):
        if document.get(path) != "principal":
            continue
        uses = (use for use in document.in_routes("upstream", *ONE_OF_SEVERAL) if document.get(use) == path[1])
        if not any(_authenticates(document, use[:2]) for use in uses):
            yield Finding(path, "is nobody, since no route to this upstream has auth: set auth on one")


def _authenticates(document: Document, route: Path) -> bool:
    return not is_off(document.get((*route, "auth")))


def unnamed_clients(document: Document, route: Path) -> Iterator[Finding]:
    """``{principal}`` is replaced with the name of a token and never with the token, so each token needs a name."""
    if not _authenticates(document, route):
        yield Finding((*route, "upstream"), "has {principal} in its channel, which is nobody without auth on the route")
    for path in document.match(("routes", "*", "auth", "bearer", "tokens", "*")):
        token = document.get(path) if path[: len(route)] == route else None
        file = document.readable_file((*path, "file")) if isinstance(token, dict) else None
        if file is not None and has_bare_lines(file):
            yield Finding((*path, "file"), "has a token without a name, and {principal} in the channel is the name")
        if isinstance(token, str) or (isinstance(token, dict) and "token" in token and is_off(token.get("name"))):
            yield Finding(path, "has no name, and {principal} in the channel of the upstream is the token's name")
