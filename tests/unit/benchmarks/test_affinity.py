"""What ``prefix`` is for: turns of a conversation that find its beginning in an engine's cache."""

from __future__ import annotations

from statistics import mean

from benchmarks.affinity import run
from streamproxy.upstream.balance.policies import LeastStreams, PrefixHash


def test_nearly_all_turns_of_chats_go_where_the_last_one_went() -> None:
    assert mean(run(PrefixHash(1.25), seed, pause=0.3).share for seed in range(3)) >= 0.95
    assert mean(run(PrefixHash(1.5), seed, pause=6.0).share for seed in range(3)) >= 0.98
    assert run(LeastStreams(), 0, pause=6.0).share < 0.5
