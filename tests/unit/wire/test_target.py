"""Targets: matched on a normal form, forwarded as they came."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamproxy.wire.target import climbs, normal_path, rewrite, strip_prefix

PATHS = st.lists(
    st.sampled_from([b"/", b"a", b"%61", b"%2F", b"%2f", b"..", b";", b"+", b"%", b"%zz", b"~", b"%7e"])
).map(lambda parts: b"/" + b"".join(parts))


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        (b"/a%62c", b"/abc"),
        (b"/%2F", b"/%2F"),
        (b"/%2f", b"/%2F"),
        (b"/%7Eu/%2e%2E", b"/~u/.."),
        (b"/%zz%", b"/%zz%"),
        (b"//x;y+z", b"//x;y+z"),
    ],
)
def test_only_unreserved_characters_are_decoded(raw: bytes, normal: bytes) -> None:
    assert normal_path(raw) == normal


@given(PATHS)
def test_the_normal_form_never_grows_and_keeps_encoded_slashes(path: bytes) -> None:
    normal = normal_path(path)
    assert len(normal) <= len(path)
    assert normal.count(b"/") == path.count(b"/")


@pytest.mark.parametrize(
    ("path", "prefix", "result"),
    [
        (b"/api/../x", b"/api", True),
        (b"/api/a/../b", b"/api", False),
        (b"/api/a/../../x", b"/api", True),
        (b"/api/./..", b"/api", True),
        (b"/..", b"", True),
        (b"/a/..", b"", False),
        (b"/api/..hidden", b"/api", False),
        (b"/api/a//../..", b"/api", False),
        (b"/api/.env", b"/api", False),
    ],
)
def test_climbing_above_the_prefix_is_seen(path: bytes, prefix: bytes, result: bool) -> None:
    assert climbs(path, prefix) is result


@pytest.mark.parametrize(
    ("raw", "prefix", "rest"),
    [
        (b"/v1/chat", b"/v1", b"/chat"),
        (b"/%761/a%2Fb", b"/v1", b"/a%2Fb"),
        (b"/v1", b"/v1", b"/"),
        (b"/v2/x", b"/v1", b"/v2/x"),
        (b"/v1//x", b"/v1", b"//x"),
        (b"/v10/x", b"/v1", b"/v10/x"),
        (b"/a%2fb/c", b"/a%2Fb", b"/c"),
    ],
)
def test_stripping_a_prefix_leaves_the_rest_byte_for_byte(raw: bytes, prefix: bytes, rest: bytes) -> None:
    assert strip_prefix(raw, prefix) == rest


@given(PATHS)
def test_stripping_what_was_added_gives_the_path_back(path: bytes) -> None:
    assert strip_prefix(rewrite(path, strip=b"", add=b"/p/q"), b"/p/q") == path


def test_rewrite_strips_first_and_adds_then() -> None:
    assert rewrite(b"/v1/x", strip=b"/v1", add=b"/api/") == b"/api/x"
