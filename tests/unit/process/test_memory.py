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


MIB = 2**20


def test_memory_goes_back_once_its_use_has_stayed_low() -> None:
    idle = memory.IdleMemory()
    assert [idle.look(in_use * MIB) for in_use in (10, 50, 10, 10, 10, 10, 10)] == [
        False, False, False, False, True, False, False,
    ]  # fmt: skip


def test_memory_that_is_used_again_and_again_stays() -> None:
    idle = memory.IdleMemory()
    assert not any(idle.look(in_use * MIB) for in_use in (10, 50) * 20)


def test_a_little_that_is_free_is_not_worth_it() -> None:
    idle = memory.IdleMemory()
    assert not any(idle.look(in_use * MIB) for in_use in (10, 13, 10, 10, 10, 10))


def test_each_fall_counts_from_where_the_last_one_ended() -> None:
    idle = memory.IdleMemory()
    looks = [idle.look(in_use * MIB) for in_use in (50, 30, 30, 30, 20, 20, 20, 18, 18, 18)]
    assert [number for number, gives in enumerate(looks) if gives] == [3, 6]


def test_free_pages_between_used_ones_go_back_to_the_system() -> None:
    code = """
import ctypes, time
from streamproxy.process import memory
memory.INTERVAL = 0.05
told = memory.keep_buffers()
def resident():
    with open("/proc/self/statm") as statm:
        return int(statm.read().split()[1]) * 4096
kept = [b"x" * (100_000 + number) for number in range(1000)]
peak = resident()
between = kept[::10]
time.sleep(0.2)
del kept
deadline = time.monotonic() + 20
while resident() > peak - 60_000_000 and time.monotonic() < deadline:
    time.sleep(0.01)
print(told and hasattr(ctypes.CDLL(None), "mallinfo2"), resident() <= peak - 60_000_000)
"""
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    able, given = told.stdout.split()
    assert given == "True" or able == "False"
