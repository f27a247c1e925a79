"""Which Pythons may be given several strings of bytes at once."""

from __future__ import annotations

import pytest

from streamproxy.wire.gather import pauses


@pytest.mark.parametrize("version", [(3, 11, 0), (3, 11, 14), (3, 12, 9), (3, 13, 2), (3, 14, 0)])
def test_writelines_is_used_where_it_pauses_its_protocol(version: tuple[int, ...]) -> None:
    assert pauses(version)


@pytest.mark.parametrize("version", [(3, 12, 0), (3, 12, 1), (3, 12, 8), (3, 13, 0), (3, 13, 1)])
def test_strings_are_joined_where_writelines_never_pauses(version: tuple[int, ...]) -> None:
    assert not pauses(version)
