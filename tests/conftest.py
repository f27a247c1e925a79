"""Fixtures for every test: scripted upstreams, raw clients, and the check that nothing is left behind."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol

import pytest
from hypothesis import HealthCheck, settings

import streamproxy
from streamproxy.version import BUILD
from tests.doubles.certificates import Certificate, make_certificate
from tests.doubles.client import RawClient, connect
from tests.doubles.clock import Clock
from tests.doubles.leaks import LeakCheck
from tests.doubles.parts import require
from tests.doubles.upstream import Script, Upstream


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--build", choices=("pure", "compiled"), default="pure", help="which build of the package is to be tested"
    )
    parser.addoption("--dist", type=Path, help="the folder of what `make dist` has made, for tests/release")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test another build than the one that was asked for."""
    if config.getoption("--build") != BUILD:
        raise pytest.UsageError(
            f"{streamproxy.__file__} is the {BUILD} build, not the {config.getoption('--build')} one"
        )


# No example fails for being slow: that says something of the machine. "check" is what `make check` runs.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("check", settings.get_profile("tests"), max_examples=25)
settings.load_profile("tests")


class Serve(Protocol):
    """Starts an upstream that the fixture stops."""

    async def __call__(
        self, script: Script | Sequence[Script], *, path: Path | None = None, tls: ssl.SSLContext | None = None
    ) -> Upstream: ...


class Connect(Protocol):
    """Connects a raw client that the fixture closes."""

    async def __call__(
        self, url: str, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None
    ) -> RawClient: ...


# Those that the program sets up when an application is made: they belong to the process, and so to every test after.
LOGGERS = (
    *("streamproxy", "streamproxy.access", "asyncio", "opentelemetry"),
    *("uvicorn.error", "uvicorn.access", "hypercorn.error", "hypercorn.access"),
)


@pytest.fixture(autouse=True)
def loggers_as_before() -> Iterator[None]:
    """A test leaves the loggers as they were, so that none depends on which ran before it."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    kept = [(logger, logger.handlers[:], logger.filters[:], logger.level, logger.propagate) for logger in loggers]
    yield
    for logger, handlers, filters, level, propagate in kept:
        logger.handlers, logger.filters, logger.propagate = handlers, filters, propagate
        logger.setLevel(level)


@pytest.fixture
async def leaks() -> AsyncIterator[LeakCheck]:
    """Verified when the fixtures that were set up after it are gone; `leaks.gauge(name, value)` adds a gauge."""
    check = LeakCheck()
    yield check
    await check.verify()


@pytest.fixture
async def serve(leaks: LeakCheck) -> AsyncIterator[Serve]:
    """`upstream = await serve(script)`: a scripted upstream; an error of its script fails the test."""
    async with AsyncExitStack() as stack:

        async def start(
            script: Script | Sequence[Script], *, path: Path | None = None, tls: ssl.SSLContext | None = None
        ) -> Upstream:
            return await stack.enter_async_context(Upstream(script, path=path, tls=tls))

        yield start


@pytest.fixture
async def dial(leaks: LeakCheck) -> AsyncIterator[Connect]:
    """`client = await dial(url)`: a raw client."""
    async with AsyncExitStack() as stack:

        async def start(url: str, *, receive_buffer: int | None = None, tls: ssl.SSLContext | None = None) -> RawClient:
            return await stack.enter_async_context(await connect(url, receive_buffer=receive_buffer, tls=tls))

        yield start


@pytest.fixture
def clock() -> Clock:
    """A clock that stands still until the test turns it."""
    return Clock()


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate for loopback that only the tests trust."""
    require("openssl")
    return make_certificate(tmp_path_factory.mktemp("certificate"))
