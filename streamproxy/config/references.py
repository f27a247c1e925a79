"""References inside text: ``${NAME}``, ``${NAME:-default}``, ``${file:/path}``, and ``$$`` for a dollar sign.

They are replaced after the YAML was parsed, so what they stand for is never YAML itself. What they bring in is not
looked at again: a dollar sign in it is only that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

# The last alternative catches what is meant as a reference and is none.
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<has_default>:-(?P<default>[^}]*))?\}"
    r"|\{file:(?P<file>[^}]+)\}"
    r"|(?P<bad>\{[^}]*\}?))"
)


class References:
    """Replaces references from an environment and from files."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def expand(self, text: str) -> tuple[str, bool]:
        """The text with its references replaced, and whether something from outside is in it now.

        Raises ValueError with a whole sentence, which names the reference and never a value.
        """
        outside = False

        def replace(match: re.Match[str]) -> str:
            nonlocal outside
            if match["dollar"]:
                return "$"
            if match["bad"]:
                raise ValueError(
                    "has a reference that cannot be read: write ${NAME}, ${NAME:-default} or ${file:/path},"
                    " and $$ for a dollar sign"
                )
            outside = True
            if match["file"]:
                return _content(match["file"])
            return self._variable(match["name"], match["default"] if match["has_default"] else None)

        return _REFERENCE.sub(replace, text), outside

    def _variable(self, name: str, default: str | None) -> str:
        value = self._environ.get(name)
        if default is not None and not value:
            return default
        if value is None:
            raise ValueError(f"the variable {name} is not set; set it, or write ${{{name}:-default}}")
        return value


def why_unreadable(path: str) -> str | None:
    """What keeps a file from being read now and again later, None for nothing."""
    try:
        if Path(path).is_fifo():  # to open it would wait for who writes to it
            return "it is a pipe, which is read only once"
        with Path(path).open("rb"):
            return None
    except OSError as error:
        return error.strerror


def has_bare_lines(path: str) -> bool:
    """Whether a file of tokens has one that stands alone on its line, without a name. ``#`` begins a comment."""
    lines = Path(path).read_bytes().splitlines()
    return any(len(line.split()) == 1 and not line.lstrip().startswith(b"#") for line in lines)


def _content(path: str) -> str:
    """The content of a file without its final line break. Raises ValueError."""
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"the file {path} cannot be read: {why}") from None
