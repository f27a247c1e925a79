"""streamproxy: a streaming reverse proxy for LLM servers and event backends.

The way of a request, and the rooms it passes::

    ASGI server ─▶ routing ─▶ proxy ─▶ upstream ─▶ client ─▶ relay ─▶ ASGI server
    (server/)      matches    one      picks an    sends     chunks,
                   the raw    request  endpoint    it        keepalives,
                   path       whole                          the end
                                └── exchange: the facts of one request, for metrics, log and admin ──┘

- ``wire/``: protocol rules without I/O, and ``errors``: every way an exchange can go wrong
- ``config/``: what an operator may say, ``compose`` and ``app``: what becomes of it
- ``exchange``, ``downstream``, ``watch``, ``relay``: one request with its client, its timer and its response
- ``upstream/``, ``client/``: endpoints, and what speaks to them
- ``observe/``, ``admin/``: what an operator sees
- ``server/``, ``cli``, ``asgi``, ``demo``: what runs it

Embedding: ``create_app(load_config(path))`` is a Starlette application for any ASGI server.
"""

from streamproxy.app import create_app, load_config
from streamproxy.version import __version__

__all__ = ["__version__", "create_app", "load_config"]
