"""What the source must keep to that no tool checks: who sets what, and that nothing stands in two places."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import streamproxy

ROOT = Path(streamproxy.__file__).parent
SOURCES = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in sorted(ROOT.rglob("*.py"))}


def assigned(tree: ast.AST) -> Iterator[ast.expr]:
    """Everything that is assigned to, the members of tuples apart."""
    for node in ast.walk(tree):
        targets: list[ast.expr] = []
        if isinstance(node, ast.Assign):
            targets = node.targets
        elif isinstance(node, (ast.AnnAssign, ast.AugAssign)):
            targets = [node.target]
        for target in targets:
            yield from target.elts if isinstance(target, (ast.Tuple, ast.List)) else [target]


def sets_timer(tree: ast.AST) -> list[str]:
    """The assignments to a field of some timer: of ``timer``, ``self._timer``, ``call.timer``."""
    found = []
    for target in assigned(tree):
        if isinstance(target, ast.Attribute):
            owner = target.value
            name = owner.id if isinstance(owner, ast.Name) else owner.attr if isinstance(owner, ast.Attribute) else ""
            if name.lstrip("_") == "timer":
                found.append(f"line {target.lineno}: {ast.unparse(target)}")
    return found


@pytest.mark.parametrize("module", [name for name in SOURCES if name != "exchange/timer.py"])
def test_a_timers_fields_are_set_by_its_own_methods(module: str) -> None:
    assert sets_timer(ast.parse(SOURCES[module])) == []


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("timer.since = now", 1),
        ("self._timer.since = now", 1),
        ("call.timer.early_at += 1", 1),
        ("a, self._call.timer.early_at = 1, 2", 1),
        ("self._timer = timer", 0),
        ("since = timer.since", 0),
    ],
)
def test_an_assignment_to_a_timers_field_is_found(source: str, count: int) -> None:
    assert len(sets_timer(ast.parse(source))) == count


def statements(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[ast.stmt]:
    """The statements of a function without its docstring."""
    body = function.body
    first = body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    return body[1:] if documented else body


def functions_by_code(sources: dict[str, str]) -> dict[str, list[str]]:
    """The names of all functions of more than a few statements, by what they do."""
    found: dict[str, list[str]] = {}
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                code = statements(node)
                if sum(isinstance(part, ast.stmt) for whole in code for part in ast.walk(whole)) > 3:
                    key = "\n".join(ast.dump(statement) for statement in code)
                    found.setdefault(key, []).append(f"{module}: {node.name}")
    return found


def test_no_function_stands_in_two_places() -> None:
    assert [names for names in functions_by_code(SOURCES).values() if len(names) > 1] == []


def test_a_function_that_stands_in_two_places_is_found() -> None:
    code = "def {}():\n    {}\n    a = 1\n    if a:\n        a = 2\n    return a"
    sources = {"a.py": code.format("one", "'Said so.'"), "b.py": code.format("other", "'Said otherwise.'")}
    assert list(functions_by_code(sources).values()) == [["a.py: one", "b.py: other"]]
