"""The demo's upstream as an ASGI application: which path goes to which handler."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.types import Receive, Scope, Send

from streamproxy.demo import anthropic_api, openai_api, streams
from streamproxy.demo.call import Call, ClientLeft, Refused

Handler = Callable[[Call], Awaitable[None]]


class DemoUpstream:
    """The embedded upstream. ``token_delay`` is the time in seconds between the tokens of its streams.

    `streamproxy.errors.ExchangeAborted` leaves it for ``/broken``, once the head is sent: every ASGI server closes
    the connection then.
    """

    def __init__(self, token_delay: float = 0.05) -> None:
        self.routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", partial(openai_api.chat_completions, token_delay=token_delay)),
            "/v1/messages": ("POST", partial(anthropic_api.messages, token_delay=token_delay)),
            "/v1/models": ("GET", openai_api.models),
            "/events": ("GET", streams.events),
            "/ndjson": ("GET", streams.ndjson),
            "/slow": ("GET", partial(streams.slow, token_delay=token_delay)),
            "/broken": ("GET", partial(streams.broken, token_delay=token_delay)),
            "/download": ("GET", streams.download),
            "/upload": ("POST", streams.upload),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close"})  # before the handshake: a refusal with 403
        else:
            await self._serve(Call(scope, receive, send))

    async def _serve(self, call: Call) -> None:
        try:
            await self._handler(call)(call)
        except Refused as refusal:
            await call.answer(refusal.status, {"error": refusal.message}, fields=refusal.fields)
        except ClientLeft:
            return

    def _handler(self, call: Call) -> Handler:
        if call.path not in self.routes:
            raise Refused(404, "There is " + ", ".join(f"{method} {path}" for path, (method, _) in self.routes.items()))
        method, handler = self.routes[call.path]
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if call.method not in allowed:
            names = ", ".join(allowed)
            raise Refused(405, f"{call.path} takes {names}", fields=((b"allow", names.encode()),))
        return handler


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


upstream_app = DemoUpstream()
