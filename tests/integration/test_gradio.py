"""Gradio behind the proxy as its recipe says: the queue's events, and an upload."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from tests.doubles.ports import reserved_port
from tests.doubles.until import until
from tests.integration import gradio_app
from tests.integration.conftest import RunProxy
from tests.integration.process import ROOT, Process
from tests.integration.proxy import configuration

pytestmark = pytest.mark.skipif(not gradio_app.PYTHON.exists(), reason="Gradio is missing: make gradio")

QUIET = {"GRADIO_ANALYTICS_ENABLED": "False", "HF_HUB_OFFLINE": "1", "NO_PROXY": "127.0.0.1"}

PATIENCE = 120.0  # seconds: the import alone takes ten where the machine is busy


async def test_a_page_under_a_prefix_works_as_the_recipe_says(run_proxy: RunProxy, tmp_path: Path) -> None:
    recipe = (ROOT / "docs" / "recipes" / "gradio.md").read_text()
    found = re.search(r"```yaml\n(.*?)```", recipe, re.DOTALL)
    assert found is not None
    config = yaml.safe_load(found[1])
    program, environment = str(Path(gradio_app.__file__)), QUIET | {"GRADIO_TEMP_DIR": str(tmp_path)}
    with (
        reserved_port() as port,
        Process([str(gradio_app.PYTHON), program, "serve", str(port), "/demo"], env=environment) as app,
    ):
        await until(lambda: "serving" in app.lines, "Gradio", timeout=PATIENCE)
        config["upstreams"]["app"]["endpoints"] = [f"http://127.0.0.1:{port}"]
        proxy = await run_proxy(configuration(config["routes"], upstreams=config["upstreams"]))
        with Process([str(gradio_app.PYTHON), program, "ask", f"{proxy.url}/demo/"], env=environment) as client:
            answers = await until(
                lambda: [line for line in client.lines if line.startswith("[")], "the client", timeout=PATIENCE
            )
    assert json.loads(answers[0]) == [f"{proxy.url}/demo", ["hello 0", "hello 1", "hello 2"], gradio_app.UPLOAD]
