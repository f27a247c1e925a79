"""Makes the site of the documentation: ``python -m docs.site FOLDER``.

The pages are Markdown as the repository shows it. What a site shows differently is changed in a copy: links that leave
``docs/`` lead to the repository, and the mark of blocks that are tested goes. Every warning is an error. The site asks
no other server for anything; its search needs to be served, as `python -m http.server` does.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
PICTURES = ("*.png", "*.svg")


def source() -> str:
    """Return the URL of the repository."""
    url: str = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Source"]
    return url


def as_page(text: str, page: Path, repository: str) -> str:
    """Return the text of the Markdown file ``page`` for the site of the repository at this URL."""

    def link(match: re.Match[str]) -> str:
        path, mark, anchor = match[1].partition("#")
        target = (page.parent / path).resolve()
        if "://" in match[1] or not path or target.is_relative_to(DOCS):
            return match[0]
        kind = "tree" if target.is_dir() else "blob"
        return f"]({repository}/{kind}/main/{target.relative_to(ROOT).as_posix()}{mark}{anchor})"

    text = re.sub(r"^```(\w+) tested$", r"```\1", text, flags=re.MULTILINE)
    return re.sub(r"\]\(([^)\s]+)\)", link, text)


def _link_to(repository: str) -> str:
    """Return the settings of a link to the repository. `repo_url` would have each page ask GitHub for its stars."""
    values = {"icon": "fontawesome/brands/git-alt", "link": repository, "name": "The repository"}
    return "\n[[project.extra.social]]\n" + "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items())


def build(folder: Path) -> None:
    """Make the site in a folder, which is emptied before. Raises SystemExit if a page has a fault."""
    repository = source()
    with tempfile.TemporaryDirectory() as name:
        copy = Path(name)
        for page in DOCS.rglob("*.md"):
            target = copy / "docs" / page.relative_to(DOCS)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(as_page(page.read_text(), page, repository))
        for picture in (found for pattern in PICTURES for found in DOCS.rglob(pattern)):
            shutil.copy(picture, copy / "docs" / picture.relative_to(DOCS))
        (copy / "zensical.toml").write_text((DOCS / "zensical.toml").read_text() + _link_to(repository))
        command = [sys.executable, "-m", "zensical", "build", "--strict", "--clean"]
        done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr))
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(copy / "site", folder)


if __name__ == "__main__":
    build(Path(sys.argv[1]).resolve())
