"""What the allocator is told."""

from __future__ import annotations

import ctypes
import subprocess
import sys

from streamproxy.process import memory


def test_glibc_takes_what_it_is_told() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "from streamproxy.process.memory import keep_buffers; print(keep_buffers())"],
        capture_output=True,
        text=True,
        check=True,
    )
    expected = hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
    assert told.stdout.strip() == str(expected)


def test_a_c_library_without_mallopt_is_left_alone(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory.keep_buffers() is False
