"""The page of events from Redis, as it stands, and the rights that a user is said to need."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
from asyncio.subprocess import DEVNULL, PIPE, STDOUT
from pathlib import Path

from tests.doubles.connection import guarded
from tests.doubles.leaks import LeakCheck
from tests.doubles.parts import require
from tests.doubles.ports import reserved_port
from tests.integration.process import ROOT
from tests.integration.redis import redis_server
from tests.integration.test_docs import PATH
from tests.integration.test_redis_forms import RULES
from tests.unit.project.markdown import DOCS, blocks_of

# The pause of the page may be too short for a busy machine.
WAIT = """\
until [ "$(curl -s -m 1 -o /dev/null -w '%{http_code}' 'http://127.0.0.1:PORT/orders?shop=0')" = 200 ]; do
  sleep 0.1
done
"""


def texts(page: str, language: str) -> list[str]:
    return [block.text for block in blocks_of(DOCS / page) if block.language == language]


async def test_the_commands_of_the_page_bring_the_events(leaks: LeakCheck, tmp_path: Path) -> None:
    require("curl")
    require("redis-cli")
    (configuration,) = texts("events.md", "yaml")
    (commands,) = texts("events.md", "sh")
    async with redis_server(tmp_path) as redis:
        port = redis.url.rpartition(":")[2].removesuffix("/0")
        with reserved_port() as listen:
            own = f"server: {{listen: '127.0.0.1:{listen}'}}\nadmin: {{listen: off}}\n"
            (tmp_path / "streamproxy.yaml").write_text(own + configuration.replace("6379", port))
            script = commands.replace("redis-cli", f"redis-cli -p {port}").replace("8080", str(listen))
            script = script.replace("sleep 2\n", WAIT.replace("PORT", str(listen))).replace("-m 2 ", "-m 4 ")
            process = await asyncio.create_subprocess_exec(
                *(require("bash"), "-uc", script),
                cwd=tmp_path,
                env={**os.environ, "NO_PROXY": "*", "no_proxy": "*", "PYTHONPATH": str(ROOT), "PATH": PATH},
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                start_new_session=True,
            )
            try:
                async with guarded("the page's commands"):
                    output = (await process.communicate())[0].decode()
            finally:  # a script that waits for a proxy which never starts would wait for ever
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
    assert "data: kick-off\n\n" in output, output
    assert re.search(r'^event: paid\ndata: \{"id": 7\}\nid: [0-9]+-[0-9]+$', output, re.MULTILINE)


def test_the_rights_of_the_page_are_those_that_were_tried() -> None:
    (rule,) = texts("resume.md", "text")
    assert rule.split()[5:] == list(RULES)
