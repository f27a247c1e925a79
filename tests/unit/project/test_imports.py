"""The direction of imports, read from the source: what stands above may know what stands below, never the reverse."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import streamproxy

ROOT = Path(streamproxy.__file__).parent

# From the bottom up. A module has the place of the longest name here that it is, or is inside of. Modules of one
# layer may import each other, as long as no circle comes of it.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "subclassing", "version", "wire"}),
    frozenset({"config"}),
    frozenset({"client", "dialects", "exchange", "formats"}),
    frozenset({"auth", "observe", "routing", "store", "upstream"}),
    frozenset({"control", "origins"}),
    frozenset({"admin", "demo", "proxy"}),
    frozenset({"deployment", "plans"}),
    frozenset({"app", "explain"}),
    frozenset({"server"}),
    frozenset({"process"}),
    frozenset({"", "__main__", "asgi", "cli", "health", "top"}),
)
# Who may read files and the environment: the parts that put a process together, and what reads a configuration for
# them. Nobody else may ask for that.
TOP = frozenset({"", "__main__", "app", "asgi", "cli", "demo", "deployment", "process", "server"})
CONFIGURATION = frozenset({"config.load", "config.references"})
LOADERS = frozenset({"streamproxy.config.load_config", "streamproxy.config.parse_config"})
IO_MODULES = frozenset(
    {"asyncio", "http", "io", "logging", "os", "pathlib", "select", "selectors", "signal", "socket", "ssl", "time"}
    | {"subprocess", "tempfile", "threading", "urllib.request"}
)
ASYNC_SYNTAX = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
FILE_METHODS = frozenset({"read_bytes", "read_text", "write_bytes", "write_text"})
ENVIRONMENT = frozenset({"environ", "environb", "getenv", "getenvb"})


def module_name(path: Path) -> str:
    """``wire/media.py`` is ``wire.media``, ``wire/__init__.py`` is ``wire``; the package itself has the empty name."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}
TREES = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in SOURCES.items()}


def layer(module: str) -> int | None:
    """The number of a module's layer, counted from the bottom."""
    while True:
        for number, names in enumerate(LAYERS):
            if module in names:
                return number
        if "." not in module:
            return None
        module = module.rpartition(".")[0]


def imported(module: str, tree: ast.AST) -> Iterator[str]:
    """The full names of everything that a module imports, wherever in it the import stands."""
    is_package = module in SOURCES and SOURCES[module].name == "__init__.py"
    here = ["streamproxy", *filter(None, module.split("."))]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            up = node.level - is_package if node.level else 0
            base = here[: len(here) - up] if node.level else []
            prefix = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{prefix}.{alias.name}" for alias in node.names)


def own_imports(module: str, tree: ast.AST) -> set[str]:
    """The modules of the package that a module imports; names inside a module stand for the module."""
    found = set()
    for name in imported(module, tree):
        if name == "streamproxy" or name.startswith("streamproxy."):
            own = name.removeprefix("streamproxy").removeprefix(".")
            if own == "__version__":  # a constant at the head of the package, for whoever has to say it
                continue
            found.add(own if own in SOURCES else own.rpartition(".")[0])
    return found


def upward(module: str, tree: ast.AST) -> list[str]:
    """The imports of a module that point upwards."""
    own = layer(module)
    assert own is not None, f"{module} has no place in LAYERS"
    return sorted(other for other in own_imports(module, tree) if (place := layer(other)) is None or place > own)


def reads(tree: ast.AST) -> list[str]:
    """Where a module reads a file or the environment."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            found.append(f"line {node.lineno}: open")
        elif isinstance(node, ast.Attribute) and node.attr in FILE_METHODS | ENVIRONMENT:
            found.append(f"line {node.lineno}: {node.attr}")
        elif isinstance(node, ast.Attribute) and ast.unparse(node) in ("os.open", "io.open"):
            found.append(f"line {node.lineno}: {ast.unparse(node)}")
        elif isinstance(node, ast.ImportFrom) and node.module == "os":
            found += [f"line {node.lineno}: {alias.name}" for alias in node.names if alias.name in ENVIRONMENT]
    return found


def is_top(module: str) -> bool:
    return any(module == name or (name and module.startswith(f"{name}.")) for name in TOP)


def loads(module: str, tree: ast.AST) -> list[str]:
    """What a module imports in order to read a configuration file."""
    names = {name for name in imported(module, tree) if name in LOADERS or name == "streamproxy.config.load"}
    return sorted(names | {f"streamproxy.{name}" for name in own_imports(module, tree) & CONFIGURATION})


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_downwards_only(module: str) -> None:
    assert upward(module, TREES[module]) == []


def circle(trees: Mapping[str, ast.AST]) -> list[str]:
    """The modules of a circle of imports, those inside functions and for the type checker too; empty without one."""
    graph = {module: own_imports(module, tree) - {module} for module, tree in trees.items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        modules: list[str] = error.args[1]
        return modules
    return []


def test_no_modules_import_each_other_in_a_circle() -> None:
    assert circle(TREES) == []


@pytest.mark.parametrize(
    "late",
    [
        "def late():\n    from streamproxy.app import create_app",
        "class A:\n    def late(self):\n        import streamproxy.app",
        "if TYPE_CHECKING:\n    from streamproxy.app import Application",
    ],
)
def test_a_circle_is_found_wherever_its_imports_stand(late: str) -> None:
    trees = {"app": ast.parse("from streamproxy.control import Control"), "control": ast.parse(late)}
    assert sorted(set(circle(trees))) == ["app", "control"]


@pytest.mark.parametrize("module", SOURCES)
def test_every_module_has_a_layer(module: str) -> None:
    assert layer(module) is not None


def test_every_name_of_a_layer_is_a_module_and_has_one_place() -> None:
    names = [name for names in LAYERS for name in names]
    assert sorted(set(names) - set(SOURCES)) == []
    assert len(names) == len(set(names))


@pytest.mark.parametrize("module", [module for module in SOURCES if layer(module) == 0])
def test_the_rules_of_the_wire_do_no_io(module: str) -> None:
    tree = TREES[module]
    names = {
        name for full in imported(module, tree) for name in (full, full.partition(".")[0], full.rpartition(".")[0])
    }
    assert sorted(names & IO_MODULES) == []
    assert [node.lineno for node in ast.walk(tree) if isinstance(node, ASYNC_SYNTAX)] == []


def test_one_module_speaks_to_the_library_of_http2() -> None:
    """It is young, and another may have to take its place."""
    users = [
        module for module in SOURCES if {"ngh2"} & {name.partition(".")[0] for name in imported(module, TREES[module])}
    ]
    assert users == ["wire.http2.session"]


@pytest.mark.parametrize("module", [module for module in SOURCES if not is_top(module) and module not in CONFIGURATION])
def test_only_the_top_reads_files_and_the_environment(module: str) -> None:
    assert reads(TREES[module]) == []


@pytest.mark.parametrize(
    "module", [name for name in SOURCES if not is_top(name) and name.partition(".")[0] != "config"]
)
def test_only_the_top_has_a_configuration_read(module: str) -> None:
    assert loads(module, TREES[module]) == []


def test_the_wire_is_where_these_tests_look_for_it() -> None:
    assert {"wire.headers", "wire.http1", "errors"} <= {name for name in SOURCES if layer(name) == 0}


@pytest.mark.parametrize(
    ("module", "source", "expected"),
    [
        ("proxy.relay", "from streamproxy.deployment import Deployment", ["deployment"]),
        ("proxy.relay", "def late():\n    import streamproxy.top.command", ["top.command"]),
        ("wire.media", "from ..exchange import Exchange", ["exchange"]),
        ("wire.media", "from .headers import Headers", []),
        ("errors", "from streamproxy import create_app", [""]),
        ("observe.metrics", "from streamproxy import __version__, exchange", []),
        ("exchange", "from streamproxy.strange import thing", ["strange"]),
    ],
)
def test_an_import_that_points_upwards_is_found(module: str, source: str, expected: list[str]) -> None:
    assert upward(module, ast.parse(source)) == expected


@pytest.mark.parametrize(
    "source",
    ["open('x')", "Path('x').read_text()", "import os\nos.environ['X']", "from os import getenv", "io.open('x')"],
)
def test_a_read_is_found(source: str) -> None:
    assert len(reads(ast.parse(source))) == 1


@pytest.mark.parametrize(
    "source", ["from streamproxy.config import Config, load_config", "from streamproxy.config.load import parse_config"]
)
def test_a_load_is_found(source: str) -> None:
    assert loads("proxy", ast.parse(source)) != []
    assert loads("proxy", ast.parse("from streamproxy.config.model import Config")) == []
