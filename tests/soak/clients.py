"""Clients that come, check every byte, and go. Each kind is one function of the `Scene` and a `random.Random`.

A kind returns when its exchange went as it should. It raises `Broken` if the response ended early *and was seen to*:
that is right if its backend was killed, and `Scene.judge` decides. It raises `WrongEnd` for what is never right: an
unfinished response that looks finished, an event twice or missing, other bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import math
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed, InvalidHandshake

from tests.doubles.client import RawClient, connect
from tests.doubles.connection import Head, PeerEnded
from tests.soak.content import DONE, LLM_PATTERN, file_bytes, parse_event

GRACE = 4.0  # seconds in which the effects of a kill may still arrive, once the backend is back


class WrongEnd(Exception):
    """Something that must never happen; the text says what."""


class Broken(Exception):
    """A response that ended early, visibly; ``name`` is the backend it came from, or "" if that is not known."""

    def __init__(self, what: str, name: str = "") -> None:
        super().__init__(what)
        self.name = name


@dataclass
class Kill:
    """A backend's absence: when it was killed, and when it was back."""

    name: str
    at: float
    back: float = math.inf


@dataclass
class Scene:
    """Where the proxy is, what was done to its backends, and what the clients saw.

    ``kills`` are what was killed. ``gap`` is the time between two events in milliseconds, ``events`` the mean number of
    a stream.
    """

    url: str
    gap: int
    events: int
    kills: list[Kill] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    broken: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    verified: int = 0  # bytes of content
    without_cursor: int = 0  # streams that should have been kept
    seeds: int = 0

    @property
    def h2_url(self) -> str:
        return self.url.replace("http:", "h2c:", 1)

    def seed(self) -> int:
        """A number that no other stream has."""
        self.seeds += 1
        return self.seeds

    def judge(self, kind: str, error: Broken) -> None:
        """Counts an early end that a kill explains; anything else is wrong."""
        now = time.monotonic()
        if any(kill.at <= now <= kill.back + GRACE and error.name in ("", kill.name) for kill in self.kills):
            self.broken[kind] += 1
        else:
            self.wrong.append(f"{kind}: {error} ({error.name or 'no backend known'}), and no backend had been killed")


async def _head(client: RawClient, kind: str) -> Head:
    """The response's head. Raises Broken for an error of the proxy's, or a connection that ended."""
    try:
        head = await client.read_head()
    except PeerEnded as error:
        raise WrongEnd(f"{kind}: no response, but {error.ended.how}") from None
    if head.status != 200:
        raise Broken(f"status {head.status}")
    return head


class Events:
    """The events of one response, each checked against the one before it."""

    def __init__(self, client: RawClient, seed: int, number: int = 0, cursor: bytes = b"") -> None:
        self.client = client
        self.seed = seed
        self.number = number
        self.name = ""
        self.size = 0
        self.cursor = cursor

    async def next(self) -> bool:
        """Reads and checks the next event; False at the end. Raises Broken, or WrongEnd for a wrong event."""
        buffer = self.client.decoded
        while (at := buffer.find(b"\n\n")) < 0:
            try:
                piece = await self.client.read_piece()
            except PeerEnded as error:
                raise Broken(f"cut by {error.ended.how} after event {self.number}", self.name) from None
            if not piece:
                if buffer:
                    raise WrongEnd(f"ended well inside an event: {bytes(buffer)!r}")
                return False
            buffer += piece
        event = bytes(buffer[: at + 2])
        del buffer[: at + 2]
        self.size += len(event)
        if event == DONE:
            return await self.next()
        self._check(event)
        return True

    def _check(self, event: bytes) -> None:
        lines = [line for line in event.split(b"\n") if line and not line.startswith(b":")]
        ids = [line[4:] for line in lines if line.startswith(b"id: ")]
        data = [line for line in lines if line.startswith(b"data: ")]
        if not data and not ids:
            return  # a keepalive
        match = LLM_PATTERN.fullmatch(data[0] + b"\n\n")
        try:
            name, seed, number, _ = parse_event(match[1] if match else data[0].removeprefix(b"data: "))
        except ValueError as error:
            raise WrongEnd(str(error)) from None
        if len(data) != 1 or seed != self.seed or number != self.number or (self.name and name != self.name):
            raise WrongEnd(f"event {event!r} where {self.seed}.{self.number} of {self.name} was due")
        self.number += 1
        self.name = name
        if ids and ids != [self.cursor + b"/%d" % self.number]:
            raise WrongEnd(f"the id {ids!r} of event {self.number} of {self.cursor!r}")


async def _stream(scene: Scene, chance: random.Random, url: str, path: str, method: str, leave: bool = False) -> None:
    seed, count = scene.seed(), chance.randint(1, 2 * scene.events)
    body = (
        b'{"model":"m","stream":true,"messages":[{"role":"user","content":"%d"}]}' % seed if method == "POST" else None
    )
    fields = [("Content-Type", "application/json")] if body else []
    async with await connect(url) as client:
        target = f"{path}?seed={seed}&n={count}&gap={scene.gap}"
        await client.request(target, method=method, headers=fields, body=body)
        await _head(client, path)
        events = Events(client, seed)
        stop = chance.randrange(count) if leave else count + 1
        while events.number < stop and await events.next():
            pass
        scene.verified += events.size
        if not leave and events.number != count:
            raise WrongEnd(f"{path}: complete after {events.number} of {count} events")


async def llm(scene: Scene, chance: random.Random) -> None:
    await _stream(scene, chance, scene.url, "/llm", "POST")


async def llm_h2(scene: Scene, chance: random.Random) -> None:
    await _stream(scene, chance, scene.h2_url, "/llm", "POST")


async def events_h2(scene: Scene, chance: random.Random) -> None:
    await _stream(scene, chance, scene.h2_url, "/events", "GET")


async def leaver(scene: Scene, chance: random.Random) -> None:
    await _stream(scene, chance, chance.choice((scene.url, scene.h2_url)), "/llm", "POST", leave=True)


async def resume(scene: Scene, chance: random.Random) -> None:
    """Drops the connection once or twice in the middle, and comes back with the cursor.

    A stream that has none, since Redis is too slow just then, is read to its end.
    """
    seed, count = scene.seed(), chance.randint(2, 2 * scene.events)
    target, cursor, number, name = f"/resume/events?seed={seed}&n={count}&gap={scene.gap}", b"", 0, ""
    stops = sorted(chance.sample(range(1, count), min(2, count - 1)))
    while True:
        async with await connect(scene.url) as client:
            fields = [("Last-Event-ID", f"{cursor.decode()}/{number}")] if cursor else []
            await client.request(target, headers=fields)
            head = await _resumed(client, name)
            if head.status == 204:
                break
            given = (head.get("x-stream-cursor") or b"").partition(b"/")[0]
            if cursor and given != cursor:
                raise WrongEnd(f"resume: the cursor {given!r} for a stream of {cursor!r}")
            if not given:
                scene.without_cursor, stops = scene.without_cursor + 1, []
            cursor = given
            events = Events(client, seed, number, cursor)
            events.name = name
            stop = stops.pop(0) if stops else count + 1
            while events.number < stop and (more := await events.next()):
                pass
            scene.verified += events.size
            number, name = events.number, events.name
            if number < stop and not more:
                break
            client.reset()
        await asyncio.sleep(chance.random())
    if number != count:
        raise WrongEnd(f"resume: complete after {number} of {count} events")


async def _resumed(client: RawClient, name: str) -> Head:
    try:
        head = await client.read_head()
    except PeerEnded as error:
        raise WrongEnd(f"resume: no response, but {error.ended.how}") from None
    if head.status not in (200, 204):
        raise Broken(f"resume: status {head.status}", name)
    return head


async def share(scene: Scene, chance: random.Random) -> None:
    """Joins one of four endless streams, reads some of it, and leaves."""
    seed = chance.randrange(4)
    async with await connect(chance.choice((scene.url, scene.h2_url))) as client:
        await client.request(f"/shared/endless?seed={seed}&gap={scene.gap}")
        await _head(client, "share")
        first = await _first_number(client, seed)
        events = Events(client, seed, first)
        for _ in range(chance.randint(1, scene.events)):
            if not await events.next():
                raise WrongEnd("share: an endless stream ended well")
        scene.verified += events.size


async def _first_number(client: RawClient, seed: int) -> int:
    """The number of the event that a client who joins is sent first. It stays to be read."""
    try:
        while b"\n\n" not in client.decoded:
            client.decoded += await client.read_piece()
    except PeerEnded as error:
        raise Broken(f"share: cut by {error.ended.how} before an event") from None
    line = next(line for line in client.decoded.split(b"\n") if line.startswith(b"data: "))
    return parse_event(bytes(line[6:]))[2]


async def download(scene: Scene, chance: random.Random) -> None:
    seed, size = scene.seed(), chance.randint(0, 300_000)
    async with await connect(chance.choice((scene.url, scene.h2_url))) as client:
        await client.request(f"/file?seed={seed}&size={size}")
        await _head(client, "download")
        answer = await client.read_rest()
        if not answer.complete:
            raise Broken("download cut")
        if answer.body != file_bytes(seed, size):
            raise WrongEnd(f"download: {len(answer.body)} other bytes than the {size} of {seed}")
        scene.verified += size


async def upload(scene: Scene, chance: random.Random) -> None:
    body = file_bytes(scene.seed(), chance.randint(1, 100_000))
    async with await connect(chance.choice((scene.url, scene.h2_url))) as client:
        await client.request("/upload", method="POST", body=body)
        await _head(client, "upload")
        answer = await client.read_rest()
        if not answer.complete:
            raise Broken("upload cut")
        if answer.body != hashlib.sha256(body).hexdigest().encode():
            raise WrongEnd(f"upload: the backend was sent something else than the {len(body)} bytes")
        scene.verified += len(body)


async def websocket(scene: Scene, chance: random.Random) -> None:
    """Echoes messages of all sizes. A socket whose backend is gone is closed with an error."""
    target = scene.url.replace("http", "ws", 1) + "/ws"
    try:
        async with connect_websocket(target, proxy=None, compression=None, open_timeout=20) as client:
            for _ in range(chance.randint(1, scene.events)):
                message = file_bytes(scene.seed(), chance.choice((1, 125, 126, 5_000, 70_000)))
                await client.send(message)
                if await asyncio.wait_for(client.recv(), 20) != message:
                    raise WrongEnd("websocket: another message came back")
                scene.verified += len(message)
                await asyncio.sleep(scene.gap / 1000)
    except ConnectionClosed as error:
        raise Broken(f"websocket closed: {error}") from None
    except InvalidHandshake as error:
        raise Broken(f"websocket refused: {error}") from None


Kind = Callable[[Scene, random.Random], Awaitable[None]]
KINDS: dict[Kind, int] = {
    llm: 30, llm_h2: 15, events_h2: 5, leaver: 10, resume: 15, share: 10, download: 5, upload: 5, websocket: 5
}  # fmt: skip


async def client(scene: Scene, number: int, pause: float, stop: asyncio.Event) -> None:
    """One client: exchange after exchange, with pauses, until ``stop``."""
    chance = random.Random(number)
    kinds, weights = list(KINDS), list(KINDS.values())
    await asyncio.sleep(chance.random() * pause)
    while not stop.is_set():
        (kind,) = chance.choices(kinds, weights)
        name = kind.__name__
        try:
            await kind(scene, chance)
            scene.done[name] += 1
        except Broken as error:
            scene.judge(name, error)
        except PeerEnded as error:
            scene.judge(name, Broken(f"{error.ended.how} while the request was sent"))
        except Exception as error:
            scene.wrong.append(f"{name}: {type(error).__name__}: {error}")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), chance.random() * pause)
