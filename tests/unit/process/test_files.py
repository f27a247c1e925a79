"""Watching files by their content, through links and renames."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamproxy.process import files as module
from streamproxy.process.files import contents, folders, looks


def test_contents_differ_by_what_is_in_the_files_and_not_by_their_times(tmp_path: Path) -> None:
    file, missing = tmp_path / "a", tmp_path / "b"
    file.write_text("one")
    before = contents([file, missing])
    file.touch()
    assert contents([file, missing]) == before
    file.write_text("two")
    assert contents([file, missing]) != before
    missing.write_text("")
    assert contents([missing]) != {missing: b""}


def test_a_pipe_has_no_content_and_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert contents([tmp_path / "pipe", tmp_path]) == {tmp_path / "pipe": b"", tmp_path: b""}


def test_every_folder_on_the_way_to_a_file_is_watched(tmp_path: Path) -> None:
    for name in ("etc", "opt/v1", "opt/v2", "deep"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "opt/v1/app.yaml").write_text("")
    (tmp_path / "opt/current").symlink_to("v1")
    (tmp_path / "deep/link").symlink_to(tmp_path / "opt/current/app.yaml")
    (tmp_path / "etc/app.yaml").symlink_to("../deep/link")
    found = {folder.resolve() for folder in folders([tmp_path / "etc/app.yaml"])}
    assert found == {tmp_path / "etc", tmp_path / "deep", tmp_path / "opt", tmp_path / "opt/v1"}


def test_links_in_a_circle_and_folders_that_are_not_there_are_no_trouble(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert folders([tmp_path / "a", tmp_path / "none/file"]) == {tmp_path}


@asynccontextmanager
async def watching(files: list[Path]) -> AsyncIterator[AsyncIterator[None]]:
    stop = asyncio.Event()
    turns = looks(lambda: files, stop)
    try:
        async with asyncio.timeout(20):
            await anext(turns)
            yield turns
    finally:
        stop.set()
        async for _ in turns:
            pass


async def until_changed(turns: AsyncIterator[None], files: list[Path], before: module.Contents) -> None:
    async for _ in turns:
        if contents(files) != before:
            return


@pytest.mark.parametrize("way", ["in place", "renamed", "link swapped"])
async def test_a_change_gives_a_turn(tmp_path: Path, way: str) -> None:
    (tmp_path / "v1").mkdir()
    (tmp_path / "v2").mkdir()
    (tmp_path / "v1/f").write_text("one")
    (tmp_path / "v2/f").write_text("two")
    (tmp_path / "now").symlink_to("v1")
    file = tmp_path / ("now/f" if way == "link swapped" else "v1/f")
    before = contents([file])
    async with watching([file]) as turns:
        if way == "in place":
            file.write_text("two")
        elif way == "renamed":
            (tmp_path / "v2/f").replace(file)
        else:
            (tmp_path / "next").symlink_to("v2")
            (tmp_path / "next").rename(tmp_path / "now")
        await until_changed(turns, [file], before)
    assert file.read_text() == "two"


async def test_a_link_that_was_swapped_is_followed_to_its_new_folder(tmp_path: Path) -> None:
    for name in ("v1", "v2"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f").write_text(name)
    link = tmp_path / "now"
    link.symlink_to("v1")
    files = [link / "f"]
    async with watching(files) as turns:
        before = contents(files)
        link.unlink()
        link.symlink_to("v2")
        await until_changed(turns, files, before)
        before = contents(files)
        (tmp_path / "v2/f").write_text("newer")
        await until_changed(turns, files, before)
    assert files[0].read_text() == "newer"


async def test_there_is_a_look_without_any_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOOK", 0.05)
    file = tmp_path / "f"
    file.write_text("")
    async with watching([file]) as turns:
        await anext(turns)
        await anext(turns)


@pytest.mark.parametrize("fault", ["fails", "says nothing"])
async def test_a_watch_that_breaks_is_no_end_of_looking(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    async def broken(*folders: Path, **options: object) -> AsyncIterator[set[str]]:
        if fault == "fails":
            raise FileNotFoundError("the folder is gone")
        await asyncio.Event().wait()
        yield set()

    monkeypatch.setattr(module, "awatch", broken)
    monkeypatch.setattr(module, "LOOK", 0.01)
    file = tmp_path / "a"
    file.write_text("one")
    async with watching([file]) as turns:
        before = contents([file])
        file.write_text("two")
        await until_changed(turns, [file], before)
        assert contents([file]) != before
