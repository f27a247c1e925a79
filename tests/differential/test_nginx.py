"""A few hundred mutated messages through nginx in front of the proxy and behind it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.differential.mutations import case, response
from tests.differential.recorder import Seen
from tests.differential.run import Way, is_part, requests, responses
from tests.doubles.parts import require

PAIRS = [("nginx", "streamproxy"), ("streamproxy", "nginx")]


@pytest.mark.parametrize(("front", "back"), PAIRS)
async def test_a_request_is_the_same_for_both_or_refused(front: str, back: str, tmp_path: Path) -> None:
    require("nginx")
    outcome = await requests(Way(front, back), tmp_path, range(120), seed=1)
    assert outcome.wrong == []
    assert outcome.taken_by_both >= 20


@pytest.mark.parametrize(("front", "back"), PAIRS)
async def test_a_response_holds_nothing_of_another(front: str, back: str, tmp_path: Path) -> None:
    require("nginx")
    outcome = await responses(Way(front, back), tmp_path, range(120), seed=1)
    assert outcome.wrong == []
    assert outcome.taken_by_both >= 60


def test_a_smuggled_request_is_seen() -> None:
    first, second = Seen(b"GET", b"/a", b""), Seen(b"GET", b"/b", b"")
    assert is_part([], [first])
    assert is_part([first], [first, second])
    assert not is_part([first, second], [first])
    assert not is_part([second, first], [first, second])
    assert not is_part([Seen(b"GET", b"/a", b"x")], [first])


def test_the_same_seed_makes_the_same_messages() -> None:
    assert [case(number, 1) for number in range(50)] == [case(number, 1) for number in range(50)]
    assert case(1, 1) != case(1, 2)
    assert len({response(number, 1) for number in range(50)}) > 40
