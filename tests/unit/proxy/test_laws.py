"""The places of a route as a state machine, held by its laws against a model that is too simple to be wrong."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamproxy.config.limits import Limits
from streamproxy.errors import ClientLimitReached, LimitReached
from streamproxy.proxy.admission import Places, State, Ticket

LIMITS = st.builds(
    Limits.model_construct,  # without the rules of a file, which some of these break
    max_streams=st.none() | st.integers(1, 4),
    max_streams_per_client=st.none() | st.integers(1, 3),
    queue=st.integers(0, 5),
    queue_timeout=st.sampled_from([2.0, 10.0, float("inf")]),
    fair_by=st.sampled_from([None, "client_key"]),
)
PRIORITIES = st.sampled_from([-2, -1, 0, 0, 0, 1])
CLIENTS = st.sampled_from(["a", "b", "c"])


class AdmissionMachine(RuleBasedStateMachine):
    """The model is two lists: who holds a place, and who waits, in the order in which they asked; and for each priority
    the clients in the order of their turns."""

    @initialize(limits=LIMITS)
    def begin(self, limits: Limits) -> None:
        self.now = 1000.0
        self.places = Places(limits)
        self.holding: list[Ticket] = []
        self.waiting: list[Ticket] = []
        self.turns: dict[int, list[str]] = {}
        self.changed = False  # places may have been taken away from under those who hold them

    def _admitted(self, tickets: list[Ticket]) -> None:
        """Those who get a place are of the highest priority; of these the client whose turn it is, where clients take
        turns, and then the one that has waited longest."""
        for ticket in tickets:
            highest = max(one.priority for one in self.waiting)
            lane = [one for one in self.waiting if one.priority == highest]
            if self.places.limits.fair_by is not None:
                turns = self._turns(highest)
                lane = [one for one in lane if one.client == turns[0]]
                turns.append(turns.pop(0))
            assert ticket is lane[0]
            self.waiting.remove(ticket)
            self.holding.append(ticket)

    def _turns(self, priority: int) -> list[str]:
        """The clients that wait with a priority, in the order of their turns."""
        present = [str(one.client) for one in self.waiting if one.priority == priority]
        known = [client for client in self.turns.get(priority, []) if client in present]
        self.turns[priority] = known + [client for client in dict.fromkeys(present) if client not in known]
        return self.turns[priority]

    def _note_turns(self) -> None:
        for priority in {*self.turns, *(one.priority for one in self.waiting)}:
            self._turns(priority)

    def _of(self, client: str) -> int:
        return sum(ticket.client == client for ticket in self.holding + self.waiting)

    @rule(client=CLIENTS, priority=PRIORITIES)
    def ask(self, client: str, priority: int) -> None:
        limits = self.places.limits
        self._displace(client, priority)
        full = limits.max_streams is not None and len(self.holding) >= limits.max_streams
        over = limits.max_streams_per_client is not None and self._of(client) >= limits.max_streams_per_client
        if over or (full and len(self.waiting) >= limits.queue):
            with pytest.raises(LimitReached) as refused:
                self.places.ask(client, self.now, priority)
            assert isinstance(refused.value, ClientLimitReached) == over
            assert refused.value.retry_after is not None
            assert 1 <= refused.value.retry_after <= 60
            return
        ticket = self.places.ask(client, self.now, priority)
        if full:
            assert ticket.state is State.WAITS
            self.waiting.append(ticket)
            self._note_turns()
        else:
            assert ticket.state is State.HOLDS
            assert not self.waiting, "a newcomer overtook one who waits"
            self.holding.append(ticket)

    def _displace(self, client: str, priority: int) -> None:
        """Only one below 0 makes room, only in a full queue, and only for one above it that may wait."""
        limits = self.places.limits
        over = limits.max_streams_per_client is not None and self._of(client) >= limits.max_streams_per_client
        full = limits.max_streams is not None and len(self.holding) >= limits.max_streams
        lowest = min((one.priority for one in self.waiting), default=0)
        displaced = self.places.displace(client, priority)
        if full and not over and len(self.waiting) >= limits.queue and lowest < min(0, priority):
            assert displaced is [one for one in self.waiting if one.priority == lowest][-1]
            assert displaced.state is State.GONE
            self.waiting.remove(displaced)
            self._note_turns()
        else:
            assert displaced is None

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
        self._note_turns()

    @rule(seconds=st.sampled_from([0.0, 0.5, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        timeout = self.places.limits.queue_timeout
        late = [ticket for ticket in self.waiting if ticket.since + timeout <= self.now]
        assert self.places.expire(self.now) == late
        self.waiting = [ticket for ticket in self.waiting if ticket not in late]
        self._note_turns()

    @rule(limits=LIMITS)
    def reload(self, limits: Limits) -> None:
        self.changed = True
        if limits.fair_by != self.places.limits.fair_by:
            self.turns = {}
            self._note_turns()
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
