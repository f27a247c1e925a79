"""Which of several routes serves a request, by the model that its body names.

A route with ``models`` can't be chosen by the head alone. Its requests come to the handler with all the routes that
their head fits, in order, down to the first that asks for no model. The body is read ahead, and the first route that
takes its model serves. Nothing is held for a client that none of them would let in.

A cursor has no need of a model: the route that keeps its stream serves.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from streamproxy.errors import Denied, NoModel
from streamproxy.exchange.call import Call
from streamproxy.observe.series import NO_ROUTE
from streamproxy.origins.resume import ResumeOrigin
from streamproxy.proxy.peek import PeekPlan, peek
from streamproxy.proxy.plan import Chooser, RoutePlan
from streamproxy.proxy.screen import prepare_auth
from streamproxy.routing.route import Route, matched_path
from streamproxy.store.cursor import cursor_of
from streamproxy.wire.cors import is_preflight
from streamproxy.wire.headers import first


class Models:
    """The models of a route: exact names, or prefixes that end in ``*``."""

    def __init__(self, models: Sequence[str]) -> None:
        self._exact = frozenset(model for model in models if not model.endswith("*"))
        self._prefixes = tuple(model[:-1] for model in models if model.endswith("*"))

    def take(self, model: str) -> bool:
        """Whether this model is among them."""
        return model in self._exact or model.startswith(self._prefixes)


class Candidate:
    """A route that may serve.

    ``models`` is None for one that takes any request; ``limit`` is its ``inspect_body``; ``kept`` are the streams that
    its clients may come back to, None where it keeps none.
    """

    def __init__(
        self, route: Route, plan: RoutePlan, models: Models | None, limit: int, kept: ResumeOrigin | None = None
    ) -> None:
        self.route = route
        self.plan = plan
        self.models = models
        self.limit = limit
        self.kept = kept
        self.peek = PeekPlan(limit, members=True)

    def takes(self, model: str | None, size: int) -> bool:
        """Whether it takes a request that names this model, in a body of ``size`` bytes."""
        return self.models is None or (model is not None and size <= self.limit and self.models.take(model))


class ModelChooser(Chooser):
    """Chooses among several routes, which begin with the one whose requests come here."""

    def __init__(self) -> None:
        self._candidates: list[Candidate] = []
        self._some_keep = False  # whether any of them keeps streams

    def choose_among(self, candidates: Sequence[Candidate]) -> None:
        """Sets the routes, in order."""
        self._candidates = list(candidates)
        self._some_keep = any(one.kept is not None for one in candidates)

    async def choose(self, call: Call) -> RoutePlan:
        downstream = call.downstream
        path = matched_path(downstream.target)
        fitting = self._fitting(call, path)
        cors = fitting[0].plan.cors
        if is_preflight(downstream.method, downstream.headers):
            for one in fitting:
                if one.plan.cors is not None:
                    return _chosen(call, one, path)
        elif cors is not None:
            origin = first(downstream.headers, b"origin")
            downstream.transform_response_headers = partial(cors.transform_response_headers, origin)
        for one in fitting:
            if one.plan.auth is not None and one.plan.auth.waits:
                await prepare_auth(one.plan.auth, call)
        _authenticate(call, fitting)
        back = await _come_back(call, fitting) if self._some_keep else None
        if back is not None:
            downstream.transform_response_headers = None
            plan = _chosen(call, back, path)
            downstream.open(plan.max_request_body, plan.buffer)
            return plan
        most, widest = _limits(fitting)
        downstream.open(most, fitting[0].plan.buffer)
        peeking = peek(call, widest)
        if peeking is not None:
            await peeking
        plan = _by_model(call, fitting, path)
        downstream.transform_response_headers = None
        if plan.max_request_body != most:
            downstream.limit_body(plan.max_request_body)
        return plan

    def _fitting(self, call: Call, path: bytes) -> list[Candidate]:
        """The routes that the head fits, down to the first that asks for no model. It fits the first of all."""
        target, scope = call.downstream.target, call.downstream.scope
        fitting: list[Candidate] = []
        for one in self._candidates:
            if not fitting or one.route.takes(target, path, scope):
                fitting.append(one)
                if one.models is None:
                    break
        return fitting


def _limits(fitting: list[Candidate]) -> tuple[int | None, PeekPlan]:
    """The most bytes of a body that any of these routes takes, and how that one reads ahead that reads furthest."""
    most = fitting[0].plan.max_request_body
    widest = fitting[0].peek
    for one in fitting:
        limit = one.plan.max_request_body
        if most is not None and (limit is None or limit > most):
            most = limit
        if one.limit > widest.limit:
            widest = one.peek
    return most, widest


def _by_model(call: Call, fitting: list[Candidate], path: bytes) -> RoutePlan:
    """The plan of the first of these routes that takes the body's model. Raises NoModel where none does."""
    model = call.peeked.model if call.peeked is not None else None
    for one in fitting:
        if one.takes(model, call.exchange.request_bytes):
            return _chosen(call, one, path)
    call.exchange.route = call.exchange.upstream = NO_ROUTE
    raise NoModel()


def _chosen(call: Call, one: Candidate, path: bytes) -> RoutePlan:
    """The plan of the route that serves, with which the call goes on."""
    exchange, plan = call.exchange, one.plan
    exchange.route, exchange.upstream = plan.name, plan.upstream
    call.timer.adopt(plan.limits)
    one.route.note_climb(call.downstream.target, path)
    return plan


async def _come_back(call: Call, fitting: Sequence[Candidate]) -> Candidate | None:
    """The route of a cursor's stream: the one that knows it, else the first that keeps streams, which refuses it.

    None for a request without a cursor, or where the last route takes any request and keeps no streams: there the id
    may be the upstream's.
    """
    headers, query = call.downstream.headers, call.downstream.target.query
    keeping = [(one, one.kept) for one in fitting if one.kept is not None]
    cursor = cursor_of(headers, query) if keeping else None
    if cursor is None:
        return None
    for one, kept in keeping:
        principal, fields = None, headers
        if one.plan.auth is not None:
            try:
                principal, fields, _ = one.plan.auth.check(headers, query)
            except Denied:
                continue
        if await kept.knows(cursor, principal, fields):
            return one
    last = fitting[-1]
    return keeping[0][0] if last.models is not None or last.kept is not None else None


def _authenticate(call: Call, fitting: Sequence[Candidate]) -> None:
    """Raise the first route's Denied if none of them would let the client in."""
    denied: Denied | None = None
    for one in fitting:
        if one.plan.auth is None:
            return
        try:
            one.plan.auth.check(call.downstream.headers, call.downstream.target.query)
        except Denied as error:
            denied = denied or error
        else:
            return
    if denied is not None:
        raise denied
