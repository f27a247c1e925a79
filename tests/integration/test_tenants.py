"""From the demo to the tokens of each tenant, by the commands that the demo and the documentation show."""

from __future__ import annotations

import asyncio
import json
import shlex
import subprocess
import sys
from pathlib import Path

from tests.doubles.parts import require
from tests.integration.process import Process
from tests.unit.project.markdown import blocks


async def test_a_newcomer_learns_what_each_tenant_used(tmp_path: Path) -> None:
    require("curl")
    command = [sys.executable, "-m", "streamproxy", "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]
    with Process(command) as demo:
        await demo.line(r"^admin on ")
        shown = [line.strip() for line in demo.lines if "/tenants/" in line]
        assert len(shown) == 2
        for line in [*shown, shown[0], shown[0]]:
            await asyncio.to_thread(subprocess.run, [*shlex.split(line), "-s", "--noproxy", "*"], check=True)
        await demo.line(r'"principal":"token:blue"')
        await demo.line(r'"status":429')
        log = demo.output
        assert await demo.stop() == 0
    said = [json.loads(line) for line in log.splitlines() if "principal" in line]
    assert all(line["first_event_ms"] > 0 for line in said if line["status"] == 200)
    assert {(line["principal"], line["status"]) for line in said} == {
        ("token:red", 200),
        ("token:red", 429),
        ("token:blue", 200),
    }
    (tmp_path / "access.log").write_text(log)
    (block,) = [block for block in blocks("sh") if "access.log <<" in block.text]
    run = subprocess.run([require("bash"), "-c", block.text], cwd=tmp_path, capture_output=True, text=True, check=True)
    tenants = {tuple(line.rpartition(": ")[0].split()) for line in run.stdout.splitlines()}
    assert tenants == {("token:red", "demo-1"), ("token:blue", "demo-2")}
    assert "tokens, first word" in run.stdout
