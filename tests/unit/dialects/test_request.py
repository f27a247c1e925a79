"""What is read from request bodies, and the edits that may be made to them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.dialects.request import (
    Members,
    Peeked,
    apply_edits,
    model_edit,
    prefix_of,
    request_scanner,
    usage_edit,
)


def members_of(body: bytes) -> Members:
    scanner = request_scanner(conversation=True)
    scanner.feed(body)
    assert scanner.finish() == "done"
    return scanner.members


def prefix(body: dict[str, Any], limit: int = 4096) -> bytes | None:
    raw = json.dumps(body).encode()
    return prefix_of(raw, members_of(raw), limit)


@pytest.mark.parametrize(
    ("body", "model", "stream"),
    [
        (b'{"model":"a","stream":true}', "a", True),
        (b'{"stream": false, "model": "\\u00e9"}', "\u00e9", False),
        (b'{"stream":1,"model":null}', None, None),
        (b'{"model":{"a":"b"},"stream":"true"}', None, None),
        (b"{}", None, None),
        (b'{"model":"' + b"m" * 1_000_000 + b'"}', None, None),
        (b'{"model":"\\ud800\\x"}', None, None),
    ],
)
def test_a_body_says_what_its_top_level_says(body: bytes, model: str | None, stream: bool | None) -> None:
    peeked = Peeked(members_of(body))
    assert (peeked.model, peeked.stream) == (model, stream)


@given(st.one_of(st.text(max_size=12), st.text("ab\x00\t\n\x1f \x7f\\u0041", max_size=8)))
def test_a_models_name_is_what_the_parser_reads(name: str) -> None:
    for text in (json.dumps(name), json.dumps(name, ensure_ascii=False), f'"{name}"'):
        body = b'{"model":' + text.encode("utf-8", "surrogatepass") + b"}"
        try:
            expected = json.loads(body)["model"]
        except ValueError:
            expected = None
        scanner = request_scanner()
        scanner.feed(body)
        if scanner.finish() == "done":
            assert Peeked(scanner.members).model == expected


MODELS = st.one_of(st.text(max_size=20), st.sampled_from(["a\nb", '"', "\\", "\u00e9"]))


@given(MODELS, MODELS, st.booleans(), st.sampled_from([None, {}, {"include_usage": False}]), st.booleans())
def test_edits_change_the_value_and_no_other_byte(
    old: str, new: str, streams: bool, options: dict[str, bool] | None, model_first: bool
) -> None:
    pairs: list[tuple[str, Any]] = [("a", [{"model": 1}]), ("stream", streams), ("model", old)]
    if model_first:
        pairs.reverse()
    if options is not None:
        pairs.append(("stream_options", options))
    body = json.dumps(dict(pairs), indent=1).encode()
    members = members_of(body)
    model = members[b"model"]
    edited = apply_edits(body, [model_edit(members, new), usage_edit(members)])
    expected = dict(pairs) | {"model": new}
    if streams and options is None:
        expected["stream_options"] = {"include_usage": True}
        edited_back = edited.replace(b',"stream_options":{"include_usage":true}', b"")
    else:
        edited_back = edited
    assert json.loads(edited) == expected
    assert edited_back.startswith(body[: model.start])
    assert edited_back.endswith(body[model.end :])


def test_a_body_without_these_members_has_no_edits() -> None:
    assert model_edit({}, "x") is usage_edit({}) is None
    assert apply_edits(b"{}", [None]) == b"{}"


def turns(*said: str, **more: Any) -> dict[str, Any]:
    roles = ["system", "user", "assistant", "user"]
    messages = [{"role": role, "content": text} for role, text in zip(roles, said, strict=False)]
    return {"model": "m", **more, "messages": messages}


def test_turns_of_one_conversation_have_one_prefix() -> None:
    first = prefix(turns("be kind", "hello"))
    assert first == prefix(turns("be kind", "hello", "hi there", "how are you", temperature=0.5))
    assert first is not None
    assert b"hello" in first
    assert first != prefix(turns("be kind", "goodbye"))
    assert first != prefix(turns("be cruel", "hello"))
    assert first != prefix({**turns("be kind", "hello"), "model": "n"})


@pytest.mark.parametrize("key", ["messages", "contents", "input"])
def test_every_api_has_its_conversation(key: str) -> None:
    user = {"role": "user", "parts": [{"text": 'a } ] "user"'}]}
    one = prefix({"model": "m", "system": "s", key: [user, {"role": "model"}]})
    assert one == prefix({"system": "s", key: [user, {"role": "model"}, user], "model": "m"})
    assert one is not None
    assert one.startswith(b'"m"\0"s"\0[{"role"')
    assert one != prefix({"model": "m", "system": "t", key: [user]})


def test_a_message_without_a_role_is_the_users() -> None:
    assert prefix({"contents": [{"parts": [1]}]}) == prefix({"contents": [{"parts": [1]}, {"parts": [2]}]})


@pytest.mark.parametrize("key", ["prompt", "input"])
def test_of_a_plain_prompt_the_first_bytes_count(key: str) -> None:
    assert prefix({"model": "m", key: "abcdef"}, 4) == b'"m"\0\0abcd'
    assert prefix({"model": "m", key: "abc"}, 4) == b'"m"\0\0abc'
    assert prefix({"model": "m", key: ["abc", "d"]}, 4) == b'"m"\0\0["ab'
    assert prefix({"model": "m", key: []}, 4) == b'"m"\0\0[]'


@pytest.mark.parametrize("body", [{"model": "m"}, {"messages": 7}, {"prompt": None}])
def test_a_body_without_a_conversation_has_none(body: dict[str, Any]) -> None:
    assert prefix(body) is None


def test_a_first_message_of_any_length_counts_whole() -> None:
    long = "x" * 100_000
    found = prefix({"messages": [{"role": "user", "content": long}, {"role": "assistant"}]})
    assert found is not None
    assert found.endswith(long.encode() + b'"}')


def test_a_conversation_without_a_user_is_looked_at_a_bounded_way() -> None:
    found = prefix({"messages": [{"role": "assistant", "n": number} for number in range(100_000)]})
    assert found is not None
    assert len(found) < 5_000
