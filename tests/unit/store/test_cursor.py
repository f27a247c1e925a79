"""Cursors: what they look like, and whom they tell what."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.store.cursor import Cursor, new_stream, owner_digest, parse_cursor, storage_key

NAME = "abcdefghijklmnopqrstuv-_"


@given(st.integers(0, 10**15 - 1))
def test_a_cursor_is_read_as_it_was_written(events: int) -> None:
    cursor = Cursor(new_stream(), events)
    assert parse_cursor(cursor.render()) == cursor


@given(st.binary(max_size=60))
def test_whatever_is_read_as_a_cursor_is_written_the_same(value: bytes) -> None:
    cursor = parse_cursor(value)
    assert cursor is None or cursor.render() == value


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"42",
        b"1526919030474-0",
        b"6c1f5f5e-2a1c-4f0e-8a53-000000000000/3",
        NAME.encode(),
        NAME.encode() + b"/",
        NAME.encode() + b"/-1",
        NAME.encode() + b"/01",
        NAME.encode() + b"/1\n",
        b" " + NAME.encode() + b"/1",
        NAME[:-1].encode() + b"/1",
        NAME.encode() + b"/" + b"9" * 16,
        NAME.encode() + "/²".encode(),
    ],
)
def test_an_id_of_another_form_belongs_to_the_upstream(value: bytes) -> None:
    assert parse_cursor(value) is None


def test_names_have_at_least_128_random_bits_and_differ() -> None:
    names = {new_stream() for _ in range(1000)}
    assert len(names) == 1000
    assert all(len(name) * 6 >= 128 for name in names)


def test_the_store_does_not_learn_the_name() -> None:
    key = storage_key(NAME)
    assert NAME not in key
    assert key == storage_key(NAME) != storage_key(NAME[::-1])


def test_an_owner_is_who_has_the_same_parts_and_the_same_stream() -> None:
    owner = owner_digest(NAME, [b"chat", b"Bearer abc"])
    assert owner == owner_digest(NAME, [b"chat", b"Bearer abc"])
    assert owner != owner_digest(NAME, [b"chat", b"Bearer abd"])
    assert owner != owner_digest(NAME[::-1], [b"chat", b"Bearer abc"])
    assert b"abc" not in owner


@given(st.lists(st.binary(max_size=4), max_size=4), st.lists(st.binary(max_size=4), max_size=4))
def test_no_two_lists_of_parts_are_one_owner(one: list[bytes], other: list[bytes]) -> None:
    assert (owner_digest(NAME, one) == owner_digest(NAME, other)) == (one == other)
