"""The recipes of ``docs/recipes`` and ``docs/openai.md``: what each is for goes where the page says."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import pytest

from streamproxy.config import parse_config
from streamproxy.explain import asked, explain
from tests.unit.project.markdown import DOCS, blocks_of
from tests.unit.project.test_docs import ENVIRON

PAGES = {page.stem: page for page in (*(DOCS / "recipes").glob("*.md"), DOCS / "openai.md")}


class Case(NamedTuple):
    """A request that a reader of the page will send, and lines that must be in its explanation."""

    request: str
    expected: tuple[str, ...]
    fields: tuple[str, ...] = ()
    body: str | None = None


APP = ("Authorization: Bearer app",)
CASES = {
    "vllm": Case("POST /v1/chat/completions", ("route: generate", "http://gpu2:8000"), (), '{"model": "m"}'),
    "sglang": Case("POST /generate", ("route: api", "http://gpu1:30000")),
    "ollama": Case("POST /api/chat", ("route: generate", "http://127.0.0.1:11434")),
    "llama-cpp": Case("POST /completion", ("route: generate", "http://127.0.0.1:8080")),
    "openai": Case(
        "POST /v1/chat/completions",
        ("host: api.openai.com", "Authorization: ***"),
        ("Authorization: Bearer search",),
    ),
    "azure-openai": Case(
        "POST /openai/v1/chat/completions", ("host: my-resource.openai.azure.com", "api-key: ***"), APP
    ),
    "anthropic": Case("POST /v1/messages", ("host: api.anthropic.com", "x-api-key: ***"), APP),
    "bedrock": Case(
        "POST /model/x/converse-stream", ("host: bedrock-runtime.us-east-1.amazonaws.com", "Authorization: ***"), APP
    ),
    "gemini": Case(
        "POST /v1beta/models/x:streamGenerateContent?alt=sse",
        ("host: generativelanguage.googleapis.com", "x-goog-api-key: ***"),
    ),
    "open-webui": Case("GET /v1/models", ("route: models",), ("Authorization: Bearer webui",)),
    "librechat": Case("GET /v1/models", ("route: librechat",), ("Authorization: Bearer librechat",)),
    "mcp": Case("GET /tools/mcp", ("GET /mcp HTTP/1.1", "x-forwarded-prefix: /tools")),
    "jupyter": Case("GET /jupyter/api/kernels/1/channels", ("host: notebooks.example",), ("Host: notebooks.example",)),
    "gradio": Case("GET /demo/gradio_api/queue/data", ("GET /gradio_api/queue/data HTTP/1.1",)),
    "downloads": Case("GET /files/a", ("route: download",)),
    "notifications": Case("GET /app", ("route: app",)),
}


def test_every_recipe_has_a_case() -> None:
    assert PAGES.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_a_recipe_begins_with_a_configuration_that_serves_its_requests(name: str) -> None:
    case = CASES[name]
    first = blocks_of(PAGES[name])[0]
    assert first.language == "yaml"
    assert first.line < 6, "the page begins with its configuration"
    config = parse_config(first.text, name=str(first), environ=ENVIRON)
    said = asyncio.run(explain(config, asked(*case.request.split(" "), case.fields, case.body)))
    text = "\n".join(said.lines).lower()
    assert said.taken, text
    assert [line for line in case.expected if line.lower() not in text] == [], text
