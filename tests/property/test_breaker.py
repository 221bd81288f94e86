from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.guardrails.remote.resilience import (
    Breaker,
    BreakerPermit,
    BreakerScope,
    BreakerState,
)

FAILURES = 3
OPEN_SECONDS = 10.0


class BreakerModel(RuleBasedStateMachine):
    """Requests of a few organizations begin, end in any order or are given up, as time goes on."""

    organizations: tuple[str, ...] = ("a", "b", "c")

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(failures=FAILURES, open_seconds=OPEN_SECONDS)
        self.now = 0.0
        self.under_way: list[BreakerPermit] = []
        self.opened_at: dict[BreakerScope, float] = {}

    def states(self) -> dict[BreakerScope, BreakerState]:
        """Return the state for all and that for one."""
        return {scope: self.breaker.state(self.now, scope) for scope in BreakerScope}

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds

    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        """A request asks for leave."""
        organization = data.draw(st.sampled_from(self.organizations))
        states = self.states()
        admission = self.breaker.admit(organization, self.now)
        if max(states.values()) is BreakerState.CLOSED:
            assert admission is not None
            assert not admission.is_probe
        elif states[BreakerScope.ALL] is BreakerState.OPEN:
            assert admission is None
        elif states[BreakerScope.ALL] is BreakerState.HALF_OPEN:
            assert admission is None or admission.is_probe
        if admission is not None:
            self.under_way.append(admission)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), ending=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def end(self, data: st.DataObject, ending: str) -> None:
        """Any of the requests under way ends."""
        index = data.draw(st.integers(0, len(self.under_way) - 1))
        admission = self.under_way.pop(index)
        before = self.states()
        if ending == "failed":
            self.breaker.failed(admission, self.now)
        elif ending == "succeeded":
            self.breaker.succeeded(admission)
        self.breaker.abandoned(admission)
        for scope, after in self.states().items():
            if after is not before[scope]:
                self.note(admission, ending, scope, before[scope])

    def note(
        self, admission: BreakerPermit, ending: str, scope: BreakerScope, before: BreakerState
    ) -> None:
        """Check what the end of a request may change."""
        after = self.breaker.state(self.now, scope)
        if scope is BreakerScope.ALL and before is not BreakerState.CLOSED:
            assert before is BreakerState.HALF_OPEN
            assert admission.is_probe
        if after is BreakerState.OPEN:
            assert ending == "failed"
            self.opened_at[scope] = self.now
        else:
            assert after is BreakerState.CLOSED
            assert ending == "succeeded" or scope is BreakerScope.ORGANIZATION
            del self.opened_at[scope]

    @invariant()
    def never_two_trials(self) -> None:
        """A server that may be down is tried by one request; those from before do not count."""
        now = max((one.period for one in self.under_way), default=0)
        assert sum(one.is_probe and one.period == now for one in self.under_way) <= 1

    @invariant()
    def open_exactly_for_the_pause(self) -> None:
        """Neither a late failure nor a late success moves its end."""
        for scope, state in self.states().items():
            opened_at = self.opened_at.get(scope)
            if opened_at is None:
                assert state is BreakerState.CLOSED
            elif self.now < opened_at + OPEN_SECONDS:
                assert state is BreakerState.OPEN
            else:
                assert state is BreakerState.HALF_OPEN


class BreakerOfOneModel(BreakerModel):
    """With one organization it opens for that one, and one probe decides, as for all."""

    organizations: tuple[str, ...] = ("a",)

    @invariant()
    def never_open_for_all(self) -> None:
        """One organization cannot open it for others."""
        assert self.breaker.state(self.now, BreakerScope.ALL) is BreakerState.CLOSED


TestBreaker = BreakerModel.TestCase
TestBreakerOfOne = BreakerOfOneModel.TestCase
