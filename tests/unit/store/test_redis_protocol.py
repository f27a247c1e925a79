"""Commands to Redis, and its replies, whatever pieces they arrive in."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.store.redis_protocol import ProtocolError, ReplyParser, encode
from tests.unit.store.bodies import cuts


class Refused(Exception):
    """What an error reply becomes, equal to another of the same text."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Refused) and self.args == other.args

    def __hash__(self) -> int:
        return hash(self.args)


def render(reply: Any) -> bytes:
    if reply is None:
        return b"$-1\r\n"
    if isinstance(reply, Refused):
        return b"-%b\r\n" % str(reply).encode()
    if isinstance(reply, int):
        return b":%d\r\n" % reply
    if isinstance(reply, bytes):
        return b"$%d\r\n%b\r\n" % (len(reply), reply)
    return b"*%d\r\n%b" % (len(reply), b"".join(map(render, reply)))


SIMPLE = st.one_of(
    st.none(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([b"", b"12-34", b"\r\n", b"data: 1\n\n", b"$5\r\nno\r\n"]),
    st.binary(max_size=30),
    st.sampled_from([Refused("ERR wrong"), Refused("OOM command not allowed")]),
)
REPLIES = st.lists(st.recursive(SIMPLE, lambda inner: st.lists(inner, max_size=4), max_leaves=12), max_size=6)


@given(REPLIES, st.data())
def test_replies_are_the_same_however_they_are_cut(replies: list[Any], data: st.DataObject) -> None:
    parser, parsed = ReplyParser(Refused), []
    for chunk in data.draw(cuts(b"".join(map(render, replies)))):
        parsed += parser.feed(chunk)
    assert parsed == replies


def test_a_reply_is_there_with_its_last_byte_and_not_before() -> None:
    parser = ReplyParser(Refused)
    whole = b"+OK\r\n*2\r\n$3\r\na\r\n\r\n*-1\r\n"
    parsed = [parser.feed(whole[at : at + 1]) for at in range(len(whole))]
    assert [(at, replies) for at, replies in enumerate(parsed) if replies] == [
        (4, [b"OK"]),
        (len(whole) - 1, [[b"a\r\n", None]]),
    ]


@pytest.mark.parametrize("bad", [b"HTTP/1.1 400 Bad Request\r\n", b":x\r\n", b"$\r\n", b"*many\r\n"])
def test_what_is_no_reply_is_refused(bad: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyParser(Refused).feed(bad)


@given(st.lists(st.one_of(st.text(max_size=20), st.binary(max_size=600), st.integers()), min_size=1, max_size=6))
def test_a_command_is_an_array_of_its_words(words: list[str | bytes | int]) -> None:
    texts = [word if isinstance(word, bytes) else str(word).encode() for word in words]
    assert ReplyParser(Refused).feed(encode(tuple(words))) == [texts]
