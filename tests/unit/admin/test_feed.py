"""The stream of updates: who gets which, when nothing runs, and how it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, MutableMapping
from typing import Any
from unittest import mock

import pytest

from streamproxy.admin import feed as module
from streamproxy.admin.app import Admin, create_admin
from streamproxy.admin.feed import MOST_VIEWERS, Feed, Viewer, parse_view
from streamproxy.admin.overview import Overviews, Shown
from streamproxy.admin.update import View
from tests.doubles.connection import guarded
from tests.doubles.leaks import LeakCheck
from tests.unit.admin.proxy import SeenProxy
from tests.unit.admin.test_app import browse


class Counted(Overviews):
    """Counts the looks, and fails when a test says so."""

    def __init__(self, proxy: SeenProxy) -> None:
        super().__init__(proxy)
        self.looks = 0
        self.broken = False

    async def look(self) -> Shown:
        self.looks += 1
        if self.broken:
            raise RuntimeError("boom")
        return await super().look()


@pytest.fixture
def proxy() -> SeenProxy:
    return SeenProxy()


@pytest.fixture
def overviews(proxy: SeenProxy) -> Counted:
    return Counted(proxy)


@pytest.fixture
async def feed(leaks: LeakCheck, overviews: Counted) -> AsyncIterator[Feed]:
    feed = Feed(overviews)
    yield feed
    await feed.aclose()


async def next_update(viewer: Viewer) -> dict[str, Any] | None:
    async with guarded("an update"):
        update = await viewer.next()
    if update is None:
        return None
    assert update.startswith(b"data: ")
    assert update.endswith(b"\n\n")
    assert update.count(b"\n") == 2
    found: dict[str, Any] = json.loads(update[6:])
    return found


async def test_a_viewer_gets_an_update_at_once_and_then_one_each_interval(feed: Feed, proxy: SeenProxy) -> None:
    proxy.stream("id-1")
    viewer = feed.join(View(), 0.25)
    for _ in range(2):
        update = await next_update(viewer)
        assert update is not None
        assert [stream["id"] for stream in update["streams"]] == ["id-1"]


async def test_viewers_of_one_moment_share_one_look(feed: Feed, overviews: Counted) -> None:
    viewers = [feed.join(View(limit=number // 2), 60.0) for number in range(10)]
    updates = [await next_update(viewer) for viewer in viewers]
    assert None not in updates
    assert overviews.looks == 1


async def test_nothing_runs_when_nobody_looks(feed: Feed, overviews: Counted) -> None:
    before = asyncio.all_tasks()
    viewers = [feed.join(View(), 0.25) for _ in range(2)]
    assert len(asyncio.all_tasks() - before) == 1
    for viewer in viewers:
        await next_update(viewer)
        feed.leave(viewer)
    async with guarded("the feed's task to end"):
        await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)
    assert overviews.looks == 1


async def test_a_slow_viewer_is_given_the_newest_update_only() -> None:
    viewer = Viewer(View(), 1.0)
    for number in range(3):
        viewer.put(b"%d" % number, 100.0 + number)
    assert await viewer.next() == b"2"
    viewer.close()
    assert await viewer.next() is None


def test_viewers_of_one_interval_are_due_together() -> None:
    one, other = Viewer(View(), 2.0), Viewer(View(), 2.0)
    one.put(b"", 100.1)
    other.put(b"", 101.9)
    assert one.due == other.due == 102.0


async def test_a_stream_of_updates_ends_by_itself_so_that_a_server_can_stop(
    feed: Feed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LIFETIME", 0.0)
    viewer = feed.join(View(), 0.25)
    assert await next_update(viewer) is not None
    assert await next_update(viewer) is None


async def test_closing_ends_every_viewer_and_takes_no_more(feed: Feed) -> None:
    viewers = [feed.join(View(), 60.0) for _ in range(3)]
    for viewer in viewers:
        await next_update(viewer)
    await feed.aclose()
    assert [await next_update(viewer) for viewer in viewers] == [None] * 3
    assert feed.full


async def test_a_fault_ends_the_viewers_and_who_comes_back_is_served(feed: Feed, overviews: Counted) -> None:
    overviews.broken = True
    with mock.patch.object(module.logger, "exception") as logged:
        viewer = feed.join(View(), 0.25)
        assert await next_update(viewer) is None
    feed.leave(viewer)
    logged.assert_called_once()
    overviews.broken = False
    assert await next_update(feed.join(View(), 0.25)) is not None


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, (View("age", False, None, 50), 1.0)),
        (
            {"sort": "rate", "order": "asc", "route": "a b", "limit": "7", "interval": "0.5"},
            (View("rate", True, "a b", 7), 0.5),
        ),
        ({"route": ""}, (View(), 1.0)),
    ],
)
def test_a_query_is_a_view(query: dict[str, str], expected: tuple[View, float]) -> None:
    assert parse_view(query) == expected


@pytest.mark.parametrize(
    "query",
    [{"sort": "name"}, {"order": "up"}, {"limit": "-1"}, {"limit": "1e9"}, {"interval": "0"}, {"interval": "nan"}],
)
def test_a_wrong_query_is_refused_with_what_is_allowed(query: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(query))} must be "):
        parse_view(query)


class Call:
    """One request to the admin application, whose client leaves when a test says so."""

    def __init__(self, app: Admin) -> None:
        self.sent: asyncio.Queue[MutableMapping[str, Any]] = asyncio.Queue()
        self.left = asyncio.Event()
        self.gone = False  # sending fails
        scope = {
            "type": "http",
            "method": "GET",
            "path": "/streams/live",
            "query_string": b"interval=0.25",
            "headers": [],
        }
        self.task = asyncio.create_task(app(scope, self.receive, self.send))

    async def receive(self) -> MutableMapping[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: MutableMapping[str, Any]) -> None:
        if self.gone:
            raise OSError("the client has left")
        self.sent.put_nowait(message)

    async def until_update(self) -> None:
        async with guarded("an update"):
            while b"data: " not in (await self.sent.get()).get("body", b""):
                pass

    async def over(self) -> None:
        async with guarded("the call to end"):
            await self.task


@pytest.fixture
async def admin(leaks: LeakCheck, proxy: SeenProxy) -> AsyncIterator[Admin]:
    admin = create_admin(proxy)
    yield admin
    await admin.aclose()


async def test_a_client_that_leaves_leaves_nothing_behind(admin: Admin) -> None:
    before = asyncio.all_tasks()
    call = Call(admin)
    await call.until_update()
    call.left.set()
    await call.over()
    async with guarded("the feed's task to end"):
        await asyncio.gather(*(asyncio.all_tasks() - before), return_exceptions=True)


async def test_a_send_that_fails_ends_the_call_quietly(admin: Admin) -> None:
    call = Call(admin)
    await call.until_update()
    call.gone = True
    await call.over()


async def test_closing_ends_a_response_in_good_order(admin: Admin) -> None:
    call = Call(admin)
    await call.until_update()
    await admin.aclose()
    await call.over()
    messages = []
    while not call.sent.empty():
        messages.append(call.sent.get_nowait())
    assert messages[-1] == {"type": "http.response.body", "body": b""}


async def test_too_many_viewers_are_told_so(admin: Admin) -> None:
    for _ in range(MOST_VIEWERS):
        admin.feed.join(View(), 60.0)
    async with browse(admin) as client:
        response = await client.get("/streams/live")
    assert response.status_code == 503
    assert response.headers["content-type"] == "application/problem+json"


async def test_a_wrong_view_is_a_problem(admin: Admin) -> None:
    async with browse(admin) as client:
        response = await client.get("/streams/live?sort=name")
    assert response.status_code == 400
    assert "age, bytes, events, rate" in response.json()["detail"]


async def test_head_of_the_live_view_has_no_body_and_no_viewer(admin: Admin) -> None:
    async with browse(admin) as client:
        response = await client.head("/streams/live")
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert (await client.post("/streams/live")).status_code == 405
        assert (await client.delete("/streams/live")).status_code == 404  # a stream of that id, which is not there


async def test_a_stream_whose_id_is_live_can_be_stopped(admin: Admin, proxy: SeenProxy) -> None:
    proxy.begin("live")
    async with browse(admin) as client:
        assert (await client.delete("/streams/live")).status_code == 202
