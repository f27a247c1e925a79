"""How tests wait, read from their source: for what they want to see, never for as long as it should take."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parents[2]
LONGEST = 0.2  # seconds: a longer sleep is a guess at how fast a machine is

# Loops that sleep and do not wait for anything.
LOOPS_ALLOWED = {
    "doubles/until.py": "the one place that polls",
    "faults/test_bad_days.py": "a load keeps its pace",
    "faults/test_cancel_everywhere.py": "an upstream answers in pieces",
    "faults/test_cancel_origins.py": "an upstream keeps its pace",
    "integration/test_redis_resume.py": "an upstream keeps its pace",
    "integration/test_takeover.py": "a load keeps its pace",
    "integration/test_deploy_prometheus.py": "traffic keeps its pace",
    "soak/clients.py": "clients come back when they like",
    "soak/run.py": "harm keeps its pace, and each look at what is left costs a walk over Redis's keys",
    "soak/watch.py": "samples keep their pace",
    "unit/client/http1/test_cancel.py": "an upstream answers in pieces",
    "unit/client/http2/test_cancel.py": "an upstream answers in pieces",
    "unit/client/http1/test_requests.py": "waits until nothing more is taken: a slow machine can only make it pass",
}


def is_sleep(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func) in ("sleep", "asyncio.sleep", "time.sleep")


def seconds(node: ast.AST) -> float | None:
    """How long a call of sleep lasts, if it is a constant."""
    argument = node.args[0] if isinstance(node, ast.Call) and node.args else None
    return float(argument.value) if isinstance(argument, ast.Constant) else None


def long_sleeps(tree: ast.AST) -> list[int]:
    """The lines that sleep for a constant number of seconds that is too long."""
    return sorted(node.lineno for node in ast.walk(tree) if is_sleep(node) and (seconds(node) or 0.0) >= LONGEST)


def sleeping_loops(tree: ast.AST) -> list[int]:
    """The lines of the loops that sleep in their own body, without those of functions defined in them.

    A ``while`` loop without a condition waits for nothing, so it may let others run with a sleep of no time. A ``for``
    loop only counts if it can end before its last turn: it then looks for something.
    """

    def inside(nodes: list[ast.stmt]) -> Iterator[ast.AST]:
        for node in nodes:
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield from ast.walk(node)

    def polls(loop: ast.While | ast.For) -> bool:
        found = list(inside(loop.body))
        sleeps = [node for node in found if is_sleep(node)]
        if isinstance(loop, ast.For):
            return bool(sleeps) and any(isinstance(node, ast.Return | ast.Break) for node in found)
        return any(seconds(sleep) != 0 or not isinstance(loop.test, ast.Constant) for sleep in sleeps)

    return sorted(node.lineno for node in ast.walk(tree) if isinstance(node, ast.While | ast.For) and polls(node))


SOURCES = {path.relative_to(TESTS).as_posix(): path for path in sorted(TESTS.rglob("*.py"))}


@pytest.mark.parametrize("name", SOURCES)
def test_no_test_depends_on_how_fast_the_machine_is(name: str) -> None:
    tree = ast.parse(SOURCES[name].read_text(encoding="utf-8"))
    assert long_sleeps(tree) == [], "wait for what is to happen, or turn a clock by hand"
    if name not in LOOPS_ALLOWED:
        assert sleeping_loops(tree) == [], "wait with tests.doubles.until"


def test_every_exception_is_needed() -> None:
    for name in LOOPS_ALLOWED:
        assert sleeping_loops(ast.parse(SOURCES[name].read_text(encoding="utf-8")))


def test_what_is_forbidden_is_found() -> None:
    tree = ast.parse("while not ready:\n  await asyncio.sleep(0)\nawait asyncio.sleep(0.3)\ntime.sleep(1)")
    assert (sleeping_loops(tree), long_sleeps(tree)) == ([1], [3, 4])
    assert sleeping_loops(ast.parse("for _ in range(9):\n  if ready:\n    break\n  time.sleep(0.1)")) == [1]


def test_what_is_allowed_is_not_found() -> None:
    turns = "while True:\n  await asyncio.sleep(0)\n"
    tree = ast.parse(turns + "while more:\n  async def slow():\n    await asyncio.sleep(0.1)\n  await x()")
    assert (sleeping_loops(tree), long_sleeps(tree)) == ([], [])
    assert sleeping_loops(ast.parse("for one in pieces:\n  send(one)\n  time.sleep(0.1)")) == []
