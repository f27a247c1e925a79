"""The scanner of top-level members, against the standard library's parser."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from streamproxy.formats.json_members import LeadingMembers, Member, Wanted
from streamproxy.formats.json_scan import DEPTH, MemberScanner
from tests.unit.formats.splits import splits

WANTED = [b"model", b"stream", b"messages"]
KEYS = st.one_of(
    st.sampled_from(["model", "stream", "messages", "Model", "mode", 'mod"el', "m\\", "é", "\ud83c\udf0a", ""]),
    st.text(max_size=6),
)
TRICKY = ['"', "\\", '\\"', '}]{["model":1', "\\\\", "a" * 40, "[{}]", '{"x":[1,{}]}', "{", "]"]
TEXTS = st.one_of(st.text(max_size=60), st.sampled_from(TRICKY))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=12), st.dictionaries(KEYS, inner, max_size=6)),
    max_leaves=40,
)
STYLES = st.sampled_from([(",", ":"), (", ", ": "), (" ,\r\n\t", " :\n")])


@st.composite
def bodies(draw: st.DrawFn) -> bytes:
    """JSON objects in several styles, escaped or not, with any names twice but never ``model``."""
    members = draw(st.lists(st.tuples(KEYS, VALUES), max_size=8))
    kept, models = [], 0
    for key, value in members:
        models += key.lower() == "model"
        if models < 2 or key.lower() != "model":
            kept.append((key, value))
    style, plain = draw(STYLES), not draw(st.booleans())

    def dump(value: Any) -> str:
        text = json.dumps(value, separators=style, ensure_ascii=not plain)
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace") if plain else text

    def key_of(key: str) -> str:
        if draw(st.booleans()):
            return dump(key)
        return '"' + "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else json.dumps(c)[1:-1] for c in key) + '"'

    text = style[0].join(key_of(key) + style[1] + dump(value) for key, value in kept)
    space = draw(st.sampled_from(["", " ", "\r\n"]))
    body = space + "{" + space + text + space + "}" + space
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + body.encode("utf-8", "surrogatepass")


def scan(chunks: list[bytes], **options: Any) -> MemberScanner:
    scanner = MemberScanner(Wanted(WANTED, **{"unique": [b"model"], "keep": 1 << 20, **options}))
    for chunk in chunks:
        scanner.feed(chunk)
    scanner.finish()
    return scanner


@given(st.data(), bodies())
def test_finds_what_the_parser_finds_under_any_split(data: st.DataObject, body: bytes) -> None:
    parsed = json.loads(body.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "surrogatepass"))
    scanner = scan(data.draw(splits(body)))
    assert scanner.verdict == "done"
    assert scanner.members == scan([body]).members
    assert set(scanner.members) == {key.encode() for key in parsed if key in ("model", "stream", "messages")}
    for key, member in scanner.members.items():
        assert member.value == body[member.start : member.end]
        assert json.loads(member.value.decode("utf-8", "surrogatepass")) == parsed[key.decode()]


@given(st.data(), bodies(), st.binary(max_size=3), st.integers(0, 200))
def test_a_damaged_body_has_one_outcome_under_any_split(
    data: st.DataObject, body: bytes, damage: bytes, at: int
) -> None:
    broken = body[:at] + damage + body[at + len(damage) :]
    whole, split = scan([broken]), scan(data.draw(splits(broken)))
    assert (whole.verdict, whole.members) == (split.verdict, split.members)


@given(
    st.lists(st.sampled_from(["\\", '"', "a", "\n", "code " * 20, "\\" * 9]), min_size=30, max_size=400),
    st.integers(0, 300),
    st.one_of(st.none(), st.integers(1, 700)),
)
def test_a_string_with_many_escapes_ends_at_its_quote(parts: list[str], shift: int, cut: int | None) -> None:
    # Enough escaped quotes that windows are looked at, whose ends cut escapes in two at every ``shift``.
    text = '"' * 10 + "b" * shift + "".join(parts)
    body = json.dumps({"prompt": text, "model": "m"}).encode()
    scanner = MemberScanner(Wanted([b"model"], unique=[b"model"]))
    for at in range(0, len(body), cut or len(body)):
        scanner.feed(body[at : at + (cut or len(body))])
    assert scanner.finish() == "done"
    assert scanner.members[b"model"].value == b'"m"'


@given(bodies(), st.binary(max_size=3), st.integers(0, 200), st.integers(0, 60), st.booleans())
def test_what_is_read_at_once_is_what_steps_read(body: bytes, damage: bytes, at: int, keep: int, unique: bool) -> None:
    options: dict[str, Any] = {"keep": keep, "unique": [b"model"] if unique else []}
    for whole in (body, body[:at] + damage + body[at + len(damage) :]):
        at_once, by_bytes = scan([whole], **options), scan([whole[i : i + 1] for i in range(len(whole))], **options)
        assert (at_once.verdict, at_once.members) == (by_bytes.verdict, by_bytes.members)


def leading(body: bytes) -> tuple[bytes, bool, dict[bytes, Member]]:
    """What of a body is read at once, whether to its end, and which members were found in it."""
    reader, members = LeadingMembers(body), dict[bytes, Member]()
    return body[: reader.read(Wanted(WANTED, unique=[b"model"]), members, set())], reader.closed, members


USUAL = st.one_of(
    TEXTS,
    st.booleans(),
    st.integers(-99, 99),
    st.lists(st.dictionaries(st.sampled_from(["a", "b"]), TEXTS), max_size=2),
)


@given(st.dictionaries(st.sampled_from(["model", "stream", "messages", "x", "é"]), USUAL), STYLES)
def test_a_usual_body_is_read_at_once(body: dict[str, Any], style: tuple[str, str]) -> None:
    text = json.dumps(body, separators=style, ensure_ascii=False).encode()
    assume(text.count(b'"') < 500)
    read, closed, members = leading(text)
    assert (read, closed) == ((text, True) if body else (b"", False))
    assert {key.decode(): json.loads(member.value or b"") for key, member in members.items()} == {
        key: value for key, value in body.items() if key.encode() in WANTED
    }


@pytest.mark.parametrize(
    "rest",
    [
        b"",
        b'"messages"',
        b'"messages":',
        b'"messages":"m',
        b'"messages":"m"',
        b'"messages":1',
        b'"messages":01}',
        b'"messages":[1}}',
        b'"messages":["m"/**/]}',
        b'"messages" "m"}',
        b'"messages":"m";',
        b'"messag\\u0065s":"m"}',
        b'"' + b"x" * 1025 + b'":1}',
        b'"messages":' + b" " * 65 + b"1}",
        b'"messages":' + b"[" * 41 + b"]" * 41 + b"}",
        b'"MODEL":1}',
        b"}",
    ],
)
def test_what_is_read_at_once_ends_behind_a_comma(rest: bytes) -> None:
    begun = b'{"stream": true, "x": {"a": ["\\"", "\\\\", {}]}, "model":"m",'
    read, closed, members = leading(begun + rest)
    assert (read, closed, list(members)) == (begun, False, [b"stream", b"model"])


@pytest.mark.parametrize(
    ("begun", "rest"),
    [
        (b'{"messages":[', b""),
        (b'{"messages":[1', b""),
        (b'{"messages":["m", ', b'"n'),
        (b'{"model":"m","messages":["m"', b""),
        (b'{"messages":["m",' + b" " * 63, b' "n"]}'),
        (b'{"messages":[{"a":[[{"b":"c"}]]', b""),
        (b'{"messages":[' + b'"",' * 254, b'"",' * 254 + b"1]}"),
    ],
)
def test_what_is_read_at_once_may_end_inside_of_a_value(begun: bytes, rest: bytes) -> None:
    read, closed, members = leading(begun + rest)
    assert (read, closed, b"messages" in members) == (begun, False, False)
    scanner = scan([begun + rest, b'"x"]}]]}]}'])
    by_bytes = scan([bytes([byte]) for byte in begun + rest + b'"x"]}]]}]}'])
    assert (scanner.verdict, scanner.members) == (by_bytes.verdict, by_bytes.members)


@given(VALUES, st.integers(5, 60), STYLES, st.binary(max_size=3), st.floats(0, 1))
def test_many_short_texts_are_read_at_once_as_they_are_one_by_one(
    value: Any, count: int, style: tuple[str, str], damage: bytes, at: float
) -> None:
    messages = json.dumps([[value, "a", "b"]] * count, separators=style, ensure_ascii=False)
    body = f'{{"messages":{messages},"x":[{messages}],"model":"m"}}'.encode("utf-8", "replace")
    place = int(at * len(body))
    for whole in (body, body[:place] + damage + body[place + len(damage) :]):
        at_once, by_bytes = scan([whole]), scan([whole[at : at + 1] for at in range(len(whole))])
        assert (at_once.verdict, at_once.members) == (by_bytes.verdict, by_bytes.members)


@pytest.mark.parametrize("outside", [b"x", b"\\", b"'", b"}", b"\x00"])
@pytest.mark.parametrize("near", [b'"",%s""', b'"e"%s,""', b'"}{",%s"]["', b'["",%s]'])
def test_what_stands_between_short_strings_is_checked(near: bytes, outside: bytes) -> None:
    short = b'"","e","}{","1",' * 100
    body = b'{"a":[' + short + near + b"," + short + b'1],"model":"m"}'
    assert scan([body.replace(b"%s", b" ")]).verdict == "done"
    assert scan([body.replace(b"%s", outside)]).verdict == "not_json"


@pytest.mark.parametrize("depth", [DEPTH - 20, DEPTH - 2, DEPTH - 1, DEPTH, 3 * DEPTH])
@pytest.mark.parametrize("at", [0, 40, 400])
def test_depth_has_one_limit_wherever_it_is(depth: int, at: int) -> None:
    short = b'"a",' * at
    body = b'{"x":[' + short + b"[" * depth + b'"a",' * 80 + b"1" + b"]" * depth + b'],"model":"m"}'
    by_bytes = scan([body[at : at + 1] for at in range(len(body))])
    assert scan([body]).verdict == by_bytes.verdict == ("done" if depth < DEPTH else "not_json")


@pytest.mark.parametrize("inside", range(1, 60, 4))
def test_depth_that_many_elements_share_is_counted(inside: int) -> None:
    element = b'{"a":[' * inside + b'"b"' + b"]}" * inside
    for outside in range(DEPTH - 2 * inside - 2, DEPTH - 2 * inside + 1):
        body = b'{"x":' + b"[" * outside + b",".join([element] * 40) + b"]" * outside + b',"model":"m"}'
        by_steps = scan([body[at : at + 64] for at in range(0, len(body), 64)])
        assert scan([body]).verdict == by_steps.verdict == ("done" if outside + 2 * inside <= DEPTH else "not_json")


@given(bodies(), st.integers(0, 300), st.sampled_from([b"", b'"', b"}", b"{", b"]", b",", b":", b"x", b"//", b"'"]))
def test_what_the_parser_reads_is_never_read_otherwise(body: bytes, at: int, damage: bytes) -> None:
    body = body.removeprefix(b"\xef\xbb\xbf")
    broken = body[:at] + damage + body[at + 1 :]
    try:
        pairs: list[tuple[str, Any]] = json.loads(
            broken.decode("utf-8", "surrogatepass"), object_pairs_hook=lambda pairs: pairs, strict=False
        )
    except ValueError:
        return
    if not isinstance(pairs, list) or not broken.strip().startswith(b"{"):
        return
    scanner = scan([broken])
    models = [value for key, value in pairs if key.lower() == "model"]
    if len(models) > 1:
        assert scanner.verdict == "duplicate"
    else:
        assert scanner.verdict == "done"


@pytest.mark.parametrize(
    "body",
    [
        b'{"model":"a","model":"b"}',
        b'{"model":"a","x":[{"model":1}],"\\u006dodel":"b"}',
        b'{"model":"a","Model":"b"}',
        b'{"model":"a","model":"b"',
    ],
)
def test_two_models_are_an_outcome_of_their_own(body: bytes) -> None:
    assert scan([body]).verdict == "duplicate"
    assert scan([bytes([byte]) for byte in body]).verdict == "duplicate"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"[]",
        b"null",
        b'"model"',
        b'{"model":"a"',
        b'{"model":"a"}}',
        b'{"model":"a"}{"model":"b"}',
        b'{"a":[1,2},"model":"a"}',
        b'{"a":[},"model":"a"}',
        b"{'model':'a'}",
        b'{"model":a}',
        b'{"model":NaN}',
        b'{"model":01}',
        b'{"model":}',
        b'{"model" "a"}',
        b'{,"model":"a"}',
        b'{"model":"a",}',
        b'{"a":1 "model":"a"}',
        b'{"a":[/* " */],"model":"a"}',
        b'{"a":["\'"\'"],"model":"a"}',
        b'{"a":1 // "\n,"model":"a"}',
        b'{"\\x":1,"model":"a"}',
        b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
        b'\xff\xfe{\x00"\x00',
        b'\xef\xbb{"model":"a"}',
        b'{"model":"a"}\xef\xbb\xbf',
    ],
)
def test_what_is_no_json_object_is_said_to_be_none(body: bytes) -> None:
    assert scan([body]).verdict == "not_json"
    assert scan([bytes([byte]) for byte in body]).verdict == "not_json"


def test_where_no_name_is_unique_it_reads_no_further_than_it_must() -> None:
    scanner = MemberScanner(Wanted([b"stream"]))
    assert scanner.feed(b'{"model":"a",')
    assert not scanner.feed(b'"stream":true,"messages":[')
    assert scanner.members[b"stream"].value == b"true"
    assert scanner.finish() == "done"


def test_a_value_that_is_too_long_has_a_position_and_no_bytes() -> None:
    body = b'{"model":"' + b"m" * 1_000_000 + b'","stream":1}'
    scanner = scan([body[at : at + 5000] for at in range(0, len(body), 5000)], keep=4096)
    member = scanner.members[b"model"]
    assert (member.start, member.end, member.value) == (9, 1_000_011, None)
    assert len(scanner._value) < 5000


def test_brackets_deeper_than_parsers_go_are_refused() -> None:
    inside = DEPTH - 1
    deep = b'{"a":' + b"[" * inside + b"]" * inside + b',"model":"m"}'
    assert scan([deep]).verdict == "done"
    assert scan([b'{"a":' + b"[" * 1_000_000]).verdict == "not_json"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":' + b"1" * 1_000_000 + b',"model":"m"}',
        b"{" + b'"x":1,' * 100_000 + b'"model":"m"}',
        b'{"' + b"k" * 1_000_000 + b'":1,"model":"m"}',
        b'{"' + b"\\\\" * 500_000 + b'":1,"model":"m"}',
        b'{"a":"' + b"\\\\" * 500_000 + b'","model":"m"}',
        b'{"a":"' + b'\\\\\\"' * 250_000 + b'","model":"m"}',
        b'{"a":[' + b"{}," * 300_000 + b'1],"model":"m"}',
        b'{"a":[' + b'"\\"",' * 200_000 + b'1],"model":"m"}',
        b'{"a":[' + b'"' + b"x" * 31 + b'\\n",' + b'"y",' * 250_000 + b'1],"model":"m"}',
        b'{"a":[' + b'"",' * 400_000 + b'1],"model":"m"}',
        b'{"a":[' + b'"}{",' * 250_000 + b'1],"model":"m"}',
    ],
    ids=[
        "digits",
        "duplicates",
        "key",
        "escapes in a key",
        "backslashes",
        "quotes",
        "empty",
        "short",
        "dense",
        "empty strings",
        "brackets in strings",
    ],
)
@pytest.mark.parametrize("step", [64, 1 << 24])
def test_a_bomb_costs_time_in_proportion_to_its_length(body: bytes, step: int) -> None:
    chunks = [body[at : at + step] for at in range(0, len(body), step)]
    begin = time.process_time()
    scanner = scan(chunks, keep=4096)
    assert time.process_time() - begin < 5
    assert scanner.verdict == "done"
    assert scanner.members[b"model"].value == b'"m"'


@given(st.data(), VALUES)
def test_an_object_inside_something_longer_ends_at_its_bracket(data: st.DataObject, value: Any) -> None:
    element = json.dumps({"a": value, "role": "user"}).encode()
    scanner = MemberScanner(Wanted([b"role"], element=True))
    for chunk in data.draw(splits(element + b', {"role": "assistant"}]')):
        if not scanner.feed(chunk):
            break
    assert scanner.end == len(element)
    assert scanner.members[b"role"].value == b'"user"'
