"""Sends the cases through one proxy alone and through two in a row, and compares what the upstream saw.

The law for requests: what arrives behind two proxies is what the first of them alone sends on, or less of it. One
request more, one with another body, or one that is not HTTP means that the second read a message differently.

The law for responses: the answer to a request holds nothing of an answer to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.differential.mutations import case
from tests.differential.peers import Peer, peers
from tests.differential.recorder import Recorder, Seen

_LANES = 16  # cases at once
_SILENCE = 0.25  # seconds after which a proxy is taken to wait for more
_PATIENCE = 2.0
_LONGEST = 5.0


@dataclass
class Outcome:
    """What came of a pair. ``taken`` are cases in which the upstream saw a request, behind the first proxy and both."""

    pair: str
    cases: int = 0
    taken_by_front: int = 0
    taken_by_both: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


async def exchange(port: int, data: bytes, silence: float = _SILENCE) -> bytes:
    """Sends bytes; returns what came back until the end, or until nothing more comes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    back = b""
    try:
        writer.write(data)
        async with asyncio.timeout(_LONGEST):
            with contextlib.suppress(TimeoutError, ConnectionError):
                while piece := await asyncio.wait_for(reader.read(65536), silence):
                    back += piece
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.transport.abort()
    return back


async def send_all(port: int, numbers: Sequence[int], seed: int, silence: float) -> dict[int, bytes]:
    """Sends each case over a connection of its own; returns what came back."""
    left = iter(numbers)
    answers: dict[int, bytes] = {}

    async def lane() -> None:
        for number in left:
            answers[number] = await exchange(port, case(number, seed), silence)

    await asyncio.gather(*(lane() for _ in range(_LANES)))
    return answers


async def seen_behind(
    chain: list[Peer], folder: Path, numbers: Sequence[int], seed: int, silence: float = _SILENCE
) -> tuple[Recorder, dict[int, bytes]]:
    """What an upstream sees behind these proxies, the first of them in front, and what clients get."""
    async with Recorder() as recorder, AsyncExitStack() as stack:
        port = recorder.port
        for place, peer in reversed(list(enumerate(chain))):
            own = folder / f"{len(chain)}-{place}"
            own.mkdir(parents=True, exist_ok=True)
            started: Any = peer.start(port, own)
            port = await stack.enter_async_context(started)
        answers = await send_all(port, numbers, seed, silence)
    return recorder, answers


async def requests(front: str, back: str, folder: Path, numbers: range, seed: int) -> Outcome:
    """Compares a chain with its front alone."""
    known = peers()
    outcome = Outcome(f"{front} in front of {back}", len(numbers))
    alone, _ = await seen_behind([known[front]], folder / "alone", numbers, seed)
    both, answers = await seen_behind([known[front], known[back]], folder / "both", numbers, seed)
    suspects: list[int] = []
    for number in (*numbers, -1):
        first, second = alone.seen[number], both.seen[number]
        outcome.taken_by_front += bool(first)
        outcome.taken_by_both += bool(second)
        if not is_part(second, first):
            suspects.append(number)
        if first and not second:
            outcome.refusals[answers.get(number, b"")[9:12].decode("latin-1") or "closed"] += 1
    if suspects:
        outcome.wrong += await _confirm([known[front], known[back]], folder, suspects, seed)
    if back == "streamproxy":
        outcome.wrong += [f"malformed for the upstream: {what}" for what in both.malformed]
    if front == "streamproxy":
        outcome.wrong += [f"malformed for the upstream: {what}" for what in alone.malformed]
    return outcome


async def _confirm(chain: list[Peer], folder: Path, suspects: list[int], seed: int) -> list[str]:
    """Sends suspicious cases again with more patience: a slow machine may cut one short behind one chain only."""
    known = [number for number in suspects if number >= 0]
    alone, _ = await seen_behind(chain[:1], folder / "alone", known, seed, _PATIENCE)
    both, _ = await seen_behind(chain, folder / "both", known, seed, _PATIENCE)
    wrong = [f"requests of no case: {both.seen[-1]}"] if not is_part(both.seen[-1], alone.seen[-1]) else []
    for number in known:
        first, second = alone.seen[number], both.seen[number]
        if not is_part(second, first):
            wrong.append(f"case {number} {case(number, seed)!r}: {second}, where the front alone sends {first}")
    return wrong


def is_part(some: list[Seen], all_: list[Seen]) -> bool:
    """Whether some requests are among others, in the same order."""
    rest = iter(all_)
    return all(any(one == other for other in rest) for one in some)


async def responses(front: str, back: str, folder: Path, numbers: range, seed: int) -> Outcome:
    """Sends two requests, the first of which gets a mutated response: the second must get its own, or none."""
    known = peers()
    outcome = Outcome(f"responses through {front} and {back}", len(numbers))
    left = iter(numbers)
    async with Recorder(seed) as recorder, AsyncExitStack() as stack:
        port = recorder.port
        for place, name in enumerate((back, front)):
            own = folder / f"r{place}"
            own.mkdir(parents=True, exist_ok=True)
            started: Any = known[name].start(port, own)
            port = await stack.enter_async_context(started)

        async def lane() -> None:
            for number in left:
                await _ask_twice(port, number, outcome)

        await asyncio.gather(*(lane() for _ in range(_LANES)))
    return outcome


async def _ask_twice(port: int, number: int, outcome: Outcome) -> None:
    first = await exchange(port, b"GET /d/%d/first HTTP/1.1\r\nHost: h\r\n\r\n" % number)
    second = await exchange(port, b"GET /d/%d/second HTTP/1.1\r\nHost: h\r\n\r\n" % number)
    outcome.taken_by_front += first[9:12] == b"200"
    if b"answer to" in first:
        outcome.wrong.append(f"response {number}: the first request got {first!r}")
    body = second.partition(b"\r\n\r\n")[2]
    if second[9:12] == b"200":
        outcome.taken_by_both += 1
        if b"answer to %d second" % number not in body or b"poison" in second:
            outcome.wrong.append(f"response {number}: the second request got {second!r} after {first!r}")
    else:
        outcome.refusals[second[9:12].decode("latin-1") or "closed"] += 1
