"""Keys that are read from a URL: when they are read again, and what a bad answer does to the keys there are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from streamproxy.auth import KeySets, remote
from streamproxy.auth.remote import MOST, KeySet
from streamproxy.errors import StreamproxyError
from tests.conftest import Serve
from tests.doubles.certificates import make_certificate
from tests.doubles.until import until
from tests.doubles.upstream import Conn, Upstream, response, stream_head


class Issuer:
    """Publishes ``answer``, on a connection of its own for each reading."""

    def __init__(self) -> None:
        self.answer = response(b"one")
        self.hold: asyncio.Event | None = None

    async def script(self, conn: Conn) -> None:
        while True:
            await conn.read_request()
            if self.hold is not None:
                await self.hold.wait()
            await conn.send(self.answer)


def parse(data: bytes) -> tuple[str, ...]:
    if data.startswith(b"bad"):
        raise ValueError("it is not JSON")
    return tuple(data.decode().split())


@pytest.fixture
def issuer() -> Issuer:
    return Issuer()


@pytest.fixture
async def upstream(issuer: Issuer, serve: Serve) -> Upstream:
    return await serve(issuer.script)


@pytest.fixture
def errors() -> list[None]:
    return []


@pytest.fixture
async def keys(upstream: Upstream, errors: list[None], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KeySet]:
    monkeypatch.setattr(remote, "AGAIN", 0.0)
    made = KeySet(f"{upstream.url}/keys?v=1", parse, lambda: errors.append(None))
    yield made
    await made.aclose()


async def test_keys_are_there_when_the_start_is_over(keys: KeySet, upstream: Upstream) -> None:
    assert (list(keys()), keys.known) == ([], False)
    await keys.start()
    assert (list(keys()), keys.known) == (["one"], True)
    (head,) = upstream.requests
    assert (head.target, head.get("host")) == (b"/keys?v=1", upstream.url[7:].encode())


async def test_another_reading_finds_the_keys_of_a_rotation(keys: KeySet, issuer: Issuer) -> None:
    await keys.start()
    issuer.answer = response(b"one two")
    await keys.refresh()
    assert list(keys()) == ["one", "two"]


async def test_the_same_answer_leaves_the_same_keys(keys: KeySet) -> None:
    await keys.start()
    before = keys()
    await keys.refresh()
    assert keys() is before  # so that what was verified with them stays verified


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (response(b"", status="500 Internal Server Error"), "status 500"),
        (response(b"", status="302 Found", headers=[("Location", "http://127.0.0.1:1/")]), "status 302"),
        (response(b"bad"), "it is not JSON"),
        (response(b"k" * (MOST + 1)), f"it is over {MOST} bytes"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nk", "closed by the upstream"),
        (b"garbage\r\n\r\n", "does not begin with HTTP/"),
    ],
    ids=["status", "redirect", "no keys", "too large", "cut", "no HTTP"],
)
async def test_a_bad_answer_changes_nothing_and_is_told_once(
    keys: KeySet,
    issuer: Issuer,
    serve: Serve,
    upstream: Upstream,
    errors: list[None],
    caplog: pytest.LogCaptureFixture,
    answer: bytes,
    why: str,
) -> None:
    await keys.start()

    async def closing(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(answer)

    upstream.scripts = [closing]
    for conn in upstream.open_connections:
        conn.close()
    await until(lambda: not upstream.open_connections, "the connection to be closed")
    with caplog.at_level(logging.INFO, "streamproxy.auth"):
        await keys.refresh()
        await keys.refresh()
    assert list(keys()) == ["one"]
    assert len(errors) == 2
    (told,) = caplog.records
    assert why in told.message
    upstream.scripts = [issuer.script]
    issuer.answer = response(b"two")
    with caplog.at_level(logging.INFO, "streamproxy.auth"):
        await keys.refresh()
    assert list(keys()) == ["two"]
    assert "can be read again" in caplog.records[-1].message


async def test_an_answer_that_never_ends_is_given_up(
    serve: Serve, errors: list[None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(stream_head("application/json"))
        await conn.send_chunk(b" ")
        await conn.wait_ended()

    monkeypatch.setattr(remote, "READING", 0.2)
    upstream = await serve(endless)
    keys = KeySet(upstream.url, parse, lambda: errors.append(None))
    await keys.start()
    assert (keys.known, len(errors)) == (False, 1)
    await keys.aclose()


async def test_a_flood_of_unknown_keys_makes_one_reading(
    keys: KeySet, issuer: Issuer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await keys.start()
    issuer.hold = asyncio.Event()
    waiting = [asyncio.ensure_future(keys.refresh()) for _ in range(100)]
    await upstream.request(1)
    monkeypatch.setattr(remote, "AGAIN", 10.0)
    issuer.hold.set()
    await asyncio.gather(*waiting)
    for _ in range(100):
        await keys.refresh()  # returns at once: the last reading is less than that old
    assert len(upstream.requests) == 2


async def test_it_is_read_again_by_itself(keys: KeySet, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "PERIOD", 0.01)
    await keys.start()
    await upstream.request(3)


async def test_closing_frees_those_who_wait(keys: KeySet, issuer: Issuer, upstream: Upstream) -> None:
    await keys.start()
    issuer.hold = asyncio.Event()
    waiting = asyncio.ensure_future(keys.refresh())
    await upstream.request(1)
    await keys.aclose()
    await waiting
    await keys.refresh()
    assert list(keys()) == ["one"]
    issuer.hold.set()


async def test_a_client_that_leaves_takes_the_reading_from_nobody_else(
    keys: KeySet, issuer: Issuer, upstream: Upstream
) -> None:
    await keys.start()
    issuer.hold = asyncio.Event()
    issuer.answer = response(b"two")
    leaver, stayer = (asyncio.ensure_future(keys.refresh()) for _ in range(2))
    await upstream.request(1)
    leaver.cancel()
    issuer.hold.set()
    await stayer
    assert list(keys()) == ["two"]


async def test_the_certificate_is_verified(serve: Serve, tmp_path: Path, errors: list[None]) -> None:
    certificate = make_certificate(tmp_path)

    async def script(conn: Conn) -> None:
        await conn.read_request()
        await conn.send(response(b"one"))

    upstream = await serve(script, tls=certificate.server_context())
    trusting = KeySet(upstream.url, parse, lambda: errors.append(None), ca=str(certificate.cert))
    await trusting.start()
    assert (list(trusting()), errors) == (["one"], [])
    stranger = KeySet(upstream.url, parse, lambda: errors.append(None))
    await stranger.start()
    assert (stranger.known, len(errors)) == (False, 1)
    await trusting.aclose()
    await stranger.aclose()


async def test_a_reload_keeps_what_it_still_names_and_closes_the_rest(upstream: Upstream) -> None:
    first = KeySets(lambda: None)
    kept = first.of(f"{upstream.url}/a", (), parse)
    dropped = first.of(f"{upstream.url}/b", (), parse)
    await first.start()
    second = KeySets(lambda: None, first)
    assert second.of(f"{upstream.url}/a", (), parse) is kept
    await second.start()
    await first.retire(second)
    assert len(upstream.requests) == 2
    assert dropped._task is not None
    assert dropped._task.done()
    assert kept._task is not None
    assert not kept._task.done()
    await second.retire()


async def test_a_reload_is_refused_while_a_new_url_cannot_be_read(upstream: Upstream, issuer: Issuer) -> None:
    first = KeySets(lambda: None)
    kept = first.of(f"{upstream.url}/a", (), parse)
    await first.start()
    issuer.answer = response(b"bad")
    second = KeySets(lambda: None, first)
    assert second.of(f"{upstream.url}/a", (), parse) is kept
    second.of(f"{upstream.url}/b", (), parse)
    with pytest.raises(StreamproxyError, match="/b cannot be read"):
        await second.start()
    await second.discard()
    assert kept._task is not None
    assert not kept._task.done()
    await first.retire()
