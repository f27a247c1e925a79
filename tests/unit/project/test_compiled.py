"""The compiled build: which modules it has, what they may not do, and who gets it."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from hatch_build import mark_hot

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
MODULES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]


class Handlers(ast.NodeVisitor):
    """Finds the lines that wait inside of ``except`` and ``finally``."""

    def __init__(self) -> None:
        self.lines: list[int] = []
        self._handling = False

    def _inside(self, nodes: list[ast.stmt], handling: bool) -> None:
        before, self._handling = self._handling, handling
        for node in nodes:
            self.visit(node)
        self._handling = before

    def visit_Try(self, node: ast.Try) -> None:
        self._inside([*node.body, *node.orelse], self._handling)
        for handler in node.handlers:
            self._inside(handler.body, True)
        self._inside(node.finalbody, True)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._inside(node.body, False)

    def visit_Await(self, node: ast.Await) -> None:
        self._note(node, self._handling)

    def visit_AsyncFor(self, node: ast.AsyncFor) -> None:
        self._note(node, self._handling)

    def visit_AsyncWith(self, node: ast.AsyncWith) -> None:
        self._note(node, True)  # it waits for __aexit__ while it handles what was raised

    def _note(self, node: ast.Await | ast.AsyncFor | ast.AsyncWith, found: bool) -> None:
        if found:
            self.lines.append(node.lineno)
        self.generic_visit(node)


def waits(source: str) -> list[int]:
    finder = Handlers()
    finder.visit(ast.parse(source))
    return finder.lines


def test_the_list_of_modules_is_in_order_and_true() -> None:
    assert sorted(set(MODULES)) == MODULES
    assert all((ROOT / module).is_file() for module in MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_compiled_code_never_waits_while_it_handles_an_exception(module: str) -> None:
    """A coroutine of mypyc's has no place of its own for the exception that it handles, as an interpreted one has: one
    that waits there meets the exceptions of other tasks when it goes on, and raises them, or crashes."""
    assert waits((ROOT / module).read_text()) == []


@pytest.mark.parametrize(
    "body",
    [
        "try:\n  f()\n except E:\n  await g()",
        "try:\n  f()\n finally:\n  await g()",
        "try:\n  f()\n except E:\n  if x:\n   async for y in g(): pass",
        "async with g():\n  pass",
    ],
)
def test_a_wait_in_a_handler_is_found(body: str) -> None:
    assert waits(f"async def one():\n {body}")


def test_a_wait_elsewhere_is_none() -> None:
    assert not waits("async def one():\n try:\n  await f()\n except E:\n  pass\n else:\n  await g()\n await h()")


def wheel(directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Build a wheel of this checkout, with these variables and no others of ours.

    The build backend does it here; `make dist` has the tools do it, each time in an environment of its own.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "STREAMPROXY"))}
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(directory)]
    return subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module", params=[{}, {"STREAMPROXY_COMPILE": "0"}], ids=["unset", "0"])
def pure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    done = wheel(directory, **request.param)
    assert done.returncode == 0, done.stdout + done.stderr
    (made,) = directory.iterdir()
    return made


def test_a_wheel_is_pure_unless_it_is_asked_to_be_compiled(pure: Path) -> None:
    assert pure.name.endswith("-py3-none-any.whl")


def test_a_wheel_has_the_files_that_are_not_python(pure: Path) -> None:
    names = set(zipfile.ZipFile(pure).namelist())
    assert {"streamproxy/py.typed", "streamproxy/config/schema.json", "streamproxy/admin/assets/page.html"} <= names


def test_a_wish_that_is_neither_yes_nor_no_is_refused(tmp_path: Path) -> None:
    done = wheel(tmp_path, STREAMPROXY_COMPILE="auto")
    assert done.returncode != 0
    assert "it is 1 to compile the hot modules, 0 or unset for pure Python" in done.stdout + done.stderr


def test_functions_that_run_often_are_marked_where_they_are_defined(tmp_path: Path) -> None:
    text = """PyObject *CPyDef_relay___Relay___run(PyObject *cpy_r_self);
PyObject *CPyDef_relay___Relay___run(PyObject *cpy_r_self) {
    PyObject *cpy_r_r0;
    if (cpy_r_self) {
        cpy_r_r0 = CPyDef_relay___Relay____end(cpy_r_self);
    }
}
static void
relay___Relay_dealloc(relay___RelayObject *self)
{
}
char CPyDef_relay___Relay____end(PyObject *cpy_r_self)
{
}
"""
    file = tmp_path / "__native.c"
    file.write_text(text)
    assert mark_hot(tmp_path, {"CPyDef_relay___Relay___run", "relay___Relay_dealloc", "CPyDef_gone"}) == 2
    marked = file.read_text()
    assert marked.replace("__attribute__((hot)) ", "") == text
    assert marked.count("\n__attribute__((hot)) PyObject *CPyDef_relay___Relay___run(PyObject *cpy_r_self) {") == 1
    assert marked.count("\n__attribute__((hot)) static void\nrelay___Relay_dealloc(") == 1


def test_the_functions_that_run_often_are_those_of_modules_that_are_compiled() -> None:
    names = (ROOT / "hot_functions.txt").read_text().split()
    assert names == sorted(set(names))
    stems = {Path(module).stem for module in MODULES} | {Path(module).parent.name for module in MODULES}
    of = {
        name: next((stem for stem in stems if f"{stem}___" in name or f"{stem}_____" in name), None) for name in names
    }
    assert [name for name, stem in of.items() if stem is None] == []
    assert {"relay", "handle", "encode", "sse"} <= {stem for stem in of.values() if stem is not None}
