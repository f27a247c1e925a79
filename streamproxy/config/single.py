"""The configuration of `streamproxy proxy`: one upstream that serves everything, as the text of a file."""

from __future__ import annotations

import json
from urllib.parse import urlsplit

from streamproxy.config.schema import PUBLISHED


def single_upstream(
    url: str, listen: str, admin: str, *, protocol: str | None = None, keepalive: str | None = None
) -> str:
    """The YAML text of a configuration that sends every request to ``url``.

    The other arguments are values of the keys of these names. A URL without a scheme is one of http; its path is put in
    front of every request's path. Raises ValueError for a URL with a query, a fragment or a user name, with the rest of
    a sentence that begins with the URL.
    """
    parts = urlsplit(url if "://" in url else f"http://{url}")
    of_another_kind = "://" not in url and parts.netloc.endswith(":")  # unix:/path.sock, http:/host
    if parts.query or parts.fragment or "@" in parts.netloc or of_another_kind:
        raise ValueError("is not an upstream: write a URL with a host and perhaps a port and a path, and nothing else")
    prefix = parts.path.rstrip("/")
    lines = [
        f"# yaml-language-server: $schema={PUBLISHED}",
        f"server: {{listen: {_quoted(listen)}}}",
        f"admin: {{listen: {_quoted(admin)}}}",
        "routes:",
        '  - path: "/*"',
        f"    upstream: {_quoted(f'{parts.scheme}://{parts.netloc}')}",
    ]
    if prefix:
        lines.append(f"    rewrite: {{add_prefix: {_quoted(prefix)}}}")
    if protocol is not None:
        lines.append(f"    protocol: {_quoted(protocol)}")
    if keepalive is not None:
        lines.append(f"    keepalive: {_quoted(keepalive)}")
    return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    """A value as YAML has it, whatever is in it: a JSON string, in which a dollar sign is a dollar sign."""
    return json.dumps(text.replace("$", "$$"))
