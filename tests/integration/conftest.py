"""Fixtures of the real parts; a missing part fails the test in CI and skips it elsewhere."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.doubles.leaks import LeakCheck
from tests.doubles.parts import require
from tests.integration.browser import Browser, RunningBrowser, running_browser, window
from tests.integration.nginx import Nginx, nginx
from tests.integration.proxy import Config, RunningProxy, running
from tests.integration.redis import RedisServer, redis_server
from tests.integration.stores import Sidecars

RunProxy = Callable[[Config], Awaitable[RunningProxy]]
RunNginx = Callable[[str], Awaitable[Nginx]]


@pytest.fixture
def part() -> Callable[[str], str]:
    """`part("promtool")` is the path of a real program."""
    return require


@pytest.fixture
async def run_proxy(leaks: LeakCheck, tmp_path: Path) -> AsyncIterator[RunProxy]:
    """`proxy = await run_proxy(configuration(upstream.url))`: the program; at the end it must exit with 0."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start(config: Config) -> RunningProxy:
            nonlocal count
            count += 1
            folder = tmp_path / f"proxy{count}"
            folder.mkdir()
            return await stack.enter_async_context(running(config, folder))

        yield start


@pytest.fixture
async def run_nginx(leaks: LeakCheck, tmp_path: Path) -> AsyncIterator[RunNginx]:
    """`front = await run_nginx("location / { proxy_pass http://…; }")`: nginx on a loopback port."""
    async with AsyncExitStack() as stack:
        count = 0

        async def start(locations: str) -> Nginx:
            nonlocal count
            count += 1
            folder = tmp_path / f"nginx{count}"
            folder.mkdir()
            return await stack.enter_async_context(nginx(folder, locations))

        yield start


@pytest.fixture(scope="session")
def running_chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningBrowser]:
    """A headless browser for all tests, with a fresh profile."""
    with running_browser(tmp_path_factory.mktemp("chromium")) as running:
        yield running


@pytest.fixture
async def chromium(running_chromium: RunningBrowser, leaks: LeakCheck) -> AsyncIterator[Browser]:
    """A window of the browser."""
    async with window(running_chromium) as page:
        yield page


@pytest.fixture
async def redis(leaks: LeakCheck, tmp_path: Path) -> AsyncIterator[RedisServer]:
    """A Redis of the test's own."""
    folder = tmp_path / "redis"
    folder.mkdir()
    async with redis_server(folder) as server:
        yield server


@pytest.fixture
async def sidecars(redis: RedisServer) -> AsyncIterator[Sidecars]:
    """Processes that keep their streams there."""
    all_of_them = Sidecars(redis.url)
    yield all_of_them
    await all_of_them.stop()
