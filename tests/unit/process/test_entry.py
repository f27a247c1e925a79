"""What a server calls instead of the application."""

from __future__ import annotations

from typing import Any

from starlette.routing import Mount
from starlette.types import ASGIApp, Receive, Scope, Send

from streamproxy.app import create_app
from streamproxy.config import parse_config

CONFIG = (
    "upstreams: {a: {endpoints: http://127.0.0.1:1}}\n"
    "routes: [{path: /a, upstream: a, retry: {attempts: 1}}]\nlog: {access: off}\n"
)


class Marking:
    """Middleware that says so in the scope."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope["marked"] = True
        await self.app(scope, receive, send)


async def called(entry: ASGIApp, path: str, *headers: tuple[bytes, bytes]) -> Scope:
    async def receive() -> Any:
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None: ...

    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "scheme": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [*headers],
    }
    await entry(scope, receive, send)
    return scope


async def test_what_is_mounted_learns_the_application_with_and_without_middleware() -> None:
    for with_middleware in (False, True):
        seen: list[Scope] = []

        async def probe(scope: Scope, receive: Receive, send: Send, seen: list[Scope] = seen) -> None:
            seen.append(scope)

        app = create_app(parse_config(CONFIG, name="f.yaml"))
        if with_middleware:
            app.add_middleware(Marking)
        app.router.routes.append(Mount("/mounted", app=probe))
        await called(app.entry(), "/mounted/x")
        assert [scope["app"] for scope in seen] == [app]
        assert [scope.get("marked", False) for scope in seen] == [with_middleware]


async def test_a_route_is_served_through_middleware_that_finds_the_application() -> None:
    app = create_app(parse_config(CONFIG, name="f.yaml"))
    app.add_middleware(Marking)
    scope = await called(app.entry(), "/a")
    assert scope["app"] is app
    assert scope["marked"]


async def test_names_of_fields_are_in_lower_case_whatever_an_asgi_server_sends() -> None:
    seen: list[Scope] = []

    async def probe(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope)

    app = create_app(parse_config(CONFIG, name="f.yaml"))
    app.router.routes.append(Mount("/mounted", app=probe))
    await called(app, "/mounted/x", (b"Content-Length", b"Five"), (b"x-A", b"B"), (b"host", b"C"))
    assert seen[0]["headers"] == [(b"content-length", b"Five"), (b"x-a", b"B"), (b"host", b"C")]
