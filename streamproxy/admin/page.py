"""The page of the admin listener: one document with inline style and script that loads nothing.

Its Content-Security-Policy allows only these by their digests, and forbids everything that could turn text into
markup: whatever a client puts into a path or an id stays text. The page of the demo also has buttons that send requests
(`streamproxy.admin.tries`), and a script for them.
"""

from __future__ import annotations

import base64
import hashlib
import pkgutil
from typing import NamedTuple

from streamproxy.admin.tries import Tries


class Page(NamedTuple):
    """The document in UTF-8, and the header fields of its response."""

    document: bytes
    headers: dict[str, str]


def _asset(name: str) -> str:
    data = pkgutil.get_data("streamproxy.admin", f"assets/{name}")
    assert data is not None, f"{name} is missing from the package"
    return data.decode("utf-8")


def _digest(source: str) -> str:
    """Returns the source expression of an inline element (CSP 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


def make_page(tries: Tries | None = None) -> Page:
    """Makes the page; with ``tries``, it offers these requests."""
    style, program = _asset("page.css"), _asset("page.js")
    scripts, sources, section = [program], ["'self'"], ""
    if tries is not None:
        own = _asset("tries.js")
        scripts.append(own)
        sources.append(tries.source)
        section = _asset("tries.html").replace("PORT", str(tries.port)).replace("/* tries.js */", own)
        section = section.replace("<!-- buttons -->", tries.buttons())
    document = _asset("page.html").replace("/* page.css */", style).replace("/* page.js */", program)
    policy = (
        f"default-src 'none'; script-src {' '.join(map(_digest, scripts))}; style-src {_digest(style)}; "
        f"connect-src {' '.join(sources)}; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    )
    headers = {
        "content-type": "text/html; charset=utf-8",
        "cache-control": "no-store",
        "content-security-policy": policy,
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return Page(document.replace("<!-- tries.html -->\n", section).encode(), headers)


PAGE = make_page()
