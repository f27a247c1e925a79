"""A few hundred mutated messages through nginx in front of the proxy and behind it, and over HTTP/2 through two."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.differential.mutations import case, http2_case, response
from tests.differential.recorder import Seen
from tests.differential.run import Way, is_part, requests, responses
from tests.doubles.parts import require

WAYS = [
    Way("nginx", "streamproxy"),
    Way("streamproxy", "nginx"),
    Way("streamproxy", "nginx", client="HTTP/2"),
    Way("streamproxy", "streamproxy", link="HTTP/2"),
]


@pytest.mark.parametrize("way", WAYS, ids=str)
async def test_a_request_is_the_same_for_both_or_refused(way: Way, tmp_path: Path) -> None:
    require("nginx")
    outcome = await requests(way, tmp_path, range(80), seed=1)
    assert outcome.wrong == []
    assert outcome.taken_by_both >= 15


@pytest.mark.parametrize("way", [way for way in WAYS if way.client == "HTTP/1.1"], ids=str)
async def test_a_response_holds_nothing_of_another(way: Way, tmp_path: Path) -> None:
    require("nginx")
    outcome = await responses(way, tmp_path, range(80), seed=1)
    assert outcome.wrong == []
    assert outcome.taken_by_both >= 40


def test_a_smuggled_request_is_seen() -> None:
    first, second = Seen(b"GET", b"/a", b""), Seen(b"GET", b"/b", b"")
    assert is_part([], [first])
    assert is_part([first], [first, second])
    assert not is_part([first, second], [first])
    assert not is_part([second, first], [first, second])
    assert not is_part([Seen(b"GET", b"/a", b"x")], [first])


def test_the_same_seed_makes_the_same_messages() -> None:
    assert [case(number, 1) for number in range(50)] == [case(number, 1) for number in range(50)]
    assert [http2_case(number, 1) for number in range(50)] == [http2_case(number, 1) for number in range(50)]
    assert case(1, 1) != case(1, 2)
    assert len({response(number, 1) for number in range(50)}) > 40
