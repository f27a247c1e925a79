"""Channels and events of Redis, without Redis."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.errors import BadRequest
from streamproxy.store.events import ChannelRequest, ChannelTemplate, parse_entry_id, render_entry, render_event
from tests.unit.store.bodies import blocks


def request(**values: object) -> ChannelRequest:
    base = ChannelRequest("ann", b"/rooms/7/events", b"topic=a.b&x=", [(b"x-team", b"red"), (b"x-twice", b"1")])
    return base._replace(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("template", "channel"),
    [
        ("news", b"news"),
        ("user:{principal}", b"user:ann"),
        ("{path.1}.{path.2}", b"rooms.7"),
        ("t:{query.topic}", b"t:a.b"),
        ("{header.X-Team}/{principal}", b"red/ann"),
    ],
)
def test_a_channel_is_made_from_the_request(template: str, channel: bytes) -> None:
    assert ChannelTemplate(template).expand(request()) == channel


def test_values_are_percent_decoded_once() -> None:
    assert ChannelTemplate("{query.a}").expand(request(query=b"a=x%3Ay")) == b"x:y"
    with pytest.raises(BadRequest):
        ChannelTemplate("{query.a}").expand(request(query=b"a=x%253Ay"))


@pytest.mark.parametrize(
    ("template", "values"),
    [
        ("{principal}", {"principal": ""}),
        ("{principal}", {"principal": "ann*"}),
        ("{principal}", {"principal": "jürgen"}),
        ("{path.4}", {}),
        ("{path.1}", {"path": b"/"}),
        ("{path.1}", {"path": b"/a%2Fb"}),
        ("{path.1}", {"path": b"/" + b"a" * 257}),
        ("{query.x}", {}),
        ("{query.none}", {}),
        ("{query.a}", {"query": b"a=1&a=2"}),
        ("{query.a}", {"query": b"a=%5Bx%5D"}),
        ("{query.a}", {"query": b"a=x%0A"}),
        ("{header.x-none}", {}),
        ("{header.x}", {"headers": [(b"x", b"1"), (b"x", b"2")]}),
        ("{header.x}", {"headers": [(b"x", b"a b")]}),
    ],
)
def test_a_value_that_is_missing_or_could_name_another_channel_is_refused(
    template: str, values: dict[str, object]
) -> None:
    with pytest.raises(BadRequest):
        ChannelTemplate(template).expand(request(**values))


@given(st.binary(max_size=12))
def test_no_value_reaches_another_channel(value: bytes) -> None:
    template = ChannelTemplate("a:{header.x}:b")
    try:
        channel = template.expand(request(headers=[(b"x", value)]))
    except BadRequest:
        return
    assert re.fullmatch(rb"a:[A-Za-z0-9._:-]+:b", channel)


@pytest.mark.parametrize(
    "template",
    ["", "{}", "{user}", "{path}", "{path.0}", "{path.x}", "{query}", "{query.}", "a{principal", "a}", "{{principal}}"],
)
def test_a_template_that_means_nothing_is_refused(template: str) -> None:
    with pytest.raises(ValueError, match=r"has|is empty"):
        ChannelTemplate(template)


@pytest.mark.parametrize("value", [b"0-0", b"1526919030474-55", b"18446744073709551615-18446744073709551615"])
def test_an_entry_id_is_two_numbers(value: bytes) -> None:
    assert b"%d-%d" % parse_entry_id(value) == value


@pytest.mark.parametrize(
    "value",
    [
        *(b"", b"1", b"-", b"1-", b"a-b", b"$", b"+", b"1-*", b"1-1 ", b"1-1\n", b"-1-1", b"18446744073709551616-0"),
        *(b"0-18446744073709551616", b"1" * 30 + b"-1"),
    ],
)
def test_what_is_no_entry_id_is_refused(value: bytes) -> None:
    with pytest.raises(BadRequest):
        parse_entry_id(value)


@given(st.binary(max_size=60), st.binary(max_size=10))
def test_a_payload_is_one_event_whatever_is_in_it(data: bytes, event: bytes) -> None:
    (block,) = blocks(render_event(data, event))
    lines = [line.removeprefix(b"data: ") for line in block if line.startswith(b"data: ")]
    assert lines == re.split(rb"\r\n|\n|\r", data)
    assert len(block) - len(lines) == bool(event and not re.search(rb"[\r\n\0]", event))


def test_events_look_like_this() -> None:
    assert render_event(b"hi") == b"data: hi\n\n"
    assert render_event(b"a\nb\r\n", b"note", b"1-2") == b"event: note\ndata: a\ndata: b\ndata: \nid: 1-2\n\n"
    assert render_entry(b"1-2", [b"event", b"e", b"data", b"x", b"other", b"y"]) == b"event: e\ndata: x\nid: 1-2\n\n"
    assert render_entry(b"1-2", [b"other", b"y"]) == b""
