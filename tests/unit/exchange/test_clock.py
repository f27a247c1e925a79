"""The date of now, cached for a second."""

from __future__ import annotations

import pytest

from streamproxy.exchange import clock


def test_the_date_changes_with_the_second_and_not_within(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [784_111_777.0]
    monkeypatch.setattr(clock, "wall_clock", lambda: now[0])
    first = clock.http_date()
    assert first == b"Sun, 06 Nov 1994 08:49:37 GMT"
    now[0] += 0.99
    assert clock.http_date() is first
    now[0] += 0.01
    assert clock.http_date() == b"Sun, 06 Nov 1994 08:49:38 GMT"
    now[0] -= 3600  # the clock was set back
    assert clock.http_date() == b"Sun, 06 Nov 1994 07:49:38 GMT"
