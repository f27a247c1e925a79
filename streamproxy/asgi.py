"""The application for an ASGI server's command line: ``uvicorn streamproxy.asgi:app``.

The configuration is the file that ``STREAMPROXY_CONFIG`` names, ``streamproxy.yaml`` in the working directory
without it.
"""

from __future__ import annotations

import os

from streamproxy.app import create_app, load_config

app = create_app(load_config(os.environ.get("STREAMPROXY_CONFIG", "streamproxy.yaml")))
