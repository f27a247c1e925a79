"""The places of a route as a state machine, held by its laws against a model that is too simple to be wrong."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamproxy.config.route import Limits
from streamproxy.errors import ClientLimitReached, LimitReached
from streamproxy.proxy.admission import Places, State, Ticket

LIMITS = st.builds(
    Limits.model_construct,  # without the rules of a file, which some of these break
    max_streams=st.none() | st.integers(1, 4),
    max_streams_per_client=st.none() | st.integers(1, 3),
    queue=st.integers(0, 5),
    queue_timeout=st.sampled_from([2.0, 10.0, float("inf")]),
)
CLIENTS = st.sampled_from(["a", "b", "c"])


class AdmissionMachine(RuleBasedStateMachine):
    """The model is two lists: who holds a place, and who waits, in the order in which they asked."""

    @initialize(limits=LIMITS)
    def begin(self, limits: Limits) -> None:
        self.now = 1000.0
        self.places = Places(limits)
        self.holding: list[Ticket] = []
        self.waiting: list[Ticket] = []
        self.changed = False  # places may have been taken away from under those who hold them

    def _admitted(self, tickets: list[Ticket]) -> None:
        """Those who get a place are the ones who have waited longest, in order."""
        assert tickets == self.waiting[: len(tickets)]
        self.waiting = self.waiting[len(tickets) :]
        self.holding += tickets

    def _of(self, client: str) -> int:
        return sum(ticket.client == client for ticket in self.holding + self.waiting)

    @rule(client=CLIENTS)
    def ask(self, client: str) -> None:
        limits = self.places.limits
        full = limits.max_streams is not None and len(self.holding) >= limits.max_streams
        over = limits.max_streams_per_client is not None and self._of(client) >= limits.max_streams_per_client
        if over or (full and len(self.waiting) >= limits.queue):
            with pytest.raises(LimitReached) as refused:
                self.places.ask(client, self.now)
            assert isinstance(refused.value, ClientLimitReached) == over
            assert refused.value.retry_after is not None
            assert 1 <= refused.value.retry_after <= 60
            return
        ticket = self.places.ask(client, self.now)
        if full:
            assert ticket.state is State.WAITS
            self.waiting.append(ticket)
        else:
            assert ticket.state is State.HOLDS
            assert not self.waiting, "a newcomer overtook one who waits"
            self.holding.append(ticket)

    @precondition(lambda self: self.holding)
    @rule(which=st.integers(0, 100))
    def finish(self, which: int) -> None:
        ticket = self.holding.pop(which % len(self.holding))
        self._admitted(self.places.leave(ticket, self.now))
        assert ticket.state is State.GONE
        assert self.places.leave(ticket, self.now) == []  # once is enough

    @precondition(lambda self: self.waiting)
    @rule(which=st.integers(0, 100))
    def give_up(self, which: int) -> None:
        ticket = self.waiting.pop(which % len(self.waiting))
        assert self.places.leave(ticket, self.now) == []
        assert ticket.state is State.GONE

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        timeout = self.places.limits.queue_timeout
        late = [ticket for ticket in self.waiting if ticket.since + timeout <= self.now]
        assert self.places.expire(self.now) == late
        self.waiting = [ticket for ticket in self.waiting if ticket not in late]

    @rule(limits=LIMITS)
    def reload(self, limits: Limits) -> None:
        self.changed = True
        self._admitted(self.places.change(limits, self.now))

    @invariant()
    def nothing_is_lost_and_nothing_is_counted_twice(self) -> None:
        if not hasattr(self, "places"):
            return
        limits = self.places.limits
        assert self.places.held == len(self.holding)
        assert self.places.waiting == len(self.waiting)
        assert self.places.clients == Counter(ticket.client for ticket in self.holding + self.waiting)
        assert all(ticket.state is State.HOLDS for ticket in self.holding)
        assert all(ticket.state is State.WAITS for ticket in self.waiting)
        if not self.changed:
            assert limits.max_streams is None or self.places.held <= limits.max_streams
            assert self.places.waiting <= limits.queue
            if limits.max_streams_per_client is not None:
                assert all(count <= limits.max_streams_per_client for count in self.places.clients.values())
        # A place never stays free while somebody waits for one.
        assert not self.waiting or (limits.max_streams is not None and self.places.held >= limits.max_streams)


AdmissionMachine.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestAdmissionLaws = AdmissionMachine.TestCase
