"""The cases. Each sends requests through a proxy, and returns the words of its cell."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from benchmarks import proc
from benchmarks.cases.client import Response, exchange, request
from benchmarks.cases.setups import Setup, Site
from benchmarks.cases.upstream import LONG, PAUSE, STEADY, Upstream
from benchmarks.peers.base import Ask

_WAIT: Final = 5.0  # seconds
_SOON: Final = 0.2


class Running(NamedTuple):
    """A proxy that runs."""

    setup: Setup
    site: Site
    upstream: Upstream
    pid: int
    took: float  # seconds to start

    async def get(self, scenario: str, seconds: float, until: bytes = b"") -> Response:
        """Ask for a scenario's chat completion."""
        return await exchange(self.site.listen, request(self.setup.ask(scenario)), seconds, until)


def _seconds(value: float) -> str:
    return f"{value * 1000:.0f} ms" if value < 1 else f"{value:.0f} s"


async def start(running: Running) -> str:
    return _seconds(running.took)


async def memory(running: Running) -> str:
    return f"{proc.pss(proc.tree(running.pid)) / 1e6:.0f} MB"


async def first_event(running: Running) -> str:
    response = await running.get("paced", _WAIT)
    when = response.at(1)
    if when is None:
        return f"status {response.status}"
    return "at once" if when < PAUSE else f"held back {_seconds(when)}"


async def steady(running: Running) -> str:
    began = time.monotonic()
    response = await running.get("steady", STEADY + 10)
    if response.whole and len(response.numbers) >= STEADY:
        return "whole"
    return f"cut after {_seconds(time.monotonic() - began)}"


async def silence(running: Running) -> str:
    began = time.monotonic()
    response = await running.get("silent", LONG + 10)
    return "passes" if 1 in response.numbers else f"cut after {_seconds(time.monotonic() - began)}"


async def keepalive(running: Running) -> str:
    response = await running.get("silent", _WAIT)
    return "comments" if re.search(rb"(^|\n):[^\n]*\n", response.body) else "nothing"


async def leave(running: Running) -> str:
    await running.get("left", _WAIT, b"n0 ")
    gone = time.monotonic()
    try:
        async with asyncio.timeout(_WAIT):
            took = await asyncio.shield(running.upstream.left) - gone
            return "at once" if took < _SOON else f"after {_seconds(took)}"
    except TimeoutError:
        return f"not in {_seconds(_WAIT)}"


async def truncation(running: Running) -> str:
    response = await running.get("cut", _WAIT)
    if not response.whole:
        return "looks cut"
    return "error event, then an end" if b'"error"' in response.body else "looks finished"


async def retry_refused(running: Running) -> str:
    found = [await running.get("twice", _WAIT, b"n1 ") for _ in range(4)]
    good = sum(response.status == 200 for response in found)
    return "all served" if good == len(found) else f"{good} of {len(found)} served"


async def retry_reset(running: Running) -> str:
    response = await running.get("reset", _WAIT, b"n1 ")
    return "served" if response.status == 200 else f"status {response.status}"


async def error_form(running: Running) -> str:
    response = await running.get("dead", 2 * _WAIT)
    if not response.status:
        return f"none in {_seconds(2 * _WAIT)}"
    kind = re.search(rb"content-type: ([^;\r\n]*)", response.head)
    openai = b'"error"' in response.body and b'"message"' in response.body
    form = "OpenAI's" if openai else kind[1].decode() if kind else "no type"
    return f"{response.status}, {form}"


async def resume(running: Running) -> str:
    """Leave after six events, and come back with what the stream says of its place, or its last id."""
    path = "/long/v1/chat/completions"
    if running.setup.gateway:
        return "no GET of a stream"
    first = await exchange(running.site.listen, request(Ask(path)), _WAIT, b"n5 ")
    ids = re.findall(rb"(?m)^id: ?(.+)$", first.body)
    field = (f"Last-Event-ID: {ids[-1].decode()}",) if ids else ()
    again = await exchange(running.site.listen, request(Ask(path), field), 10.0)
    last = max(first.numbers, default=0)
    goes_on = again.numbers[:1] == [last + 1] and again.numbers[-1:] == [39]
    return "goes on" if goes_on else "begins anew"


async def first_event_metric(running: Running) -> str:
    """Look for a series that grew by about the time of the first event, while the head came at once."""
    if not running.setup.metrics:
        return "no metrics"
    before = await _series(running)
    await running.get("late", _WAIT)
    await asyncio.sleep(0.5)
    after = await _series(running)
    low, high = PAUSE * 0.9, PAUSE * 1.6
    for name, value in after.items():
        grown = value - before.get(name, 0.0)
        timed = re.search(r"(ttfb|first|duration|time|latency)", name)
        counted = re.search(r"_bucket|_max|max_", name)  # the greatest time so far grows for other reasons
        if timed and not counted and any(low <= grown / unit <= high for unit in (1.0, 1000.0)):
            return name.partition("{")[0].removesuffix("_sum")
    return "none"


async def _series(running: Running) -> dict[str, float]:
    port = running.site.listen if running.setup.gateway else running.site.admin
    data = f"GET {running.setup.metrics} HTTP/1.0\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()
    response = await exchange(port, data, _WAIT)
    found = re.findall(r"(?m)^([a-z_]\S*(?: [^0-9]\S*)*) ([-+.\deE]+)$", response.body.decode("utf-8", "replace"))
    first_event = {name: float(value) for name, value in found if re.search(r"ttf|first", name)}
    return first_event | {name: float(value) for name, value in found}


async def stop(running: Running) -> str:
    return await _ending(running, signal.SIGTERM, "")


async def drain(running: Running) -> str:
    return await _ending(running, running.setup.drain, running.setup.drain_path)


async def _ending(running: Running, number: int, path: str) -> str:
    """End the proxy while a stream of four seconds runs, and ask it for another one."""
    stream = asyncio.create_task(running.get("long", 15.0))
    await asyncio.sleep(1.0)
    if path:
        data = f"POST {path} HTTP/1.0\r\nHost: x\r\nContent-Length: 0\r\n\r\n".encode()
        await exchange(running.site.admin, data, _WAIT)
    else:
        os.kill(running.pid, number)
    response = await stream
    return "stream ends whole" if response.whole and 39 in response.numbers else "stream is cut"


class Case(NamedTuple):
    """A row of the table. ``streaming`` is the configuration.

    ``alone`` is whether it gets a proxy of its own: the proxy ends with it, or other requests would change what is seen
    (with Caddy 2.6.2 and `buffer_requests`, retries of two requests at once fail or succeed otherwise than of one).
    """

    name: str
    what: str
    check: Callable[[Running], Awaitable[str]]
    streaming: bool = True
    alone: bool = False


CASES: Final = (
    Case("first-event-default", "first event, shortest configuration", first_event, streaming=False),
    Case("first-event", "the same, configured for streams", first_event),
    Case("steady-default", f"a stream of {STEADY:g} s, shortest configuration", steady, streaming=False),
    Case("silence-default", f"{LONG:g} s without an event, shortest configuration", silence, streaming=False),
    Case("keepalive", "sent to the client while the upstream is silent", keepalive),
    Case(
        "leave-default",
        "client leaves a silent stream, shortest configuration: upstream told",
        leave,
        streaming=False,
    ),
    Case("leave", "the same, configured for streams", leave),
    Case("truncation", "upstream dies in the middle: the response", truncation),
    Case("retry-refused", "one of two endpoints refuses: POST requests", retry_refused, alone=True),
    Case("retry-reset", "the only endpoint closes before its answer: POST request", retry_reset, alone=True),
    Case("error-form", "no upstream: the answer to a chat completion", error_form),
    Case("resume", "client comes back to a GET stream", resume),
    Case("first-event-metric", "metric with the time to the first event", first_event_metric, alone=True),
    Case("stop", "SIGTERM while a stream runs", stop, alone=True),
    Case("drain", "the documented way to drain", drain, alone=True),
    Case("start", "from its start to its first answer", start, alone=True),
    Case("memory", "memory after its first stream", memory, alone=True),
)
