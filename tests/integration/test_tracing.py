"""Spans of the running program, up to its end."""

from __future__ import annotations

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.conftest import Connect, Serve
from tests.doubles.upstream import Conn, answering, response
from tests.integration.conftest import RunProxy
from tests.integration.proxy import configuration


@pytest.mark.parametrize("engine", ["uvicorn", "hypercorn"])
async def test_the_last_spans_are_sent_before_the_process_ends(
    serve: Serve, dial: Connect, run_proxy: RunProxy, engine: str
) -> None:
    names: list[str] = []

    async def collect(conn: Conn) -> None:
        _, body = await conn.read_request()
        for of_resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            names.extend(span.name for of_scope in of_resource.scope_spans for span in of_scope.spans)
        await conn.send(response(b""))

    collector, upstream = await serve(collect), await serve(answering(response(b"ok")))
    tracing = {"endpoint": collector.url}
    proxy = await run_proxy(configuration(upstream.url, tracing=tracing, server={"engine": engine}))
    client = await dial(proxy.url)
    assert (await client.get()).status == 200
    assert await proxy.process.stop() == 0
    assert sorted(names) == ["GET", "GET /*"]
