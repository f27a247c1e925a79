"""What the source must keep to that no tool checks: who sets what, and how long a module may become."""

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
