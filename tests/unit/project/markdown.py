"""Markdown as far as the tests of the documentation need it: fenced blocks, links, tables, anchors."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from tests.unit.project.dockerfile import ROOT

DOCS = ROOT / "docs"


class Block(NamedTuple):
    """A fenced block. ``tested`` says that what it shows can be run as it stands."""

    file: Path
    line: int
    language: str
    tested: bool
    text: str

    def __str__(self) -> str:
        return f"{self.file.name}:{self.line}"


def pages() -> list[Path]:
    """Every page of the documentation."""
    return sorted(DOCS.rglob("*.md"))


def blocks(language: str, *, tested: bool | None = None) -> list[Block]:
    """The fenced blocks of a language in all pages; only those that are run, or that are not, where ``tested`` says."""
    found = [block for page in pages() for block in blocks_of(page)]
    return [block for block in found if block.language == language and tested in (None, block.tested)]


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(page, text[: match.start()].count("\n") + 1, match[1], match[2] == " tested", match[3])
        for match in re.finditer(r"^```(\w+)( tested)?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    ]


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)]+)\)", prose(page))


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def table(page: Path, header: str) -> list[list[str]]:
    """The rows of the table that begins with this header cell."""
    found = re.search(rf"^\| {re.escape(header)} \|.*\n\|[-:|]+\|\n((?:\|.*\n)+)", page.read_text(), re.MULTILINE)
    assert found is not None, f"{page.name} has no table of {header}"
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found[1].splitlines()]
