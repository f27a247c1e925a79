"""A YAML file as plain data that remembers the position of every value.

The file is composed into YAML nodes and never constructed: every scalar stays text, and the key it belongs to decides
its meaning. ``on`` is a switch where a switch is expected and text where text is expected, ``1.10`` keeps its zero, and
no YAML tag creates an object. Only a null (an empty value, or an unquoted ``~`` or ``null``) becomes None. References
are replaced in values, one scalar at a time, and never in keys.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from streamproxy.config.foreign import slip
from streamproxy.config.redact import Path
from streamproxy.config.references import References, why_unreadable
from streamproxy.config.units import is_off

_TAG = "tag:yaml.org,2002:"
_PLAIN_TAGS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge"))
_MERGE = _TAG + "merge"
_NULL = _TAG + "null"
# The limit on repeated values: ten aliases, each a list of ten aliases of the previous, would expand to ten billion.
_MOST_REPEATED = 100_000
_BARE_IPV6 = re.compile(r"(?<![\"'])\[[0-9A-Fa-f]*:[0-9A-Fa-f:.]*\]:[0-9]")


class Mark(NamedTuple):
    """A position; line and column count from 1."""

    line: int
    column: int


class Finding(NamedTuple):
    """A problem at a path. ``message`` continues a sentence that begins with the value or key at the path."""

    path: Path
    message: str
    mark: Mark | None = None  # the position, if it is not that of the value
    at_key: bool = False  # the problem is the key, not its value
    final: bool = True  # suppresses further findings about the path


class Document:
    """The data of a file (dict, list, str, None), the positions of its values and keys, and its problems."""

    def __init__(self) -> None:
        self.data: Any = None
        self.values: dict[Path, Mark] = {}
        self.keys: dict[Path, Mark] = {}
        self.outside: dict[Path, str] = {}  # values with references, as written in the file
        self.findings: list[Finding] = []

    def position(self, path: Path, *, at_key: bool = False) -> Mark:
        """Returns the position of a path, or of its longest prefix that is in the file."""
        if at_key and path in self.keys:
            return self.keys[path]
        while path and path not in self.values:
            path = path[:-1]
        return self.values.get(path, Mark(1, 1))

    def known(self, location: Path) -> Path:
        """Returns the path in the file of a value that the model names by ``location``.

        The parts that the file does not have are left out: the tags of unions, and what a short form stands for.
        """
        path: Path = ()
        for part in location:
            if (*path, part) in self.values:
                path = (*path, part)
        return path

    def get(self, path: Path) -> Any:
        """Returns the value at a path, or None if there is none."""
        value = self.data
        for part in path:
            if isinstance(value, str):
                return None
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return None
        return value

    def match(self, pattern: tuple[str, ...]) -> Iterator[Path]:
        """Yields the paths in the file that match a pattern; ``*`` matches any key and any list index."""
        paths: list[Path] = [()]
        for want in pattern:
            paths = [(*path, part) for path in paths for part in _parts(self.get(path)) if want in ("*", part)]
        yield from paths

    def in_routes(self, *keys: str) -> Iterator[Path]:
        """Yields the paths of keys of any route, one key after the other; a key is dotted, with ``*`` as in `match`."""
        for key in keys:
            yield from self.match(("routes", "*", *key.split(".")))

    def file(self, path: Path) -> str | None:
        """Returns the path of the file that a key names, or None."""
        value = self.get(path)
        return value if isinstance(value, str) and value and not is_off(value) and "\0" not in value else None

    def readable_file(self, path: Path) -> str | None:
        """Returns the path of the file that a key names, or None if there is none that can be read."""
        value = self.file(path)
        return value if value is not None and why_unreadable(value) is None else None


def _parts(value: object) -> Iterator[str | int]:
    if isinstance(value, dict):
        yield from value
    elif isinstance(value, list):
        yield from range(len(value))


def read(text: str, references: References) -> Document:
    """Reads YAML. A syntax error is also a finding, and the data is then None."""
    document = Document()
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        document.findings.append(_syntax_error(error, text))
    except yaml.reader.ReaderError as error:
        before = text[: error.position]
        mark = Mark(before.count("\n") + 1, error.position - before.rfind("\n"))
        document.findings.append(Finding((), "the file has a character that YAML does not allow", mark))
    except RecursionError:
        document.findings.append(Finding((), "the file is nested too deeply"))
    else:
        if node is not None:
            _read_values(node, document, references)
    return document


def _read_values(node: yaml.Node, document: Document, references: References) -> None:
    try:
        document.data = _Reader(document, references).value(node, ())
    except _TooMuchRepeated as error:
        document.findings[:] = [Finding((), f"aliases (*name) repeat more than {_MOST_REPEATED:,} values", error.mark)]


def _syntax_error(error: yaml.MarkedYAMLError, text: str) -> Finding:
    place = error.problem_mark or error.context_mark
    line, column = (place.line, place.column) if place is not None else (0, 0)
    message = "; ".join(part for part in (error.problem, error.context) if part)
    lines = text.splitlines()
    source = "".join(lines[line : line + 1])
    if _BARE_IPV6.search(source):
        message += '; an IPv6 address is quoted: "[::1]:8080"'
    elif "${" in source:
        message += '; inside {...} or [...] a reference is quoted: "${NAME}"'
    elif (advice := slip(lines, line)) is not None:
        message += f"; {advice}"
    return Finding((), f"not YAML: {message}", Mark(line + 1, column + 1))


class _TooMuchRepeated(Exception):
    """Aliases repeat more values than a reasonable file contains."""

    def __init__(self, mark: Mark) -> None:
        super().__init__()
        self.mark = mark


class _Reader:
    """Converts nodes into data, and records positions and findings in a document."""

    def __init__(self, document: Document, references: References) -> None:
        self._document = document
        self._references = references
        self._open: list[yaml.Node] = []  # the nodes being read, to detect one that contains itself
        self._seen: set[yaml.Node] = set()
        self._repeated = 0

    def value(self, node: yaml.Node, path: Path) -> Any:
        self._document.values[path] = _mark(node)
        self._count(node)
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        if any(node is outer for outer in self._open):
            self._find(path, "contains itself")
            return None
        if node.tag not in (_TAG + "map", _TAG + "seq"):
            self._find(path, f"has the tag {node.tag}, which means nothing here")
            return None
        self._open.append(node)
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.value(item, (*path, index)) for index, item in enumerate(node.value)]
            return self._mapping(node, path) if isinstance(node, yaml.MappingNode) else None
        finally:
            self._open.pop()

    def _count(self, node: yaml.Node) -> None:
        if node in self._seen:
            self._repeated += 1
            if self._repeated > _MOST_REPEATED:
                raise _TooMuchRepeated(_mark(node))
        self._seen.add(node)

    def _find(self, path: Path, message: str, mark: Mark | None = None) -> None:
        self._document.findings.append(Finding(path, message, mark, final=mark is None))

    def _scalar(self, node: yaml.ScalarNode, path: Path) -> str | None:
        if node.tag not in _PLAIN_TAGS:
            self._find(path, f"has the tag {node.tag}, which means nothing here")
            return None
        if node.tag == _NULL:
            return None
        try:
            text, outside = self._references.expand(node.value)
        except ValueError as error:
            self._find(path, str(error))
            return None
        if outside:
            self._document.outside[path] = node.value
        return text

    def _mapping(self, node: yaml.MappingNode, path: Path) -> dict[str, Any]:
        data: dict[str, Any] = {}
        merged: list[yaml.Node] = []
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged.append(value_node)
            elif not isinstance(key_node, yaml.ScalarNode):
                self._find(path, "has a key that is not text", _mark(key_node))
            elif key_node.value in data:
                first = self._document.keys[(*path, key_node.value)]
                message = f"duplicate key {key_node.value!r}: it is already on line {first.line}"
                self._find((*path, key_node.value), message, _mark(key_node))
            else:
                self._document.keys[(*path, key_node.value)] = _mark(key_node)
                data[key_node.value] = self.value(value_node, (*path, key_node.value))
        for value_node in merged:
            self._merge(value_node, path, data)
        return data

    def _merge(self, node: yaml.Node, path: Path, data: dict[str, Any]) -> None:
        """YAML's ``<<`` key: adds the keys of other mappings that the mapping does not have itself."""
        if any(node is outer for outer in self._open):
            self._find(path, "contains itself")
            return
        self._count(node)
        self._open.append(node)
        if isinstance(node, yaml.SequenceNode):
            for item in node.value:
                self._merge(item, path, data)
        elif isinstance(node, yaml.MappingNode):
            inner: list[yaml.Node] = []
            for key_node, value_node in node.value:
                if key_node.tag == _MERGE:
                    inner.append(value_node)
                elif isinstance(key_node, yaml.ScalarNode) and key_node.value not in data:
                    self._document.keys[(*path, key_node.value)] = _mark(key_node)
                    data[key_node.value] = self.value(value_node, (*path, key_node.value))
            for item in inner:
                self._merge(item, path, data)
        else:
            self._find(path, "merges (<<) something that is not a mapping", _mark(node))
        self._open.pop()


def _mark(node: yaml.Node) -> Mark:
    return Mark(node.start_mark.line + 1, node.start_mark.column + 1)
