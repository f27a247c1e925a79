"""The page: what it may load and run, and what its markup promises to those who don't see it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser

import httpx2
import pytest

from streamproxy.admin.app import create_admin
from streamproxy.admin.page import page
from tests.unit.admin.proxy import SeenProxy
from tests.unit.admin.test_app import browse


class Document(HTMLParser):
    """The elements of a document, and the text of those that hold code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, str] = {}
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.code[self._open] = self.code.get(self._open, "") + data

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


DOCUMENT = Document(page().decode())


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with browse(create_admin(SeenProxy())) as client:
        yield client


async def test_only_the_code_that_belongs_to_the_page_may_run(client: httpx2.AsyncClient) -> None:
    response = await client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in response.headers["content-security-policy"].split("; "))
    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(DOCUMENT.code[tag].encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"
    assert policy["default-src"] == "'none'"
    assert policy["frame-ancestors"] == "'none'"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"


def test_the_page_loads_nothing_and_has_no_inline_handlers() -> None:
    for _, attributes in DOCUMENT.elements:
        assert not [name for name in attributes if name.startswith("on") or name in ("src", "style", "srcset")]
    assert [link["href"] for link in DOCUMENT.all("link")] == ["data:,"]
    assert "@import" not in DOCUMENT.code["style"]
    assert "url(" not in DOCUMENT.code["style"]
    assert re.findall(r"https?://[^\"]+", page().decode()) == ["http://www.w3.org/2000/svg"]


@pytest.mark.parametrize(
    "way", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function("]
)
def test_text_never_becomes_markup(way: str) -> None:
    assert way not in DOCUMENT.code["script"]


def test_every_column_has_a_scope_and_every_control_a_name() -> None:
    assert {header.get("scope") for header in DOCUMENT.all("th")} == {"col", "colgroup"}
    assert all("aria-labelledby" in section for section in DOCUMENT.all("section"))
    labelled = {value["aria-labelledby"] for _, value in DOCUMENT.elements if "aria-labelledby" in value}
    assert labelled <= {value["id"] for _, value in DOCUMENT.elements if "id" in value}
    assert DOCUMENT.all("html")[0]["lang"] == "en"


async def test_head_and_wrong_methods_are_answered_as_elsewhere(client: httpx2.AsyncClient) -> None:
    head = await client.head("/")
    assert (head.status_code, head.headers["content-type"]) == (200, "text/html; charset=utf-8")
    wrong = await client.post("/")
    assert (wrong.status_code, set(wrong.headers["allow"].split(", "))) == (405, {"GET", "HEAD"})
