"""Sends the cases through one proxy alone and through two in a row, and compares what the upstream saw.

The law for requests: what arrives behind two proxies is what the first of them alone sends on, or less of it. One
request more, one with another body, or one that is not HTTP means that the second read a message differently.

The law for responses: the answer to a request holds nothing of an answer to another one.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.differential.mutations import case, http2_case
from tests.differential.peers import Peer, peers
from tests.differential.recorder import Recorder, Seen

_LANES = 16  # cases at once
_SILENCE = 0.25  # seconds after which a proxy is taken to wait for more
_PATIENCE = 2.0
_LONGEST = 5.0

Protocol = Literal["HTTP/1.1", "HTTP/2"]


class Way(NamedTuple):
    """Two proxies in a row, what the client speaks to the first, and what the first speaks to the second."""

    front: str
    back: str
    client: Protocol = "HTTP/1.1"
    link: Protocol = "HTTP/1.1"

    def __str__(self) -> str:
        return f"{self.client} to {self.front}, {self.link} to {self.back}"

    def chain(self, length: int = 2) -> list[tuple[Peer, bool]]:
        """The proxies, the first in front, each with whether it speaks HTTP/2 to the next hop."""
        known = peers()
        both = [(known[self.front], self.link == "HTTP/2"), (known[self.back], False)]
        return both if length == 2 else [(known[self.front], False)]

    def case(self, number: int, seed: int) -> bytes:
        """What the client sends in a case."""
        return (http2_case if self.client == "HTTP/2" else case)(number, seed)

    def is_part(self, some: list[Seen], all_: list[Seen]) -> bool:
        """Whether some requests are among others, in the same order if the client's protocol has one."""
        return is_part(*((sorted(some), sorted(all_)) if self.client == "HTTP/2" else (some, all_)))


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


async def send_all(
    port: int, make: Callable[[int, int], bytes], numbers: Sequence[int], seed: int, silence: float
) -> dict[int, bytes]:
    """Sends each case over a connection of its own; returns what came back."""
    left = iter(numbers)
    answers: dict[int, bytes] = {}

    async def lane() -> None:
        for number in left:
            answers[number] = await exchange(port, make(number, seed), silence)

    await asyncio.gather(*(lane() for _ in range(_LANES)))
    return answers


@contextlib.asynccontextmanager
async def started(chain: list[tuple[Peer, bool]], port: int, folder: Path) -> AsyncIterator[int]:
    """Starts proxies in a row before a port; yields the port of the first."""
    async with AsyncExitStack() as stack:
        for place, (peer, http2) in reversed(list(enumerate(chain))):
            own = folder / f"{len(chain)}-{place}"
            own.mkdir(parents=True, exist_ok=True)
            running: Any = peer.start(port, own, http2)
            port = await stack.enter_async_context(running)
        yield port


async def seen_behind(
    way: Way, length: int, folder: Path, numbers: Sequence[int], seed: int, silence: float = _SILENCE
) -> tuple[Recorder, dict[int, bytes]]:
    """What an upstream sees behind the first proxy or both, and what clients get."""
    async with Recorder() as recorder, started(way.chain(length), recorder.port, folder) as port:
        answers = await send_all(port, way.case, numbers, seed, silence)
    return recorder, answers


async def requests(way: Way, folder: Path, numbers: range, seed: int) -> Outcome:
    """Compares a chain with its front alone."""
    outcome = Outcome(f"requests by {way}", len(numbers))
    alone, _ = await seen_behind(way, 1, folder / "alone", numbers, seed)
    both, answers = await seen_behind(way, 2, folder / "both", numbers, seed)
    suspects: list[int] = []
    for number in (*numbers, -1):
        first, second = alone.seen[number], both.seen[number]
        outcome.taken_by_front += bool(first)
        outcome.taken_by_both += bool(second)
        if not way.is_part(second, first):
            suspects.append(number)
        if first and not second:
            outcome.refusals[status_of(answers.get(number, b""))] += 1
    if suspects:
        outcome.wrong += await _confirm(way, folder, suspects, seed)
    if way.back == "streamproxy":
        outcome.wrong += [f"malformed for the upstream: {what}" for what in both.malformed]
    if way.front == "streamproxy":
        outcome.wrong += [f"malformed for the upstream: {what}" for what in alone.malformed]
    return outcome


def status_of(answer: bytes) -> str:
    """The status of an HTTP/1.1 answer, or a word for what came instead."""
    return answer[9:12].decode("latin-1") if answer.startswith(b"HTTP/1.") else "frames" if answer else "closed"


async def _confirm(way: Way, folder: Path, suspects: list[int], seed: int) -> list[str]:
    """Sends suspicious cases again with more patience: a slow machine may cut one short behind one chain only."""
    known = [number for number in suspects if number >= 0]
    alone, _ = await seen_behind(way, 1, folder / "alone", known, seed, _PATIENCE)
    both, _ = await seen_behind(way, 2, folder / "both", known, seed, _PATIENCE)
    wrong = [f"requests of no case: {both.seen[-1]}"] if not way.is_part(both.seen[-1], alone.seen[-1]) else []
    for number in known:
        first, second = alone.seen[number], both.seen[number]
        if not way.is_part(second, first):
            wrong.append(f"case {number} {way.case(number, seed)!r}: {second}, where the front alone sends {first}")
    return wrong


def is_part(some: list[Seen], all_: list[Seen]) -> bool:
    """Whether some requests are among others, in the same order."""
    rest = iter(all_)
    return all(any(one == other for other in rest) for one in some)


async def responses(way: Way, folder: Path, numbers: range, seed: int) -> Outcome:
    """Sends two requests, the first of which gets a mutated response: the second must get its own, or none.

    The client speaks HTTP/1.1 always: it is the way between the proxies that matters.
    """
    outcome = Outcome(f"responses by {way}", len(numbers))
    left = iter(numbers)
    async with Recorder(seed) as recorder, started(way.chain(), recorder.port, folder) as port:

        async def lane() -> None:
            for number in left:
                await _ask_twice(port, number, outcome)

        await asyncio.gather(*(lane() for _ in range(_LANES)))
    return outcome


async def _ask_twice(port: int, number: int, outcome: Outcome) -> None:
    first = await exchange(port, b"GET /d/%d/first HTTP/1.1\r\nHost: h\r\n\r\n" % number)
    second = await exchange(port, b"GET /d/%d/second HTTP/1.1\r\nHost: h\r\n\r\n" % number)
    outcome.taken_by_front += status_of(first) == "200"
    if b"answer to" in first:
        outcome.wrong.append(f"response {number}: the first request got {first!r}")
    body = second.partition(b"\r\n\r\n")[2]
    if second[9:12] == b"200":
        outcome.taken_by_both += 1
        if b"answer to %d second" % number not in body or b"poison" in second:
            outcome.wrong.append(f"response {number}: the second request got {second!r} after {first!r}")
    else:
        outcome.refusals[status_of(second)] += 1
