"""Lines are gathered, stay whole, and never wait for a reader."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import io
import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO
from unittest import mock

import pytest

from streamproxy.observe import lines
from streamproxy.observe.lines import BIG, MOST, PIECE, LineWriter
from tests.doubles.until import until

LINE = "x" * 99


class Pipe:
    """A pipe of the smallest size that a page allows, and what was written to it by now."""

    def __init__(self) -> None:
        self._reader, writer = os.pipe()
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, 4096)
        os.set_blocking(self._reader, False)
        self.stream: TextIO = os.fdopen(writer, "w")

    def read(self) -> bytes:
        """Everything that is in the pipe."""
        data = b""
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(self._reader, 65536):
                data += piece
        return data

    def hang_up(self) -> None:
        """The reader goes."""
        if self._reader >= 0:
            os.close(self._reader)
            self._reader = -1


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.hang_up()
    with contextlib.suppress(OSError):
        pipe.stream.close()


async def turns(number: int = 3) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


async def test_the_lines_of_one_turn_are_one_write(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream)
    with mock.patch.object(os, "write", wraps=os.write) as write:
        for number in range(20):
            writer.write(f"line {number}", time.monotonic())
        assert not write.called
        await turns()
        assert write.call_count == 1
    assert pipe.read().decode().splitlines() == [f"line {number}" for number in range(20)]


async def test_lines_that_keep_coming_are_gathered_for_a_moment(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream)
    writer.write("first", time.monotonic())
    await turns()
    assert pipe.read() == b"first\n"
    now = writer._written_at
    writer.write("second", now)
    await turns()
    writer.write("third", now)
    assert pipe.read() == b""
    writer.flush()
    assert pipe.read() == b"second\nthird\n"


def test_without_a_loop_a_line_is_written_at_once(pipe: Pipe) -> None:
    LineWriter(pipe.stream).write("now", time.monotonic())
    assert pipe.read() == b"now\n"


async def test_many_bytes_do_not_wait_for_the_end_of_the_turn(tmp_path: Path) -> None:
    with (tmp_path / "log").open("w") as stream:
        writer = LineWriter(stream)
        for _ in range(BIG // 100 + 2):
            writer.write(LINE, time.monotonic())
        assert (tmp_path / "log").stat().st_size > BIG
        await turns()


async def test_a_full_pipe_blocks_nothing_and_loses_nothing(pipe: Pipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "RETRY", 0.001)
    writer = LineWriter(pipe.stream)
    expected = [f"{number:05d} {LINE}" for number in range(500)]
    for line in expected:
        writer.write(line, time.monotonic())
        await turns(1)
    got = bytearray()

    def arrived() -> int:
        got.extend(pipe.read())
        return got.count(b"\n")

    await until(arrived, holds=lambda lines: lines >= len(expected))
    assert got.decode().splitlines() == expected


async def test_writes_to_a_pipe_are_whole_lines_of_at_most_what_it_takes_at_once(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream)
    for _ in range(100):
        writer.write(LINE, time.monotonic())
    with mock.patch.object(os, "write", wraps=os.write) as write:
        while writer._lines or writer._held:
            writer.flush()
            pipe.read()
    for call in write.call_args_list:
        piece = bytes(call.args[1])
        assert len(piece) <= PIECE
        assert piece.endswith(b"\n")
    await turns()


async def test_a_line_longer_than_a_piece_arrives_whole(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream)
    long = "y" * (3 * PIECE)
    writer.write(long, time.monotonic())
    got = bytearray()

    def ended() -> bool:
        writer.flush()
        got.extend(pipe.read())
        return got.endswith(b"\n")

    await until(ended)
    assert got.decode() == long + "\n"


async def test_a_reader_that_stalls_for_long_costs_lines_and_a_warning(
    pipe: Pipe, caplog: pytest.LogCaptureFixture
) -> None:
    writer = LineWriter(pipe.stream)
    for _ in range(MOST // 100 + 100):
        writer.write(LINE, time.monotonic())
    assert writer._dropped > 0
    assert len(writer._held) + writer._size <= MOST + 200

    def written() -> bool:
        writer.flush()
        pipe.read()
        return not writer._held and not writer._lines

    with caplog.at_level(logging.WARNING, "streamproxy.log"):
        await until(written)
    assert "access-log lines were dropped" in caplog.text


def test_at_the_exit_a_slow_reader_is_waited_for_only_so_long(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream)
    writer._held = LINE.encode() * 1000
    began = time.monotonic()
    writer.flush(0.05)
    assert 0.05 <= time.monotonic() - began < 5
    assert writer._held


def test_a_reader_that_is_gone_costs_nothing(pipe: Pipe) -> None:
    writer = LineWriter(pipe.stream)
    pipe.hang_up()
    writer.write("lost", time.monotonic())
    assert not writer._held


def test_a_full_disk_costs_lines_and_nothing_else() -> None:
    with open("/dev/full", "w") as stream:
        writer = LineWriter(stream)
        writer.write("lost", time.monotonic())
        assert not writer._held


def test_a_stream_without_a_descriptor_is_written_to_all_the_same() -> None:
    stream = io.StringIO()
    LineWriter(stream).write("kept", time.monotonic())
    assert stream.getvalue() == "kept\n"
