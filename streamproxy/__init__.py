"""streamproxy: a streaming reverse proxy for LLM servers and event backends.

The way of a request through the packages::

    ASGI server ─▶ routing ─▶ proxy ─▶ upstream ─▶ client ─▶ relay ─▶ ASGI server
    (server/)      matches    one      picks an    sends     chunks,
                   the raw    request  endpoint    it        keepalives,
                   path       whole                          the end
                                └── exchange: the facts of one request, for metrics, log and admin ──┘

- ``wire/``: protocol rules without I/O; ``errors``: the errors of an exchange
- ``config/``: the configuration; ``deployment`` and ``app``: the running parts built from it
- ``exchange/``, ``proxy/``: one request with its client, its timer and its response
- ``upstream/``, ``client/``: endpoints, and the clients that speak to them
- ``observe/``, ``control``, ``admin/``, ``top/``: the operator's view of the proxy, and its controls
- ``server/``, ``process/``, ``cli``, ``asgi``, ``demo``: the servers and programs that run it

Embedding: ``create_app(load_config(path))`` is a Starlette application for any ASGI server.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from streamproxy.version import __version__

if TYPE_CHECKING:
    from streamproxy.app import create_app, load_config

__all__ = ["__version__", "create_app", "load_config"]


def __getattr__(name: str) -> object:
    # Imported on first use, because a command installs signal handlers before the imports, which take a while.
    if name in ("create_app", "load_config"):
        from streamproxy import app

        return getattr(app, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
