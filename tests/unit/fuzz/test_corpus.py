"""Every fuzz target keeps its promise over its corpus, without a fuzzer."""

from __future__ import annotations

import itertools
import random
from pathlib import Path

import pytest

from fuzz.reads import bytes_of, reads_of
from fuzz.targets import CORPUS, PARTS, folders_of, load


def inputs_of(part: str) -> list[Path]:
    return [file for folder in folders_of(part) for file in sorted(folder.iterdir())]


@pytest.mark.parametrize("part", PARTS)
def test_a_target_holds_for_its_corpus_and_its_words(part: str) -> None:
    target = load(part)
    files = inputs_of(part)
    assert files
    for file in files:
        target.check(file.read_bytes())
    for pair in itertools.product(target.dictionary[:20], repeat=2):
        target.check(b"".join(pair))


@pytest.mark.parametrize("part", ["http2_server", "http2_client"])
def test_frames_that_are_mutated_stay_whole(part: str) -> None:
    target = load(part)
    assert target.mutate is not None
    data = b""
    for seed in range(200):
        data = target.mutate(data, 4096, seed)
        target.check(data)


def test_every_corpus_belongs_to_a_target() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(PARTS)


def test_reads_are_all_of_the_input_and_the_same_each_time() -> None:
    for size in range(40):
        data = random.Random(size).randbytes(size)
        assert b"".join(reads_of(data)) == data == b"".join(bytes_of(data))
        assert reads_of(data) == reads_of(data)
        assert all(reads_of(data)) or not data
