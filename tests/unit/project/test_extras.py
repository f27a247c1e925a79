"""Without any extra the proxy starts: what needs one is imported where it is used."""

from __future__ import annotations

import subprocess
import sys

EXTRAS = ["cryptography", "hypercorn", "jwt", "opentelemetry", "redis", "rich"]
PROGRAM = f"""
import asyncio, sys
for name in {EXTRAS}:
    sys.modules[name] = None
import streamproxy.cli
from streamproxy import create_app
from streamproxy.config import parse_config
app = create_app(parse_config("routes: [{{{{path: /*, upstream: 'http://127.0.0.1:9', resume: {{{{}}}}}}}}]", name="x"))
async def main():
    await app.deployment.start()
    await app.aclose()
asyncio.run(main())
import streamproxy.process.serve, streamproxy.process.run, streamproxy.explain
"""


def test_nothing_of_the_extras_is_needed_to_start() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM.format()], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_command_says_what_a_redis_needs() -> None:
    program = (
        "import sys; sys.modules['redis'] = None\n"
        "from streamproxy import create_app\n"
        "from streamproxy.config import parse_config\n"
        'text = \'routes: [{path: /*, upstream: "http://a", resume: {store: "redis://127.0.0.1/0"}}]\'\n'
        "create_app(parse_config(text, name='x'))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert "pip install 'streamproxy[redis]'" in done.stderr.splitlines()[-1]
