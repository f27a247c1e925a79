"""References inside text: ``${NAME}``, ``${NAME:-default}``, ``${file:/path}``, and ``$$`` for a dollar sign.

References are replaced after YAML was parsed, so their values are never parsed as YAML. Values are not expanded again:
a dollar sign in a value has no special meaning.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

# The last alternative catches malformed references.
_REFERENCE = re.compile(
    r"\$(?:(?P<dollar>\$)"
    r"|\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?P<has_default>:-(?P<default>[^}]*))?\}"
    r"|\{file:(?P<file>[^}]+)\}"
    r"|(?P<bad>\{[^}]*\}?))"
)


class References:
    """Replaces references with values from the environment and from files."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def expand(self, text: str) -> tuple[str, bool]:
        """Returns the text with its references replaced, and whether it contained any.

        Raises ValueError with a whole sentence that names the reference and never its value.
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
    """Returns the reason why a file cannot be read now and again later, or None."""
    try:
        if Path(path).is_fifo():  # opening it would block until a writer opens it
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
    """Returns the content of a file without its final line break. Raises ValueError."""
    try:
        return Path(path).read_text(encoding="utf-8").removesuffix("\n").removesuffix("\r")
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ValueError(f"the file {path} cannot be read: {why}") from None
