"""Decides which values of a configuration may be shown.

Hidden are all values from outside the file (``${...}``), header values, tokens and keys that are secret by name, and
the passwords of URLs, before their host and in their options. Names and addresses are shown even if they came from
outside: they occur in metrics and logs, and the URL of an endpoint cannot contain a credential.
"""

from __future__ import annotations

import re
from collections.abc import Set
from typing import Any

Path = tuple[str | int, ...]

HIDDEN = "***"
_SECRET_HEADER = re.compile(
    r"auth|cookie|token|secret|passw|credential|signature|session|api-?_?key|access-?_?key|(^|[-_])key$",
    re.IGNORECASE,
)
_HEADER_MAPS = {"set", "add", "headers"}
_SECRET_KEYS = {"tokens", "secret"}
_CREDENTIAL = re.compile(r"(bearer|basic|token) ", re.IGNORECASE)
_USERINFO = re.compile(r"(?<=://)[^/]*(?=@)")
_SECRET_OPTION = re.compile(r"(?<=[?&])([^=&#\s]*(?:passw|secret|token)[^=&#\s]*=)[^&#\s]*", re.IGNORECASE)
_PUBLIC = (
    ("server", "listen"),
    ("admin", "listen"),
    ("upstreams", "*", "endpoints"),
    ("routes", "*", "name"),
    ("routes", "*", "upstream"),
)


def _public(path: Path) -> bool:
    return any(
        len(path) >= len(pattern) and all(want in ("*", part) for want, part in zip(pattern, path, strict=False))
        for pattern in _PUBLIC
    )


def is_secret(path: Path) -> bool:
    """Whether the name of a key marks its value as a secret."""
    if any(part in _SECRET_KEYS for part in path):
        return True
    if path == ("admin", "token"):
        return True
    if path[:2] == ("tracing", "headers") and len(path) == 3:
        return True  # collectors use many header names for their keys
    return len(path) > 1 and path[-2] in _HEADER_MAPS and _SECRET_HEADER.search(str(path[-1])) is not None


def _redact(value: Any, path: Path, outside: Set[Path]) -> Any:
    if value is None or value == {} or value == []:
        return value
    if (path in outside and not _public(path)) or is_secret(path):
        return HIDDEN
    if isinstance(value, dict):
        return {name: _redact(item, (*path, name), outside) for name, item in value.items()}
    if isinstance(value, list):
        return [_redact(item, (*path, index), outside) for index, item in enumerate(value)]
    if isinstance(value, str):
        return HIDDEN if _CREDENTIAL.match(value) else shown_url(value)
    return value


def shown_field(name: str, value: str) -> str:
    """The value of a header field as it may be shown: hidden where its name or its form says that it is a secret."""
    if _SECRET_HEADER.search(name) or _CREDENTIAL.match(value):
        return HIDDEN
    return shown_url(value)


def shown_url(text: str) -> str:
    """A text with the user and password of each URL hidden, and the options that are secret by name."""
    return _SECRET_OPTION.sub(rf"\1{HIDDEN}", _USERINFO.sub(HIDDEN, text))


def redact(plain: dict[str, Any], outside: Set[Path]) -> dict[str, Any]:
    """Returns plain data with its secrets as ``***``; ``outside`` has the paths of the values from ``${...}``."""
    return {name: _redact(value, (name,), outside) for name, value in plain.items()}
