"""What ``prefix`` is for: turns of a conversation that find its beginning in an engine's cache."""

from __future__ import annotations

from benchmarks.affinity import USERS, run
from streamproxy.upstream.balance.policies import LeastStreams, PrefixHash


def test_nearly_all_turns_of_chats_go_where_the_last_one_went() -> None:
    at_once = run(PrefixHash(1.25), 0, pause=0.3)
    assert at_once.share >= 0.95
    assert at_once.spread < 1.5
    assert run(PrefixHash(1.5), 0, pause=6.0).share >= 0.98 - 0.5 / USERS
    assert run(LeastStreams(), 0, pause=6.0).share < 0.5
