"""Every fuzz target keeps its promise over its corpus, without a fuzzer."""

from __future__ import annotations

import itertools
import random
from pathlib import Path
from typing import Any

import pytest

from fuzz.reads import bytes_of, reads_of
from fuzz.targets import CORPUS, PARTS, folders_of, load
from streamproxy.client.http1 import response_head
from streamproxy.client.http1.known import KnownResponse
from streamproxy.wire.request import RequestHead


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


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


def test_a_parser_that_goes_wrong_behind_a_body_is_found_where_the_next_head_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, unseen = load("request_head"), RequestHead._unseen_body
    for _ in range(3):
        target.check(GET)
    # Behind a head that came in one piece, the parser takes the next one for the body.
    monkeypatch.setattr(RequestHead, "_unseen_body", lambda head, of: b"" if head._begun is None else unseen(head, of))
    with pytest.raises(AssertionError):
        target.check(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n" + GET)


def test_what_is_remembered_wrongly_of_a_head_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Remembered(KnownResponse):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.headers = self.headers[1:]

    monkeypatch.setattr(response_head, "KnownResponse", Remembered)
    with pytest.raises(AssertionError):
        load("response").check(b"HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 0\r\n\r\n")
