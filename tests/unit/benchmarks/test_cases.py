"""The cases of docs/comparison.md, with streamproxy itself."""

from __future__ import annotations

from benchmarks.cases.__main__ import cells
from benchmarks.cases.checks import CASES
from benchmarks.cases.setups import SETUPS

# Those that take a second or two; the others wait for a minute, or end the proxy.
QUICK = {
    "first-event": "at once",
    "keepalive": "comments",
    "leave": "at once",
    "truncation": "looks cut",
    "retry-refused": "all served",
    "retry-reset": "served",
    "error-form": "502, OpenAI's",
}


async def test_the_cases_of_the_comparison_are_as_it_says() -> None:
    found = await cells(SETUPS["streamproxy"], [case for case in CASES if case.name in QUICK])
    assert found == QUICK
