"""Values out of JSON, against the library that reads more of it."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.dialects.reading.values import decode

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=[])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text(max_size=5), VALUES, max_size=4)


def reference(data: bytes) -> object:
    try:
        value = json.loads(data.decode("utf-8", "replace"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


@given(OBJECTS, st.booleans(), st.integers(0, 60), st.binary(max_size=3), st.booleans())
def test_anything_is_decoded_as_by_json(
    value: dict[str, object], ascii: bool, at: int, damage: bytes, damaged: bool
) -> None:
    data = json.dumps(value, ensure_ascii=ascii).encode("utf-8", "surrogatepass")
    if damaged:
        data = data[:at] + damage + data[at + len(damage) :]
    assert repr(decode(data)) == repr(reference(data))


@pytest.mark.parametrize(
    "data",
    [
        b"[DONE]",
        b"",
        b"  ",
        b' \t\r\n{"a": 1} ',
        b'\x0b{"a": 1}',
        b'\xef\xbb\xbf{"a": 1}',
        b'{"a": 1} x',
        b'{"a": "\\ud800"}',
        b'{"a": "\xff"}',
        b'{"a": 1, "a": 2}',
        b'{"a": NaN, "b": -Infinity, "c": 1e400}',
        b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}",
        b'{"a": ' + b"1" * 5000 + b"}",
        b"[" * 100_000,
        b'{"a":' * 100_000,
    ],
)
def test_what_is_unusual_is_decoded_as_by_json(data: bytes) -> None:
    assert repr(decode(data)) == repr(reference(data))
