"""The application for an ASGI server's command line: ``uvicorn streamproxy.asgi:app``.

The configuration is the file that ``STREAMPROXY_CONFIG`` names, ``streamproxy.yaml`` in the working directory
without it. Its ``server`` section is the ASGI server's business; ``admin.mount`` gives the admin application a place,
where ``POST /reload`` reads the file again.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from streamproxy.app import create_app, load_config
from streamproxy.process.reload import Reloader, Source

_file = Path(os.environ.get("STREAMPROXY_CONFIG", "streamproxy.yaml"))
_source = Source(_file, partial(load_config, _file))

app = create_app(_source.load())
app.reloader = Reloader(app, _source, None).reload
