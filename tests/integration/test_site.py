"""The site of the documentation: built with every warning an error; its links, its search, and what it asks for."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from docs import site
from tests.unit.project.markdown import DOCS, pages


class Page(HTMLParser):
    """The links, the loaded files and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loaded: set[str] = set()
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        self.anchors |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.add(values["href"])
        elif "src" in values:
            self.loaded.add(values["src"])
        elif tag == "link" and values.get("rel") in ("stylesheet", "icon", "preconnect"):
            self.loaded.add(values["href"])


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site") / "out"
    site.build(folder)
    return folder


def made_of(page: Path) -> str:
    path = page.relative_to(DOCS).with_suffix(".html").as_posix()
    return path.replace("README.html", "index.html")


def test_every_page_is_there_and_in_the_navigation(built: Path) -> None:
    index = Page(built / "index.html")
    names = {made_of(page) for page in pages()}
    assert {name for name in names if not (built / name).is_file()} == set()
    assert {name for name in names if name not in {link.removeprefix("./") for link in index.links}} <= {"index.html"}


def test_every_link_and_anchor_leads_somewhere(built: Path) -> None:
    seen = {path: Page(path) for path in built.rglob("*.html") if path.name != "404.html"}
    lost = []
    for path, page in seen.items():
        for link in page.links | page.loaded:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.is_file() or (parts.fragment and unquote(parts.fragment) not in seen[target].anchors):
                lost.append(f"{path.relative_to(built)}: {link}")
    assert lost == []


def test_no_page_asks_another_server_for_anything(built: Path) -> None:
    for path in built.rglob("*.html"):
        page = Page(path)
        assert {file for file in page.loaded if urlsplit(file).netloc} == set(), path
        assert 'data-md-component="source"' not in path.read_text()  # its script asks GitHub for stars and releases
        assert site.source() in page.links


def test_the_search_finds_every_page(built: Path) -> None:
    index = (built / "search.json").read_text()
    assert {made_of(page) for page in pages() if f'"{made_of(page)}' not in index} <= {"index.html"}
    assert "least_load" in index


def test_the_mark_of_tested_blocks_is_not_shown(built: Path) -> None:
    assert "```" not in (built / "llm.html").read_text()
    assert '<div class="highlight">' in (built / "llm.html").read_text()


def test_a_link_that_leads_nowhere_fails_the_build(
    built: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "README.md").write_text("# One\n\n[two](two.md)\n")
    settings = (DOCS / "zensical.toml").read_text()
    (tmp_path / "zensical.toml").write_text(
        settings[: settings.index("nav = [")] + settings[settings.index("[project.plugins.search]") :]
    )
    monkeypatch.setattr(site, "DOCS", tmp_path)
    with pytest.raises(SystemExit, match=r"two\.md"):
        site.build(tmp_path / "out")
