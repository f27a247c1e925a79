"""The scanner of a JSON object's members. The oracle is the standard library's parser.

A valid object gives the same members; a body called "not JSON" is not a valid object. Of invalid bodies nothing else is
promised, but that the outcome does not depend on the reads.
"""

from __future__ import annotations

import json
from typing import Any

from fuzz.reads import bytes_of, reads_of
from streamproxy.formats.json_members import Member, Wanted
from streamproxy.formats.json_scan import DEPTH, MemberScanner

DICTIONARY = (
    b'{"model":"a"}', b'"stream":true', b'"model"', b'"MODEL"', b'"\\u006dodel"', b"[[", b"]]", b"{}", b"null",
    b"-0.1e+5", b'\\"', b"\\\\", b"\xef\xbb\xbf", b'"a","b","c","d","e","f","g","h","i","j"', b'{"a":"b"},{"a":"b"},',
)  # fmt: skip
_WANTED = (b"model", b"stream", b"x")
_LONGEST_KEY = 1000

Pairs = list[tuple[str, Any]]


class _Pairs(list[tuple[str, Any]]):
    """An object as its pairs, to see members with the same name."""


def reference(data: bytes) -> Pairs | None:
    """Returns the members of a valid object, or None for anything else."""

    def refuse(text: str) -> None:
        raise ValueError(text)

    try:
        value = json.loads(
            data.decode("utf-8-sig"), object_pairs_hook=_Pairs, parse_constant=refuse, parse_int=str, parse_float=str
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, _Pairs) else None


def scan(reads: list[bytes], unique: tuple[bytes, ...], keep: int) -> tuple[str, dict[bytes, Member]]:
    scanner = MemberScanner(Wanted(_WANTED, unique=unique, keep=keep))
    for read in reads:
        if not scanner.feed(read):
            break
    return scanner.finish(), scanner.members


def _depth(value: Any) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            inner
            for item in level
            for inner in ([pair[1] for pair in item] if isinstance(item, _Pairs) else item)
            if isinstance(inner, list)
        ]
    return deepest


def check(data: bytes) -> None:
    pairs = reference(data)
    for unique in ((), (b"model",)):
        for keep in (4, 4096):
            verdict, members = scan([data], unique, keep)
            for reads in (reads_of(data), bytes_of(data)):
                assert scan(reads, unique, keep) == (verdict, members)
            for member in members.values():
                assert member.value is None or data[member.start : member.end] == member.value
                assert (member.value is None) == (member.end - member.start > keep)
            if pairs is not None and _depth(pairs) <= DEPTH and all(len(name) < _LONGEST_KEY for name, _ in pairs):
                compare(pairs, data, verdict, members, bool(unique))


def compare(pairs: Pairs, data: bytes, verdict: str, members: dict[bytes, Member], unique: bool) -> None:
    """Compares the outcome with a valid object."""
    names = [name.encode("utf-8", "surrogatepass") for name, _ in pairs]
    twice = sum(name.lower() == b"model" for name in names) > 1
    if unique and twice:
        assert verdict == "duplicate", verdict
        return
    assert verdict == "done", verdict
    if not unique and len(members) == len(_WANTED):
        return  # it stopped at the last wanted member
    wanted = {name: value for name, (_, value) in zip(names, pairs, strict=True) if name in _WANTED}
    assert set(members) == set(wanted)
    for name, member in members.items():
        text = data[member.start : member.end].decode()
        assert json.loads(text, object_pairs_hook=_Pairs, parse_int=str, parse_float=str) == wanted[name]
