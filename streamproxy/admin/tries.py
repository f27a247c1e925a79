"""Requests that the page offers as buttons: those of the demo.

The page sends them itself, from its own origin to the proxy's main listener on the host that the page came from. So
the routes need ``cors``, and the page's Content-Security-Policy allows that port on any host: a source cannot name an
IPv6 address (CSP 3, section 2.3.1).
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from typing import NamedTuple


class Try(NamedTuple):
    """A request and the text of its button; ``about`` says what it shows.

    It is a GET, or a POST when it has a ``body``, which is JSON.
    """

    label: str
    about: str
    target: str
    body: str = ""


class Tries(NamedTuple):
    """The requests that the page offers, in their order, and the port of the proxy on plain HTTP."""

    port: int
    requests: Sequence[Try]

    @property
    def source(self) -> str:
        """The source expression that allows these requests (CSP 3, section 2.3.1)."""
        return f"http://*:{self.port}"

    def buttons(self) -> str:
        """Returns the markup of the buttons."""
        return "\n".join(map(_button, self.requests))


def _button(one: Try) -> str:
    label, about, target, body = map(html.escape, one)
    return f'<button type="button" data-target="{target}" data-body="{body}" title="{about}">{label}</button>'
