"""gRPC through the proxy, with grpcio on both sides: all four kinds of calls, and our own errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc

from tests.doubles.certificates import Certificate
from tests.doubles.leaks import LeakCheck
from tests.doubles.ports import reserved_port
from tests.doubles.stack import RunningStack, running_stack
from tests.doubles.until import until
from tests.doubles.upstream import Upstream
from tests.integration.proxy import configuration, running
from tests.unit.client.http2.conftest import OK, Frames, speaking

_ECHO = "test.Echo"


def _handlers() -> grpc.GenericRpcHandler:
    """An echo service whose messages are bytes, and its four kinds of calls."""

    hanging: list[threading.Event] = []

    def unary(request: bytes, context: Any) -> bytes:
        if request == b"how many hang":
            return b"%d" % len(hanging)
        if request == b"fail":
            context.abort(grpc.StatusCode.FAILED_PRECONDITION, "no: 100 % \u00e9")
        context.set_trailing_metadata((("x-behind", "1"),))
        return request

    def server_stream(request: bytes, context: Any) -> Iterator[bytes]:
        for number in range(5):
            yield request + b"%d" % number
        if request == b"hang":
            left = threading.Event()
            context.add_callback(left.set)
            hanging.append(left)
            left.wait(60)
            hanging.remove(left)

    def client_stream(requests: Iterator[bytes], context: Any) -> bytes:
        return b"".join(requests)

    def both(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        yield from requests

    return grpc.method_handlers_generic_handler(
        _ECHO,
        {
            "Unary": grpc.unary_unary_rpc_method_handler(unary),
            "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
            "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
            "Both": grpc.stream_stream_rpc_method_handler(both),
        },
    )


@pytest.fixture
def server() -> Iterator[str]:
    """A server of grpcio in threads of its own; yields its host and port."""
    server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", 1 << 24)])
    server.add_generic_rpc_handlers((_handlers(),))
    servicer = health.HealthServicer()
    servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection([_ECHO, reflection.SERVICE_NAME], server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0.5).wait()


@pytest.fixture
async def proxied(server: str) -> AsyncIterator[grpc.aio.Channel]:
    """A channel of grpcio through the proxy to the server."""
    async with _proxy(f"http://{server}") as stack, _channel(stack) as channel:
        yield channel


def _proxy(url: str, **keys: Any) -> Any:
    # No check for leaks: tasks of grpcio outlive its channels.
    routes = [{"path": "/*", "upstream": "grpc", **keys}]
    upstreams = {"grpc": {"endpoints": [url], "http2": "on", "client": "auto"}}
    return running_stack(routes, client_kind="auto", server_kind="http2", leaks=LeakCheck(), upstreams=upstreams)


def _channel(stack: RunningStack) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(stack.url.partition("://")[2], options=[("grpc.enable_http_proxy", 0)])


async def test_unary_calls_and_their_trailers_pass(proxied: grpc.aio.Channel) -> None:
    call = proxied.unary_unary(f"/{_ECHO}/Unary")(b"hello")
    assert await call == b"hello"
    assert ("x-behind", "1") in tuple(await call.trailing_metadata())


async def test_a_message_larger_than_any_window_passes(proxied: grpc.aio.Channel) -> None:
    message = bytes(range(256)) * 8192
    assert await proxied.unary_unary(f"/{_ECHO}/Unary")(message) == message


async def test_a_server_streams(proxied: grpc.aio.Channel) -> None:
    answers = [answer async for answer in proxied.unary_stream(f"/{_ECHO}/ServerStream")(b"n")]
    assert answers == [b"n0", b"n1", b"n2", b"n3", b"n4"]


async def test_a_client_streams(proxied: grpc.aio.Channel) -> None:
    async def requests() -> AsyncIterator[bytes]:
        for part in (b"a", b"b", b"c"):
            yield part

    assert await proxied.stream_unary(f"/{_ECHO}/ClientStream")(requests()) == b"abc"


async def test_both_stream_and_each_message_passes_before_the_next_is_sent(proxied: grpc.aio.Channel) -> None:
    call = proxied.stream_stream(f"/{_ECHO}/Both")()
    for number in range(20):
        await call.write(b"%d" % number)
        assert await call.read() == b"%d" % number
    await call.done_writing()
    assert await call.read() is grpc.aio.EOF
    assert await call.code() is grpc.StatusCode.OK


async def test_a_server_s_own_error_passes(proxied: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await proxied.unary_unary(f"/{_ECHO}/Unary")(b"fail")
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert caught.value.details() == "no: 100 % \u00e9"


async def test_a_response_of_trailers_only_passes(proxied: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await proxied.unary_unary("/test.Nothing/Unary")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_health_checks_and_watches_pass(proxied: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(proxied)
    assert (await stub.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING
    watch = stub.Watch(health_pb2.HealthCheckRequest())
    assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
    watch.cancel()


async def test_reflection_passes(proxied: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(proxied)

    async def requests() -> AsyncIterator[Any]:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    answers = [answer async for answer in stub.ServerReflectionInfo(requests())]
    assert _ECHO in [service.name for service in answers[0].list_services_response.service]


async def test_many_calls_at_once_share_the_upstream_s_connection(proxied: grpc.aio.Channel) -> None:
    call = proxied.unary_unary(f"/{_ECHO}/Unary")
    assert await asyncio.gather(*(call(b"%d" % n) for n in range(100))) == [b"%d" % n for n in range(100)]


async def test_an_upstream_that_refuses_is_unavailable() -> None:
    with reserved_port() as nobody:
        async with _proxy(f"http://127.0.0.1:{nobody}") as stack, _channel(stack) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await channel.unary_unary(f"/{_ECHO}/Unary")(b"")
    assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    assert caught.value.details() == "The upstream refused the connection"


async def test_a_path_without_a_route_is_unimplemented(server: str) -> None:
    async with _proxy(f"http://{server}", path="/other/*") as stack, _channel(stack) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await channel.unary_unary(f"/{_ECHO}/Unary")(b"")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_cancelled_call_reaches_the_server(proxied: grpc.aio.Channel) -> None:
    ask = proxied.unary_unary(f"/{_ECHO}/Unary")
    call = proxied.unary_stream(f"/{_ECHO}/ServerStream")(b"hang")
    for number in range(5):
        assert await call.read() == b"hang%d" % number
    await until(lambda: ask(b"how many hang"), "the call to hang", holds=lambda count: count == b"1")
    call.cancel()
    await until(lambda: ask(b"how many hang"), "the server to hear of it", holds=lambda count: count == b"0")


@pytest.mark.parametrize(
    ("keys", "code"),
    [
        ({"timeouts": {"first_byte": "50ms"}}, grpc.StatusCode.DEADLINE_EXCEEDED),
        ({"auth": {"bearer": {"tokens": ["s3cret"]}}}, grpc.StatusCode.UNAUTHENTICATED),
        ({"limits": {"requests": {"rate": "1/1h", "burst": 1}}}, grpc.StatusCode.RESOURCE_EXHAUSTED),
        ({"timeouts": {"idle": "50ms"}}, grpc.StatusCode.INTERNAL),
    ],
    ids=["no answer in time", "no credential", "too many requests", "a stream that stops"],
)
async def test_an_error_of_ours_has_a_code_that_clients_know(keys: dict[str, Any], code: grpc.StatusCode) -> None:
    """An upstream that begins a response only where a stream is to stop, and never ends one."""

    async def script(up: Frames) -> None:
        while True:
            stream, _ = await up.request()
            if "idle" in keys.get("timeouts", {}):
                await up.send(up.head(stream, [*OK, (b"content-type", b"application/grpc")]))
            elif "limits" in keys:
                fields = [*OK, (b"content-type", b"application/grpc"), (b"grpc-status", b"0")]
                await up.send(up.head(stream, fields, end=True))

    async with (
        Upstream(speaking(script)) as upstream,
        _proxy(upstream.url, **keys) as stack,
        _channel(stack) as channel,
    ):
        call = channel.unary_stream(f"/{_ECHO}/ServerStream")
        if "limits" in keys:
            assert [answer async for answer in call(b"")] == []
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            [answer async for answer in call(b"")]
    assert caught.value.code() is code


def _secure_channel(url: str, certificate: bytes) -> grpc.aio.Channel:
    trust = grpc.ssl_channel_credentials(certificate)
    return grpc.aio.secure_channel(url.partition("://")[2], trust, options=[("grpc.enable_http_proxy", 0)])


async def test_tls_on_both_sides(certificate: Certificate, tmp_path: Path) -> None:
    """grpcio insists on ALPN, as a client and as a server."""
    key, cert = certificate.key.read_bytes(), certificate.cert.read_bytes()
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((_handlers(),))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, cert)]))
    server.start()
    upstream = {"endpoints": [f"https://127.0.0.1:{port}"], "http2": "on", "tls": {"ca": str(certificate.cert)}}
    tls = {"cert": str(certificate.cert), "key": str(certificate.key)}
    routes = [{"path": "/*", "upstream": "grpc"}]
    config = configuration(routes, upstreams={"grpc": upstream}, server={"tls": tls})
    try:
        async with running(config, tmp_path) as proxy, _secure_channel(proxy.url, cert) as channel:
            assert await channel.unary_unary(f"/{_ECHO}/Unary")(b"hello") == b"hello"
            answers = [answer async for answer in channel.unary_stream(f"/{_ECHO}/ServerStream")(b"n")]
            assert answers == [b"n0", b"n1", b"n2", b"n3", b"n4"]
    finally:
        server.stop(0.5).wait()
