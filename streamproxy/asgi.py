"""The application for the command line of an ASGI server: ``uvicorn streamproxy.asgi:app``.

``STREAMPROXY_CONFIG`` names the configuration file; the default is ``streamproxy.yaml`` in the working directory. The
``server`` section is ignored, because the ASGI server has its own settings. ``admin.mount`` sets the prefix of the
admin application, whose ``POST /reload`` reads the file again.
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
