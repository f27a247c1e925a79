"""`streamproxy explain`: shows how the proxy would handle a request, without contacting anything.

The request is processed up to the point where a connection would be opened, by the same code as in the proxy: routes
are tried in order, the model is read from the body if a route needs it, the credential is checked, an endpoint is
picked, and the upstream request is built.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from streamproxy.config import model
from streamproxy.config.redact import HIDDEN, shown_field, shown_url
from streamproxy.config.section import Section
from streamproxy.deployment import Deployment
from streamproxy.errors import BadRequest, ExchangeError, NoModel, NotImplementedHere
from streamproxy.exchange.call import Call
from streamproxy.exchange.ledger import Ledger
from streamproxy.exchange.target import Target, make_target
from streamproxy.origins.base import Origin
from streamproxy.origins.redis import EventsOrigin
from streamproxy.origins.upstream import UpstreamRequest
from streamproxy.proxy.choose import Candidate
from streamproxy.proxy.handle import Handler
from streamproxy.proxy.peek import peek
from streamproxy.proxy.plan import RoutePlan
from streamproxy.proxy.screen import answer_here
from streamproxy.routing.route import matched_path
from streamproxy.upstream.sessions import SessionTable
from streamproxy.wire.headers import TOKEN, Headers
from streamproxy.wire.http1 import MAX_FIELDS
from streamproxy.wire.request import RequestHead

_CLIENT = "127.0.0.1"
_NOT_IN_A_TARGET = re.compile(r"[\x00-\x20\x7f]")
_NOT_IN_A_VALUE = re.compile(r"[\x00\r\n]")


class Asked(NamedTuple):
    """A request as it would arrive. The target is the path with the query; header names are in lower case."""

    method: str
    scheme: str
    target: Target
    headers: Headers
    body: bytes | None


def asked(method: str, url: str, fields: Sequence[str], body: str | None) -> Asked:
    """Returns the request described by a command line.

    ``url`` is a whole URL, a path, or ``*``; each of ``fields`` is ``NAME:VALUE``. Raises ValueError with a message for
    the user.
    """
    if not TOKEN.fullmatch(_bytes(method)):
        raise ValueError(f"the method {method!r} is not a token")
    scheme, host, target = _split(url)
    headers: Headers = []
    for field in fields:
        name, colon, value = field.partition(":")
        if not colon or not TOKEN.fullmatch(_bytes(name)) or _NOT_IN_A_VALUE.search(value):
            raise ValueError(f"the header {name!r} is not NAME:VALUE")
        headers.append((_bytes(name).lower(), _bytes(value).strip(b" \t")))
    names = {name for name, _ in headers}
    if b"host" not in names:
        headers.insert(0, (b"host", _bytes(host)))
    data = None if body is None else _bytes(body)
    if data is not None and not names & {b"content-length", b"transfer-encoding"}:
        headers.append((b"content-length", b"%d" % len(data)))
    return Asked(method, scheme, target, headers, data)


def _bytes(text: str) -> bytes:
    """Returns the bytes of an argument, as the command line had them, whether they are UTF-8 or not."""
    return text.encode("utf-8", "surrogateescape")


def _split(url: str) -> tuple[str, str, Target]:
    """Returns scheme, Host and target of a URL. Raises ValueError."""
    if _NOT_IN_A_TARGET.search(url):
        raise ValueError("the URL has a space or a control character in it")
    parts = urlsplit(url)
    if parts.scheme in ("http", "https") and parts.netloc:
        rest = url.partition("://")[2][len(parts.netloc) :].partition("#")[0]
        rest = rest if rest.startswith("/") else "/" + rest
    elif url.startswith("/") or url == "*":
        rest = url.partition("#")[0]
    else:
        raise ValueError(f"{url!r} is neither a URL nor a path that begins with a slash")
    path, question, query = _bytes(rest).partition(b"?")
    host = parts.netloc.rpartition("@")[2] if "://" in url else ""
    return parts.scheme or "http", host or "localhost", make_target(path, query if question else None)


class Explanation(NamedTuple):
    """The lines to print, and whether a route matches the request."""

    lines: list[str]
    taken: bool


async def explain(config: model.Config, request: Asked) -> Explanation:
    """Explains how ``request`` would be handled. Raises StreamproxyError if a configured file cannot be used."""
    deployment = Deployment(config, Ledger(), sessions=SessionTable())
    try:
        return await _Explainer(config, deployment, request).explain()
    finally:
        await deployment.discard()


class _Explainer:
    """The explanation of one request."""

    def __init__(self, config: model.Config, deployment: Deployment, request: Asked) -> None:
        self._config = config
        self._deployment = deployment
        self._request = request
        self._path = matched_path(request.target)
        self._scope = {
            "type": "http",
            "method": request.method,
            "scheme": request.scheme,
            "http_version": "1.1",
            "headers": request.headers,
            "client": (_CLIENT, 0),
            "extensions": None,
        }

    async def explain(self) -> Explanation:
        try:
            self._parse_head()
        except ExchangeError as error:
            return _refused(error)
        target = self._request.target
        found = (pair for pair in self._deployment.candidates if pair[1].route.takes(target, self._path, self._scope))
        chooser, first = next(found, (None, None))
        if first is None:
            return self._nobody("404, destination_not_found", None)
        call = Handler(first.plan, Ledger()).begin(target, self._scope, self._receive(), _refuse_to_send)
        try:
            plan = first.plan if chooser is None else await chooser.choose(call)
            lines = [line async for line in self._served(plan, call, opened=chooser is not None)]
            candidates = [one for _, one in self._deployment.candidates]
            number = next(place for place, one in enumerate(candidates) if one.plan is plan)
            before = self._others(candidates[:number], _model_of(call))
            return Explanation([*lines, "routes before it:", *before] if before else lines, taken=True)
        except NoModel as error:
            return self._nobody(_said(error), _model_of(call))
        except ExchangeError as error:
            return _refused(error)
        finally:
            call.close()

    def _parse_head(self) -> None:
        """Parses the request's head as the listener does. Raises what is refused there."""
        method, _, target, headers, body = self._request
        query = b"" if target.query is None else b"?" + target.query
        fields = b"".join(b"%b: %b\r\n" % field for field in headers)
        head = RequestHead(self._config.server.max_header_size, MAX_FIELDS)
        head.feed(b"%b %b%b HTTP/1.1\r\n%b\r\n" % (method.encode(), target.path, query, fields))
        if body is not None and head.framing.length not in (None, len(body)):
            raise BadRequest("The body is not as long as its Content-Length")

    def _nobody(self, answer: str, model_name: str | None) -> Explanation:
        others = self._others([one for _, one in self._deployment.candidates], model_name)
        return Explanation([f"no route takes this request: {answer}", *others], taken=False)

    def _receive(self) -> Callable[[], Any]:
        parts = [self._request.body or b""]

        async def receive() -> Any:
            if not parts:
                await asyncio.Event().wait()  # the client does not leave
            return {"type": "http.request", "body": parts.pop(), "more_body": False}

        return receive

    def _others(self, candidates: Sequence[Candidate], model_name: str | None) -> list[str]:
        """Yields why each of these routes does not match the request."""
        lines = []
        for one in candidates:
            request = self._request
            why = one.route.matcher.why_not(self._path, request.method, request.headers, request.target.query)
            if not why:
                named = "the body names no model" if model_name is None else f"the model is {model_name!r}"
                why = f"{named}, and it takes only {', '.join(self._section(one.plan).models)}"
            lines.append(f"  {one.plan.name}: {why}")
        return lines

    def _section(self, plan: RoutePlan) -> model.Route:
        return next(route for route in self._config.routes if route.name == plan.name)

    async def _served(self, plan: RoutePlan, call: Call, *, opened: bool) -> AsyncIterator[str]:
        section = self._section(plan)
        yield f"route: {plan.name}"
        refusal = None
        try:
            answer = _answer(plan, call)
            if answer is not None:
                yield f"answered by the proxy itself: {answer}"
                return
            if not opened:
                call.downstream.open(body_limit=plan.max_request_body, read_ahead=plan.buffer)
                if plan.peek is not None:
                    peeking = peek(call, plan.peek)
                    if peeking is not None:
                        await peeking
        except ExchangeError as error:
            refusal = error
            yield "refused: " + _said(error)
        for line in self._upstreams(section):
            yield line
        if refusal is None:
            async for line in self._sent(section, call):
                yield line
        yield "time-outs: " + _settings(section.timeouts)
        yield "limits: " + (_settings(section.limits, skip_defaults=True) or "none")
        yield "retry: " + (_settings(section.retry, skip_defaults=True) or "off")
        for name in ("keepalive", "resume", "share", "reconnect"):
            value = getattr(section, name)
            yield f"{name}: " + ("off" if value is None else _settings(value))

    def _origin(self, section: model.Route) -> Origin:
        return next(one.plan.origin for _, one in self._deployment.candidates if one.plan.name == section.name)

    def _upstreams(self, section: model.Route) -> Iterator[str]:
        shares = section.shares
        total = sum(share.weight for share in shares)
        for share in shares:
            part = f", {share.weight} of {total} requests" if len(shares) > 1 else ""
            yield from self._upstream("upstream", share.name, part)
        for name in section.fallback:
            yield from self._upstream("fallback", name, "")
        if section.mirror is not None:
            yield from self._upstream("mirror", section.mirror.upstream, f", {section.mirror.percent} % of requests")

    def _upstream(self, kind: str, name: str, part: str) -> Iterator[str]:
        settings = self._config.upstreams[name]
        if settings.redis is not None:
            yield f"{kind}: {name}, events of a Redis ({settings.redis.kind} {settings.redis.channel})"
            return
        yield f"{kind}: {name}{part}, balance {_plain(settings.balance)}"
        for endpoint in settings.endpoints:
            where = f" over {endpoint.socket}" if endpoint.socket is not None else ""
            each = ", each of its addresses" if endpoint.resolve is not None else ""
            yield f"  endpoint: {endpoint.url}{where}, weight {endpoint.weight}{each}"

    async def _sent(self, section: model.Route, call: Call) -> AsyncIterator[str]:
        """Yields the request as it would be sent to the first upstream."""
        own = self._origin(section)
        if own.replays(call):
            yield "replayed: what is kept of the stream that the cursor names, and the upstream is not asked"
            return
        if isinstance(own, EventsOrigin):
            try:
                channel = own.channel(call)
                yield f"reads: {channel.decode('utf-8', 'backslashreplace')}"
            except ExchangeError as error:
                yield "refused: " + _said(error)
            return
        name = max(section.shares, key=lambda share: share.weight).name
        origin = self._deployment.upstream_origin(section, name)
        before = call.downstream.body.whole() if call.downstream.body is not None else None
        try:
            endpoint = await origin.pick(call)
            request = origin.request(call, endpoint)
        except ExchangeError as error:
            yield "refused: " + _said(error)
            return
        yield f"request to {endpoint.url}:"
        for line in self._head(request, section, name):
            yield f"  {line}"
        after = call.downstream.body.whole() if call.downstream.body is not None else None
        if after is not None and after != before:
            yield "  body: " + after.decode("utf-8", "backslashreplace")

    def _head(self, request: UpstreamRequest, section: model.Route, upstream: str) -> Iterator[str]:
        hidden = self._hidden(section, upstream)
        target: bytes = request.extensions["target"]
        yield f"{request.method} {target.decode('ascii', 'backslashreplace')} HTTP/1.1"
        for raw, value in request.headers:
            name = raw.decode("latin-1")
            shown = HIDDEN if name in hidden else shown_field(name, value.decode("utf-8", "backslashreplace"))
            yield f"{name}: {shown}"

    def _hidden(self, section: model.Route, upstream: str) -> set[str]:
        """Returns the fields whose configured values are hidden wherever the configuration is shown."""
        plain = self._config.redacted()
        route = plain["routes"][self._config.routes.index(section)]
        rules = [route["request_headers"], plain["upstreams"][upstream]["request_headers"]]
        return {
            name.lower()
            for rule in rules
            for kind in ("set", "add")
            for name, value in rule[kind].items()
            if value == HIDDEN or (isinstance(value, list) and HIDDEN in value)
        }


async def _refuse_to_send(message: Any) -> None:
    raise AssertionError("an explanation sends nothing")


def _answer(plan: RoutePlan, call: Call) -> int | None:
    """Returns the status of the proxy's own response, or None for a request that continues. Raises ExchangeError."""
    try:
        answer = answer_here(plan, call, draining=False)
    except NotImplementedHere:
        if plan.tunnel is None or call.exchange.protocol != "websocket":
            raise
        # A WebSocket, which the listener could carry.
        call.downstream.websocket_key = call.downstream.fields.noted.get(b"sec-websocket-key", b"")
        return None
    return None if answer is None else answer[0]


def _refused(error: ExchangeError) -> Explanation:
    return Explanation(["refused before a route is chosen: " + _said(error)], taken=False)


def _said(error: ExchangeError) -> str:
    return f"{error.status}, {error.error}: {error.detail or error.title}"


def _model_of(call: Call) -> str | None:
    """Returns the model named by the request's body, if it was read."""
    return call.peeked.model if call.peeked is not None else None


def _settings(section: Section, *, skip_defaults: bool = False) -> str:
    """Returns the keys of a section with their values, optionally without those that have the default."""
    usual = type(section)() if skip_defaults else None
    return ", ".join(
        f"{name} {_plain(value)}" for name, value in section if usual is None or value != getattr(usual, name)
    )


def _plain(value: object) -> str:
    if value is None or value is False:
        return "off"
    if value is True:
        return "on"
    if isinstance(value, float):
        return f"{value:g}s"
    if isinstance(value, model.Hash):
        return f"hash of {value.hash}"
    if isinstance(value, model.Prefix):
        return "prefix"
    if isinstance(value, Section):
        return f"({_settings(value)})"
    if isinstance(value, tuple) and type(value) is tuple:
        return "[" + ", ".join(map(str, value)) + "]"
    return shown_url(str(value))
