"""Conversations stay where their beginning is cached, and no endpoint is given much more than its share."""

from __future__ import annotations

import json
import math
import random
from collections import Counter, deque

from hypothesis import given
from hypothesis import strategies as st

from streamproxy.upstream.affinity import key_of
from streamproxy.upstream.balance.policies import PrefixHash
from tests.unit.upstream.test_balance import Fake, fakes, keys

SYSTEM = {"role": "system", "content": "You are helpful."}


def chat(user: str, turns: int, model: str = "m") -> bytes:
    messages = [SYSTEM, {"role": "user", "content": f"I am {user}"}]
    for turn in range(turns):
        messages += [{"role": "assistant", "content": f"{turn}"}, {"role": "user", "content": f"and {turn}?"}]
    return json.dumps({"model": model, "messages": messages, "stream": True, "temperature": turns}).encode()


def test_all_turns_of_a_conversation_have_one_key() -> None:
    assert len({key_of(chat("anna", turn), 4096) for turn in range(10)}) == 1
    assert key_of(chat("anna", 0), 4096) != key_of(chat("berta", 0), 4096)
    assert key_of(chat("anna", 0), 4096) != key_of(chat("anna", 0, "other"), 4096)


def test_of_a_plain_prompt_its_beginning_is_the_key() -> None:
    assert key_of(b'{"model": "m", "prompt": "abcdef"}', 4) == key_of(b'{"model": "m", "prompt": "abcdxyz"}', 4)
    assert key_of(b'{"model": "m", "prompt": "abcdef"}', 5) != key_of(b'{"model": "m", "prompt": "abcdxyz"}', 5)


def test_what_is_no_conversation_has_no_key() -> None:
    for body in (b"", b"{", b"[]", b"{}", b'{"model": "m"}', b"\xff\xfe", b'{"model":"a","model":"b","prompt":"x"}'):
        assert key_of(body, 4096) is None


@given(st.lists(st.integers(0, 30), min_size=1, max_size=8), st.floats(1.0, 3.0), keys)
def test_no_pick_makes_an_endpoint_fuller_than_the_factor_allows(streams: list[int], factor: float, key: bytes) -> None:
    candidates = fakes([1.0] * len(streams))
    for candidate, count in zip(candidates, streams, strict=True):
        candidate.streams = count
    picked = PrefixHash(factor).pick(candidates, key)
    mean = (sum(streams) + 1) / len(streams)
    assert picked.streams + 1 <= math.ceil(factor * mean)


@given(st.integers(2, 6), keys)
def test_two_processes_agree_and_a_leaver_moves_only_its_own_keys(count: int, key: bytes) -> None:
    candidates = fakes([1.0] * count)
    for candidate in candidates:
        candidate.streams = 100  # every one has room
    picked = PrefixHash(1.25).pick(candidates, key)
    assert PrefixHash(1.25).pick(list(reversed(candidates)), key) is picked
    leaver = candidates[0]
    if picked is not leaver:
        assert PrefixHash(1.25).pick(candidates[1:], key) is picked


def stay(seed: int, users: int, turns: int, concurrent: int) -> tuple[float, Counter[str]]:
    """The share of the further turns that go where the conversation's last one went, ``concurrent`` at any time."""
    random_numbers = random.Random(seed)
    candidates, balancer = fakes([1.0] * 4), PrefixHash(1.25)
    at: dict[int, Fake] = {}
    running: deque[Fake] = deque()
    requests = [user for user in range(users) for _ in range(turns)]
    random_numbers.shuffle(requests)
    stayed, spread = 0, Counter[str]()
    for user in requests:
        if len(running) >= concurrent:
            running.popleft().streams -= 1
        key = key_of(chat(str(user), 0), 4096)
        picked = balancer.pick(candidates, key)
        stayed += at.get(user) is picked
        spread[picked.url] += 1
        at[user] = picked
        picked.streams += 1
        running.append(picked)
    return stayed / (users * (turns - 1)), spread


def test_ten_turns_of_two_hundred_users_stay_on_four_endpoints() -> None:
    share, spread = stay(1, 200, 10, 200)
    assert share >= 0.95, f"{share:.1%} stay"
    assert max(spread.values()) <= 1.3 * min(spread.values())
