"""The proxy without what it does for bad days: it must still be a proxy, or what is counted with it means nothing."""

from __future__ import annotations

from pathlib import Path

from benchmarks.bare import Bare, bare
from benchmarks.peers import BARE, Place
from streamproxy.upstream import Upstream
from tests.conftest import Serve
from tests.doubles.client import fetch
from tests.doubles.upstream import answering, response
from tests.integration.process import Process
from tests.unit.upstream.fakes import client_of, endpoint, new_exchange, request_to, settings


async def test_it_serves(serve: Serve, tmp_path: Path) -> None:
    upstream = await serve(answering(response(b"ok")))
    assert BARE.launch is not None
    with Process(BARE.launch(Place(0, upstream.port, tmp_path, 15)).command) as process:
        url = (await process.line(r"^listening on (http://\S+)"))[1]
        assert (await fetch(url)).body == b"ok"
        assert await process.stop() == 0, process.output


async def test_its_upstream_asks_the_client_and_keeps_no_count() -> None:
    one, exchange = endpoint("a"), new_exchange()
    upstream: Bare = bare(Upstream)("u", [one], settings())
    assert upstream.pick(exchange, []) is one
    async with upstream.open(one, request_to(one, exchange), exchange) as answer:
        assert (answer.status_code, one.streams, exchange.endpoint) == (200, 0, "http://a")
    assert (len(client_of(one).requests), upstream.name) == (1, "u")
