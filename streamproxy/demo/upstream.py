"""The demo's upstream as an ASGI application, which maps paths to handlers."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

from starlette.types import Receive, Scope, Send

from streamproxy.demo import anthropic_api, gemini_api, ollama_api, openai_api, responses_api, streams
from streamproxy.demo.call import Call, ClientLeft, Refused
from streamproxy.demo.completion import MODEL
from streamproxy.demo.echo import echo, echo_messages

Handler = Callable[[Call], Awaitable[None]]


class DemoUpstream:
    """The embedded upstream. ``token_delay`` is the time in seconds between the tokens of its streams.

    For ``/broken`` it raises `streamproxy.errors.ExchangeAborted` after the head, so that any ASGI server closes the
    connection.
    """

    def __init__(self, token_delay: float = 0.05) -> None:
        self._running = 0  # running requests
        self.routes: dict[str, tuple[str, Handler]] = {
            "/v1/chat/completions": ("POST", partial(openai_api.chat_completions, token_delay=token_delay)),
            "/v1/completions": ("POST", partial(openai_api.completions, token_delay=token_delay)),
            "/v1/responses": ("POST", partial(responses_api.responses, token_delay=token_delay)),
            "/v1/messages": ("POST", partial(anthropic_api.messages, token_delay=token_delay)),
            "/v1/models": ("GET", openai_api.models),
            "/v1beta/models/*": ("POST", partial(gemini_api.generate, token_delay=token_delay)),
            "/api/chat": ("POST", partial(ollama_api.chat, token_delay=token_delay)),
            "/api/generate": ("POST", partial(ollama_api.generate, token_delay=token_delay)),
            "/events": ("GET", streams.events),
            "/ndjson": ("GET", streams.ndjson),
            "/slow": ("GET", partial(streams.slow, token_delay=token_delay)),
            "/broken": ("GET", partial(streams.broken, token_delay=token_delay)),
            "/mute": ("GET", streams.mute),
            "/ws": ("GET", echo),
            "/download": ("GET", streams.download),
            "/upload": ("POST", streams.upload),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "websocket":
            await _websocket(scope, receive, send)
        else:
            await self._serve(Call(scope, receive, send))

    async def _serve(self, call: Call) -> None:
        if (call.method, call.path) == ("GET", "/metrics"):
            await call.answer_text(self._metrics())
            return
        self._running += 1
        try:
            await self._handler(call)(call)
        except Refused as refusal:
            await call.answer(refusal.status, {"error": refusal.message}, fields=refusal.fields)
        except ClientLeft:
            return
        finally:
            self._running -= 1

    def _metrics(self) -> str:
        """Responds with the load of an engine, with vLLM's metric names."""
        labels = f'{{engine="0",model_name="{MODEL}"}}'
        return (
            "# TYPE vllm:num_requests_running gauge\n"
            f"vllm:num_requests_running{labels} {self._running}\n"
            "# TYPE vllm:num_requests_waiting gauge\n"
            f"vllm:num_requests_waiting{labels} 0\n"
            "# TYPE vllm:kv_cache_usage_perc gauge\n"
            f"vllm:kv_cache_usage_perc{labels} {min(1.0, self._running / 100)}\n"
        )

    def _handler(self, call: Call) -> Handler:
        path = call.path if call.path in self.routes else call.path.rpartition("/")[0] + "/*"
        if path not in self.routes:
            raise Refused(404, "There is " + ", ".join(f"{method} {path}" for path, (method, _) in self.routes.items()))
        method, handler = self.routes[path]
        allowed = ("GET", "HEAD") if method == "GET" else (method,)
        if call.method not in allowed:
            names = ", ".join(allowed)
            raise Refused(405, f"{call.path} takes {names}", fields=((b"allow", names.encode()),))
        return handler


async def _websocket(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["path"] == "/ws":
        await echo_messages(receive, send)
    else:
        await send({"type": "websocket.close"})  # before the handshake: a refusal with 403


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})


upstream_app = DemoUpstream()
