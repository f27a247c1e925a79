"""The live view of the admin listener: one update a second, built once for all viewers, and only if there are any.

Theory of operation. A `Viewer` is one open stream of updates; it joins and leaves the `Feed`. While there are viewers,
the feed runs one task. The task takes a sample when the next viewer is due, builds one update for each distinct view,
and puts it into the viewers' slots::

    no viewer ──join──▶ task: wait until due ──▶ sample ──▶ an update for each view ─┐
         ▲                       ▲───────────────────────────────────────────────────┘
         └────────the last leaves, or aclose────────

A slot holds only the newest update, so a slow viewer skips some. Viewers with the same interval are due at the same
times, whenever they joined.

A stream of updates ends after `LIFETIME`, and a browser reconnects at once. Some servers wait for their connections
before they tell an application to stop, and would wait forever for a viewer that never ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from streamproxy.admin.overview import Overviews
from streamproxy.admin.update import SORTS, Sort, View
from streamproxy.observe.json_line import encode

logger = logging.getLogger("streamproxy.admin")

INTERVAL = 1.0  # seconds between two updates, unless a viewer asks for another
SHORTEST, LONGEST = 0.25, 60.0  # the allowed intervals
LIFETIME = 20.0  # seconds until a stream of updates ends
MOST_VIEWERS = 100
MOST_STREAMS = 200  # streams shown to a viewer
_PAUSE = 0.1  # the least seconds between two samples


class Viewer:
    """One open stream of updates: its view, and the update that was not sent yet."""

    def __init__(self, view: View, interval: float) -> None:
        self.view = view
        self.interval = interval
        self.due = 0.0
        self.until = time.monotonic() + LIFETIME
        self._update: bytes | None = None
        self._closed = False
        self._change = asyncio.Event()

    def put(self, update: bytes, now: float) -> None:
        """Sets the next update; the one after it is due at the next multiple of the interval."""
        self._update = update
        self.due = (math.floor(now / self.interval) + 1) * self.interval
        if now >= self.until:
            self._closed = True
        self._change.set()

    def close(self) -> None:
        """Ends the stream of updates."""
        self._closed = True
        self._change.set()

    async def next(self) -> bytes | None:
        """Waits for the next update and returns it; None at the end."""
        while self._update is None:
            if self._closed:
                return None
            self._change.clear()
            await self._change.wait()
        update, self._update = self._update, None
        return update


class Feed:
    """Distributes the updates built by ``overviews``."""

    def __init__(self, overviews: Overviews) -> None:
        self._overviews = overviews
        self._viewers: set[Viewer] = set()
        self._task: asyncio.Task[None] | None = None
        self._joined = asyncio.Event()
        self._closed = False

    @property
    def full(self) -> bool:
        """Whether no further viewer can join, now or ever."""
        return self._closed or len(self._viewers) >= MOST_VIEWERS

    def join(self, view: View, interval: float) -> Viewer:
        """Returns a new viewer, which is due at once."""
        viewer = Viewer(view, interval)
        self._viewers.add(viewer)
        self._joined.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run(), name="live view")
        return viewer

    def leave(self, viewer: Viewer) -> None:
        """Removes a viewer; after the last one nothing runs."""
        self._viewers.discard(viewer)
        if not self._viewers and self._task is not None:
            self._task.cancel()
            self._task = None

    async def aclose(self) -> None:
        """Ends all streams of updates; none can start after that."""
        self._closed = True
        task, self._task = self._task, None
        self._end_all()
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    def _end_all(self) -> None:
        for viewer in self._viewers:
            viewer.close()

    async def _run(self) -> None:
        try:
            while True:
                self._joined.clear()
                await self._serve_due()
                await asyncio.sleep(_PAUSE)
                await self._wait()
        except Exception:
            logger.exception("the live view failed")
            self._task = None  # the next viewer starts another
            self._end_all()

    async def _serve_due(self) -> None:
        now = time.monotonic()
        due = [viewer for viewer in self._viewers if viewer.due <= now]
        if not due:
            return
        shown = await self._overviews.look()
        for view in {viewer.view for viewer in due}:
            update = f"data: {encode(self._overviews.update(shown, view))}\n\n".encode()
            for viewer in due:
                if viewer.view == view:
                    viewer.put(update, now)
            await asyncio.sleep(0)

    async def _wait(self) -> None:
        """Waits until a viewer is due, or another one joins."""
        delay = min((viewer.due for viewer in self._viewers), default=math.inf) - time.monotonic()
        try:
            async with asyncio.timeout(max(0.0, min(delay, LONGEST))):
                await self._joined.wait()
        except TimeoutError:
            pass


def parse_view(query: Mapping[str, str]) -> tuple[View, float]:
    """Parses a view and its interval in seconds from a query. Raises ValueError that names the allowed values.

    ``sort`` is age, bytes, events or rate; ``order`` is desc (the oldest or most) or asc; ``route`` selects the streams
    of one route; ``limit`` is the maximum number of streams.
    """
    sorts: dict[str, Sort] = {name: name for name in SORTS}
    sort, order = query.get("sort", "age"), query.get("order", "desc")
    if sort not in sorts:
        raise ValueError(f"sort must be one of {', '.join(SORTS)}")
    if order not in ("asc", "desc"):
        raise ValueError("order must be asc or desc")
    limit = _number(query, "limit", View().limit, (0, MOST_STREAMS))
    interval = _number(query, "interval", INTERVAL, (SHORTEST, LONGEST))
    return View(sorts[sort], order == "asc", query.get("route") or None, int(limit)), interval


def _number(query: Mapping[str, str], name: str, default: float, bounds: tuple[float, float]) -> float:
    try:
        number = float(query.get(name, default))
    except ValueError:
        number = math.nan
    if not bounds[0] <= number <= bounds[1]:
        raise ValueError(f"{name} must be a number from {bounds[0]:g} to {bounds[1]:g}")
    return number


class LiveResponse(Response):
    """Sends updates as server-sent events until the client leaves or the feed ends."""

    media_type = "text/event-stream"

    def __init__(self, feed: Feed, view: View, interval: float) -> None:
        super().__init__(headers={"cache-control": "no-store, no-transform", "x-accel-buffering": "no"})
        del self.headers["content-length"]
        self._feed = feed
        self._view = view
        self._interval = interval

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        if scope["method"] == "HEAD":
            await send({"type": "http.response.body", "body": b""})
            return
        viewer = self._feed.join(self._view, self._interval)
        watch = asyncio.get_running_loop().create_task(_until_left(receive, viewer), name="viewer")
        try:
            update: bytes | None = b"retry: 500\n\n"
            while update is not None:
                await send({"type": "http.response.body", "body": update, "more_body": True})
                update = await viewer.next()
            await send({"type": "http.response.body", "body": b""})
        except OSError:
            pass  # the client has left
        finally:
            self._feed.leave(viewer)
            watch.cancel()
            await asyncio.gather(watch, return_exceptions=True)


async def _until_left(receive: Receive, viewer: Viewer) -> None:
    """Waits until the client has left. Servers silently drop what is sent to it, so this must be detected."""
    while (await receive())["type"] != "http.disconnect":
        pass
    viewer.close()
