"""Another configuration beside the one in force: what is kept, what is made anew, and what a failure leaves."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from streamproxy.app import Application, create_app
from streamproxy.config import Config, parse_config
from streamproxy.control import Reloaded
from streamproxy.errors import StreamproxyError
from streamproxy.process import reload
from streamproxy.process.reload import Reloader, Source
from tests.doubles.certificates import Certificate
from tests.doubles.until import until


def config(upstreams: str, route: str = "", more: str = "log: {access: off}") -> Config:
    text = f"upstreams: {{{upstreams}}}\nroutes: [{{path: /*, upstream: a{route}}}]\n{more}\n"
    return parse_config(text, name="f.yaml")


@asynccontextmanager
async def started(first: Config) -> AsyncIterator[Application]:
    app = create_app(first)
    await app.deployment.start()
    try:
        yield app
    finally:
        await app.aclose()


A, B = "a: {endpoints: http://127.0.0.1:1}", "b: {endpoints: http://127.0.0.1:2}"


async def test_an_unchanged_upstream_is_kept_whatever_its_routes_do() -> None:
    async with started(config(f"{A}, {B}")) as app:
        a, b = app.deployment.upstreams["a"], app.deployment.upstreams["b"]
        routes = list(app.router.routes)
        await app.adopt(config(f"{A}, b: {{endpoints: http://127.0.0.1:3}}", ", buffer: 1KiB"))
        assert app.deployment.upstreams["a"] is a
        assert app.deployment.upstreams["b"] is not b
        assert set(app.router.routes).isdisjoint(routes)
        assert [upstream for upstream in app.ready() if upstream] == []


async def test_an_upstream_whose_certificates_were_replaced_is_made_anew(
    certificate: Certificate, tmp_path: Path
) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificate.cert.read_bytes())
    one = config(f"a: {{endpoints: https://127.0.0.1:1, tls: {{ca: {ca}}}}}")
    async with started(one) as app:
        before = app.deployment.upstreams["a"]
        await app.adopt(one)
        assert app.deployment.upstreams["a"] is before
        ca.write_bytes(certificate.cert.read_bytes() * 2)
        await app.adopt(one)
        assert app.deployment.upstreams["a"] is not before


async def test_what_fails_on_the_way_leaves_all_as_it_was(certificate: Certificate, tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(certificate.cert.read_bytes())
    other = config(f"{A}, b: {{endpoints: https://127.0.0.1:1, tls: {{ca: {ca}}}}}", ", buffer: 1KiB")
    ca.unlink()  # after it was checked
    async with started(config(A)) as app:
        deployment, routes = app.deployment, app.router.routes
        with pytest.raises(StreamproxyError, match="cannot be read"):
            await app.adopt(other)
        assert (app.deployment, app.router.routes) == (deployment, routes)


async def test_the_log_follows_and_the_other_observers_stay() -> None:
    quiet, loud = config(A), config(A, more="log: {access: on}")
    async with started(quiet) as app:
        before = list(app.ledger.observers)
        await app.adopt(loud)
        assert len(app.ledger.observers) == len(before) + 1
        await app.adopt(loud)
        assert len(app.ledger.observers) == len(before) + 1
        await app.adopt(quiet)
        assert app.ledger.observers == before


async def test_a_fault_of_our_own_is_a_problem_too_and_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def load() -> Config:
        raise ZeroDivisionError("hush")

    async with started(config(A)) as app:
        reloader = Reloader(app, Source(tmp_path / "f.yaml", load), None)
        result = await reloader.reload()
        assert result == Reloaded(problems=("the reload failed; the log says why",))
        assert app.reload_problems == result.problems


async def test_a_read_that_hangs_is_given_up_and_does_not_block_the_next_reload(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reload, "READING", 0.05)
    hangs, free = True, threading.Event()

    def load() -> Config:
        if hangs:
            free.wait()
        return config(A)

    file = tmp_path / "f.yaml"
    async with started(config(A)) as app:
        reloader = Reloader(app, Source(file, load), None)
        try:
            first, second = await asyncio.gather(reloader.reload(), reloader.reload())
            problem = f"{file}: could not be read within 0.05 seconds"
            assert first == second == Reloaded(problems=(problem,))
            assert app.reload_problems == (problem,)
            monkeypatch.setattr(reload, "READING", 30.0)
            hangs = False
            assert await reloader.reload() == Reloaded()
            assert app.reload_problems == ()
        finally:
            free.set()


async def test_a_file_is_reloaded_once_for_one_change_whoever_sees_it_first(tmp_path: Path) -> None:
    file = tmp_path / "f.yaml"
    file.write_text("one")
    loads: list[str] = []

    def load() -> Config:
        loads.append(file.read_text())
        return config(A)

    source = Source(file, load)
    file.write_text("two")  # between the first read and the watch
    stop = asyncio.Event()
    async with started(config(A)) as app:
        reloader = Reloader(app, source, None)
        following = asyncio.get_running_loop().create_task(reloader.follow(stop))
        async with asyncio.timeout(10):
            await until(lambda: loads)
            file.write_text("three")
            await reloader.reload()
            await until(lambda: len(loads) >= 2)
            file.write_text("four")
            await until(lambda: loads[-1] == "four")
        stop.set()
        await following
    assert loads == ["two", "three", "four"]
