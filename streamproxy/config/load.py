"""Loads a file into a `Config`, or reports every problem of the file at once.

A file passes through three stages: the document (YAML, duplicate keys, references), the model (keys and values), and
the checks between keys. Callers may add checks to the last stage. Each stage reports what it finds, and a value that an
earlier stage reported is not reported again by a later one.
"""

from __future__ import annotations

import pathlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from streamproxy.config import checks
from streamproxy.config.document import Document, Finding, read
from streamproxy.config.examples import EXAMPLES, section_of
from streamproxy.config.fields import field_at, keys_of, model_at
from streamproxy.config.foreign import familiar, instead, recognised
from streamproxy.config.model import Config, default_name
from streamproxy.config.redact import Path, is_secret
from streamproxy.config.references import References
from streamproxy.config.units import is_on
from streamproxy.errors import ConfigError, Problem

# A message repeats a value only if it looks as harmless as a duration, a name or an address.
_HARMLESS = re.compile(r"[\w .,:/*%\[\]-]{1,60}")
# A long run of letters and digits may be a secret in the wrong place.
_LIKE_A_KEY = re.compile(r"[A-Za-z0-9_-]{24,}")
_PREDICATES = ("is ", "has ", "must ", "can")  # how messages begin that follow the value
_WANTED = {
    "tuple_type": "must be a list, in brackets: [a, b]",
    "list_type": "must be a list, in brackets: [a, b]",
    "string_type": "must be text",
}


Examine = Callable[[Document], Iterable[Finding]]


def _nothing_more(document: Document) -> Iterable[Finding]:
    return ()


def load_config(
    path: str | pathlib.Path, environ: Mapping[str, str] | None = None, *, examine: Examine = _nothing_more
) -> Config:
    """Reads a configuration file. ``environ`` holds the variables for ``${NAME}``; None means no variables.

    ``examine`` returns further findings about a document from the parts that will use it. Raises ConfigError with every
    problem of the file.
    """
    try:
        text = pathlib.Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError([Problem(str(path), 1, 1, "", f"cannot be read: {error.strerror}")]) from None
    except UnicodeDecodeError:
        raise ConfigError([Problem(str(path), 1, 1, "", "cannot be read: it is not UTF-8 text")]) from None
    return parse_config(text, name=str(path), environ=environ, examine=examine)


def parse_config(
    text: str, *, name: str, environ: Mapping[str, str] | None = None, examine: Examine = _nothing_more
) -> Config:
    """Parses the text of a configuration file. ``name`` is shown in messages; the rest is as in `load_config`.

    Raises ConfigError with every problem of the text.
    """
    document = read(text, References(environ or {}))
    if (other := recognised(document.data, text)) is not None:
        raise ConfigError([_problem(Finding((), f"this is {other}; {instead(other)}"), document, name)])
    if not isinstance(document.data, dict):
        found = document.findings or [_no_mapping(document)]
        raise ConfigError(_problem(finding, document, name) for finding in found)
    _name_routes(document)
    config, findings = _validate(document, examine)
    if config is None or findings:
        problems = {_problem(finding, document, name) for finding in findings}
        raise ConfigError(sorted(problems))
    return config.hiding(document.outside)


def _no_mapping(document: Document) -> Finding:
    if document.data is None:
        return Finding((), "the file is empty: at least routes is needed")
    return Finding((), "must be a mapping of keys: at least routes is needed")


def _name_routes(document: Document) -> None:
    """Names a route without a name after its path as written, so that values from ``${...}`` stay out of metrics."""
    for path in document.match(("routes", "*")):
        route = document.get(path)
        if isinstance(route, dict) and "name" not in route:
            given = document.outside.get((*path, "path")) or document.outside.get((*path, "path", 0))
            if given is not None and default_name(route):
                route["name"] = given


def _validate(document: Document, examine: Examine) -> tuple[Config | None, list[Finding]]:
    findings = [*document.findings]
    settled = [finding.path for finding in findings if finding.final]
    config: Config | None = None
    model: list[Finding] = []
    try:
        config = Config.model_validate(document.data)
    except ValidationError as error:
        # A value that is not there, such as an unset variable, is also missing to the section that it is in.
        hurt = {path[:-1] for path in settled}
        model = [
            finding
            for finding in _model_findings(error, document)
            if not _below(finding.path, settled) and (finding.at_key or finding.path not in hurt)
        ]
    faulty = {finding.path for finding in model}
    between = [
        finding
        for finding in (*checks.find(document), *examine(document))
        if finding.path not in faulty and not _below(finding.path, settled)
    ]
    return config, [*findings, *model, *between]


def _below(path: Path, others: list[Path]) -> bool:
    return any(path[: len(other)] == other for other in others)


def _model_findings(error: ValidationError, document: Document) -> Iterator[Finding]:
    for details in error.errors(include_url=False, include_input=False):
        location = details["loc"]
        path = document.known(location)
        if location[-1:] == ("[key]",):
            key = location[-2]
            yield Finding(location[:-1], f"{key!r} {_message(details)}", at_key=True)
        elif details["type"] == "missing":
            yield Finding((*path, location[-1]), f"is missing: {field_at(Config, location).description}")
        elif details["type"] == "extra_forbidden":
            yield Finding(path, _unknown_key(location), at_key=True)
        else:
            if location[0] == "routes" and location[2:] == ("name",) and document.get(location) is None:
                continue  # the default name is derived from the path, which is invalid
            yield Finding(path, _message(details, path) + _defaults(document.get(path), path))


def _defaults(value: object, path: Path) -> str:
    """Returns the end of a message about ``on`` in the place of a section, if the section needs no keys."""
    model = model_at(Config, path) if is_on(value) else None
    if model is None or any(field.is_required() for field in model.model_fields.values()):
        return ""
    return "; {} switches it on with its defaults"


def _unknown_key(location: Path) -> str:
    if (better := familiar(location)) is not None:
        return f"unknown key; {better}"
    model = model_at(Config, location[:-1])
    known = keys_of(model) if model is not None else {}
    return f"unknown key; {checks.suggest(str(location[-1]), known, otherwise='the keys here are:')}"


def _message(details: ErrorDetails, path: Path = ()) -> str:
    kind = details["type"]
    context: dict[str, Any] = details.get("ctx", {})
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"is not allowed here: write {context['expected'].replace(chr(39), '')}"
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        model = model_at(Config, path)
        keys = f" with the keys {', '.join(keys_of(model))}" if model is not None else ""
        example = EXAMPLES.get(section_of(path))
        return f"must be a mapping{keys}" + (f"; write {example}" if example is not None else "")
    return _WANTED.get(kind, details["msg"])


def _problem(finding: Finding, document: Document, name: str) -> Problem:
    mark = finding.mark or document.position(finding.path, at_key=finding.at_key)
    message = finding.message
    if message.startswith(_PREDICATES) and finding.mark is None and not finding.at_key:
        message = f"{_shown(finding.path, document)}{message}"
    return Problem(name, mark.line, mark.column, _dotted(finding.path), message)


def _shown(path: Path, document: Document) -> str:
    """Returns the value at a path to begin a message with; empty if it is long, unusual or may be a secret."""
    value = document.get(path)
    if not isinstance(value, str) or path in document.outside or is_secret(path):
        return ""
    if path[-2:-1] in (("set",), ("add",), ("headers",)) or not _HARMLESS.fullmatch(value) or _LIKE_A_KEY.search(value):
        return ""
    return f"{value!r} "


def _dotted(path: Path) -> str:
    """Formats a path as ``routes[0].timeouts.idle``."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".")
