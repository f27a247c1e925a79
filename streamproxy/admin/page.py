"""The page of the admin listener: one document with inline style and script that loads nothing.

Its Content-Security-Policy allows only these two by their digests, and forbids everything that could turn text into
markup: whatever a client puts into a path or an id stays text.
"""

from __future__ import annotations

import base64
import hashlib
import pkgutil


def _asset(name: str) -> str:
    data = pkgutil.get_data("streamproxy.admin", f"assets/{name}")
    assert data is not None, f"{name} is missing from the package"
    return data.decode("utf-8")


def _digest(source: str) -> str:
    """Returns the source expression of an inline element (CSP 3, section 2.3.1)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


_STYLE = _asset("page.css")
_PROGRAM = _asset("page.js")
_DOCUMENT = _asset("page.html").replace("/* page.css */", _STYLE).replace("/* page.js */", _PROGRAM).encode()

PAGE_HEADERS = {
    "content-type": "text/html; charset=utf-8",
    "cache-control": "no-store",
    "content-security-policy": (
        f"default-src 'none'; script-src {_digest(_PROGRAM)}; style-src {_digest(_STYLE)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
        "require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
}


def page() -> bytes:
    """Returns the document in UTF-8."""
    return _DOCUMENT
