"""What a user's code sees, with each SDK, of everything that may become of a stream of an LLM.

All users of a test ask at once, each for its API, and the engine does the same to all of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from itertools import count
from typing import Any, NamedTuple

import pytest

from tests.conftest import Serve
from tests.doubles.client import fetch
from tests.doubles.leaks import LeakCheck
from tests.doubles.stack import RunningStack, running_stack
from tests.doubles.until import until
from tests.doubles.upstream import Upstream
from tests.integration.browser import Browser
from tests.integration.sdks.engines import CALL, engine
from tests.integration.sdks.expected import CHROMIUM, CURL, NODE, PYTHON, Sdk
from tests.integration.sdks.users import BrowserUser, CurlUser, NodeUsers, PythonUser, Seen, User

CUT = "The upstream did not finish its response"
NO_MARKER = "The upstream ended its stream without the end marker of its API"
DIED = "The upstream closed before it answered"
LIMITED = "This client has made too many requests"


class Case(NamedTuple):
    """``route`` and what the engine does there; what the users are to see, and how the exchanges end.

    ``barrier`` is what the test waits for before it goes on, if for anything: the word, the keepalives, or the phase
    "head". Then the engine goes on, or with ``stop`` the users leave.
    """

    route: str
    scene: str
    sees: Callable[[Sdk], Seen]
    ends: tuple[str, str] = ("complete", "body")
    barrier: str = ""
    stop: bool = False


TRUNCATED = ("upstream_truncated", "body")
LEFT = ("client_disconnect", "body")
CASES = {
    "whole": Case("told", "whole", lambda sdk: sdk.whole("word")),
    "tool call": Case("told", "tools", lambda sdk: sdk.whole(CALL)),
    "slow first token, head at once": Case("told", "mute", lambda sdk: sdk.whole("word"), barrier="keepalives"),
    "slow first token, no head": Case("early", "slow", lambda sdk: sdk.whole("word"), barrier="keepalives"),
    "failure inside": Case("told", "failure", lambda sdk: sdk.failure(), ("upstream_error", "body")),
    "dies before the head": Case("told", "before", lambda sdk: sdk.refused(502, DIED), ("error", "head")),
    "dies behind an early head": Case("early", "late", lambda sdk: sdk.late(DIED), ("error", "head"), "keepalives"),
    "dies before the first event": Case("told", "silent", lambda sdk: sdk.told("", 502, CUT), TRUNCATED, "keepalives"),
    "dies in the middle": Case("told", "after", lambda sdk: sdk.told("word", 502, CUT), TRUNCATED, "word"),
    "dies in the middle, cut": Case("cut", "after", lambda sdk: sdk.broken(), TRUNCATED, "word"),
    "no end marker": Case("told", "marker", lambda sdk: sdk.told("word", 502, NO_MARKER), TRUNCATED, "word"),
    "no end marker, cut": Case("cut", "marker", lambda sdk: sdk.broken(), TRUNCATED, "word"),
    "denied": Case("locked", "whole", lambda sdk: sdk.refused(401, "redential"), ("rejected", "queue")),
    "over the quota": Case("quota", "whole", lambda sdk: sdk.refused(429, LIMITED), ("rejected", "queue")),
    "stop before the head": Case(
        "told", "slow", lambda sdk: sdk.stopped("", True), ("client_disconnect", "head"), "head", True
    ),
    "stop before the first event": Case("told", "mute", lambda sdk: sdk.stopped("", False), LEFT, "keepalives", True),
    "stop in the middle": Case("told", "long", lambda sdk: sdk.stopped("word", False), LEFT, "word", True),
}


class Stage:
    """The proxy before the engines, and the users that are on it."""

    def __init__(self, proxy: RunningStack, upstream: Upstream) -> None:
        self.proxy = proxy
        self.upstream = upstream
        self.users: dict[str, User] = {}

    async def seen(self) -> dict[str, Seen]:
        return {name: await user.seen() for name, user in self.users.items()}

    async def play(self, case: Case) -> dict[str, Seen]:
        """Let the users see what becomes of their streams."""
        if case.barrier == "word":
            await until(self.seen, "the words", holds=lambda seen: all(one.text for one in seen.values()))
        elif case.barrier:
            ready = self._in_head if case.barrier == "head" else self._kept_alive
            await until(lambda: list(self.proxy.app.ledger.live.values()), case.barrier, holds=ready)
        if case.stop:
            for user in self.users.values():
                await user.stop()
        else:
            self.upstream.go.set()
            for conn in self.upstream.connections:
                conn.go.set()
        seen = await until(self.seen, "the ends", holds=lambda seen: all(one.end is not None for one in seen.values()))
        await until(lambda: len(self.proxy.ended) >= len(self.users), "the exchanges to end")
        if case.stop:
            await until(lambda: not self._streaming(), "the engine to hear that they left")
        return seen

    def _in_head(self, live: list[Any]) -> bool:
        return [exchange.phase for exchange in live] == ["head"] * len(self.users)

    def _kept_alive(self, live: list[Any]) -> bool:
        """Whether each has three keepalives, but for those that can have none: lines without a head."""
        counts = [e.keepalives for e in live if e.phase == "body" or not e.path.endswith("/api/chat")]
        return len(live) == len(self.users) and min(counts) >= 3

    def _streaming(self) -> list[Any]:
        pages = (b".html", b".js")
        return [conn for conn in self.upstream.open_connections if not conn.heads[-1].target.endswith(pages)]


def route(name: str, **keys: Any) -> dict[str, Any]:
    return {
        "name": name,
        "path": f"/{name}/*",
        "rewrite": {"strip_prefix": f"/{name}"},
        "upstream": "engine",
        "protocol": "auto",
        "on_truncation": "error_event",
        "keepalive": {"interval": "20ms", "ndjson": "on"},
        **keys,
    }


@pytest.fixture
async def stage(serve: Serve, leaks: LeakCheck) -> AsyncIterator[Stage]:
    upstream = await serve(engine)
    routes = [
        route("told"),
        route("cut", on_truncation="abort"),
        route("early", keepalive={"interval": "20ms", "before_headers": "20ms", "ndjson": "on"}),
        route("locked", auth={"bearer": {"tokens": ["another"]}}),
        route("quota", limits={"requests": {"rate": "1/1h", "burst": 1}}),
    ]
    # No connection is kept for so long that the engine gives up to wait for a request.
    pool = {"endpoints": [upstream.url], "connections": {"idle_timeout": "5s"}}
    kinds = {"client_kind": "native", "server_kind": "uvicorn"}
    async with running_stack(routes, **kinds, leaks=leaks, upstreams={"engine": pool}) as proxy:
        await fetch(f"{proxy.url}/quota/page.html")  # which is all of the quota
        await proxy.end_of()
        proxy.ended.clear()
        yield Stage(proxy, upstream)


@pytest.fixture(scope="module")
def node() -> Iterator[NodeUsers]:
    with NodeUsers() as program:
        yield program


def checked(seen: Mapping[str, Seen], sdks: Mapping[str, Sdk], case: Case) -> None:
    """What was seen is what is to be seen; messages are so if they have in them what they are to say."""
    expected = {name: case.sees(sdks[name]) for name in seen}
    for name, (text, end) in expected.items():
        actual = seen[name]
        assert end is not None
        assert actual.end is not None
        assert (actual.text, actual.end[:2]) == (text, end[:2]), (name, actual)
        assert end.message in actual.end.message, (name, actual)


CaseName = pytest.mark.parametrize("name", CASES)


@CaseName
async def test_code_in_python_and_curl_see(stage: Stage, name: str) -> None:
    case = CASES[name]
    url, model = f"{stage.proxy.url}/{case.route}", f"m-{case.scene}"
    stage.users = {"curl": CurlUser(url, model), **{sdk: PythonUser(sdk, url, model) for sdk in PYTHON}}
    checked(await stage.play(case), {"curl": CURL, **PYTHON}, case)
    assert {(exchange.end, exchange.phase) for exchange in stage.proxy.ended} == {case.ends}


@CaseName
async def test_code_in_node_sees(stage: Stage, node: NodeUsers, name: str) -> None:
    case = CASES[name]
    url, model = f"{stage.proxy.url}/{case.route}", f"m-{case.scene}"
    stage.users = {sdk: node.start(sdk, url, model) for sdk in NODE}
    checked(await stage.play(case), NODE, case)
    assert {(exchange.end, exchange.phase) for exchange in stage.proxy.ended} == {case.ends}


async def test_pages_in_chromium_see(stage: Stage, chromium: Browser) -> None:
    await chromium.open(f"{stage.proxy.url}/told/page.html")
    numbers = count()
    for case in CASES.values():
        stage.upstream.go.clear()
        for conn in stage.upstream.connections:
            conn.go.clear()  # a connection of the last case may be used again, and is not to go on at once
        stage.proxy.ended.clear()
        stage.users = {}
        for kind in CHROMIUM:
            stage.users[kind] = user = BrowserUser(chromium, next(numbers))
            await user.start(kind, f"/{case.route}", f"m-{case.scene}")
        seen = await stage.play(case)
        checked(seen, CHROMIUM, case)
