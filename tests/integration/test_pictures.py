"""The pictures of the documentation: all of them are taken by ``make pictures``, and that works."""

from __future__ import annotations

import re
from pathlib import Path

from docs.pictures import DOCS, SCHEMES, SIZE, pictures
from tests.doubles.leaks import LeakCheck
from tests.integration.browser import RunningBrowser

CHAT = "chat.png"  # taken by test_chat_page.py
LEAST = 20_000  # bytes; a page without anything on it has fewer


def size_of(picture: bytes) -> tuple[int, int]:
    """The width and height of a PNG."""
    assert picture.startswith(b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR")
    return int.from_bytes(picture[16:20]), int.from_bytes(picture[20:24])


async def test_the_page_is_taken_in_both_colour_schemes(leaks: LeakCheck, running_chromium: RunningBrowser) -> None:
    taken = await pictures(running_chromium, 0)
    assert taken.keys() == SCHEMES.keys()
    for name, picture in taken.items():
        assert size_of(picture) == size_of((DOCS / name).read_bytes()) == (SIZE["width"], SIZE["height"])
        assert len(picture) > LEAST
    assert len(set(taken.values())) == len(SCHEMES)


def test_every_picture_is_one_that_is_taken_and_shown() -> None:
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]
    shown = {Path(link).name for page in pages for link in re.findall(r"\(([^()\s]+\.png)\)", page.read_text())}
    assert shown == {file.name for file in DOCS.glob("*.png")} == {*SCHEMES, CHAT}
