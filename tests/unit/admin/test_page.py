"""The page: what it may load and run, and what its markup promises to those who don't see it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import AsyncIterator, Mapping
from html.parser import HTMLParser

import httpx2
import pytest

from streamproxy.admin.app import create_admin
from streamproxy.admin.page import PAGE, make_page
from streamproxy.admin.tries import Tries, Try
from tests.unit.admin.proxy import SeenProxy
from tests.unit.admin.test_app import browse


class Document(HTMLParser):
    """The elements of a document, and the text of those that hold code."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.code: dict[str, str] = {}  # of each kind, all of it
        self.pieces: list[tuple[str, str]] = []  # and each element's
        self._open = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_data(self, data: str) -> None:
        if self._open in ("script", "style"):
            self.code[self._open] = self.code.get(self._open, "") + data
            self.pieces.append((self._open, data))

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


DOCUMENT = Document(PAGE.document.decode())


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with browse(create_admin(SeenProxy())) as client:
        yield client


def digest(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"


def directives(headers: Mapping[str, str]) -> dict[str, str]:
    return dict(part.split(" ", 1) for part in headers["content-security-policy"].split("; "))


async def test_only_the_code_that_belongs_to_the_page_may_run(client: httpx2.AsyncClient) -> None:
    response = await client.get("/")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    policy = directives(response.headers)
    for tag in ("script", "style"):
        assert policy[f"{tag}-src"] == digest(DOCUMENT.code[tag])
    assert policy["connect-src"] == "'self'"
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
    assert re.findall(r"https?://[^\"]+", PAGE.document.decode()) == ["http://www.w3.org/2000/svg"]


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


EVIL = '"><script>alert(1)</script>'


def test_requests_to_try_are_buttons_whose_texts_stay_texts() -> None:
    document = Document(make_page(Tries(8080, [Try(EVIL, EVIL, f"/{EVIL}", f"[{EVIL}]")])).document.decode())
    (button,) = [attributes for attributes in document.all("button") if "data-target" in attributes]
    assert (button["data-target"], button["data-body"], button["title"]) == (f"/{EVIL}", f"[{EVIL}]", EVIL)
    assert len(document.all("script")) == 2


def test_the_page_with_requests_may_connect_to_the_port_of_the_proxy_and_run_one_more_script() -> None:
    page = make_page(Tries(4711, [Try("Clock", "", "/events")]))
    document, policy = Document(page.document.decode()), directives(page.headers)
    assert policy["connect-src"] == "'self' http://*:4711"
    scripts = {digest(code) for tag, code in document.pieces if tag == "script"}
    assert len(scripts) == 2
    assert set(policy["script-src"].split(" ")) == scripts
    assert {**policy, "connect-src": "", "script-src": ""} == {
        **directives(PAGE.headers),
        "connect-src": "",
        "script-src": "",
    }
    assert all(attributes.get("aria-labelledby") for attributes in document.all("section"))


def test_the_page_of_any_other_proxy_has_nothing_to_try() -> None:
    assert b'id="tries"' not in PAGE.document
