from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sidecar.guardrails.remote.resilience import Breaker, BreakerPermit, BreakerState

FAILURES = 3
OPEN_SECONDS = 10.0


class BreakerModel(RuleBasedStateMachine):
    """Requests begin, end in any order or are given up, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = Breaker(failures=FAILURES, open_seconds=OPEN_SECONDS)
        self.now = 0.0
        self.under_way: list[BreakerPermit] = []
        self.opened_at: float | None = None

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        """Time goes on."""
        self.now += seconds

    @rule()
    def begin(self) -> None:
        """A request asks for leave."""
        before = self.breaker.state(self.now)
        admission = self.breaker.admit(self.now)
        if before is BreakerState.CLOSED:
            assert admission is not None
            assert not admission.is_probe
        elif before is BreakerState.OPEN:
            assert admission is None
        elif admission is None:
            assert any(one.is_probe for one in self.under_way)
        else:
            assert admission.is_probe
        if admission is not None:
            self.under_way.append(admission)

    @precondition(lambda self: self.under_way)
    @rule(data=st.data(), ending=st.sampled_from(["succeeded", "failed", "abandoned"]))
    def end(self, data: st.DataObject, ending: str) -> None:
        """Any of the requests under way ends."""
        index = data.draw(st.integers(0, len(self.under_way) - 1))
        admission = self.under_way.pop(index)
        before = self.breaker.state(self.now)
        if ending == "failed":
            self.breaker.failed(admission, self.now)
        elif ending == "succeeded":
            self.breaker.succeeded(admission)
        self.breaker.abandoned(admission)
        self.note(admission, ending, before)

    def note(self, admission: BreakerPermit, ending: str, before: BreakerState) -> None:
        """Check what the end of a request may change."""
        after = self.breaker.state(self.now)
        if before is BreakerState.CLOSED and after is BreakerState.OPEN:
            assert ending == "failed"
            self.opened_at = self.now
        elif before is BreakerState.HALF_OPEN and after is not BreakerState.HALF_OPEN:
            assert admission.is_probe
            assert (after is BreakerState.OPEN) == (ending == "failed")
            self.opened_at = self.now if ending == "failed" else None
        else:
            assert after is before

    @invariant()
    def never_two_trials(self) -> None:
        """A server that may be down is tried by one request."""
        assert sum(one.is_probe for one in self.under_way) <= 1

    @invariant()
    def open_exactly_for_the_pause(self) -> None:
        """Neither a late failure nor a late success moves its end."""
        state = self.breaker.state(self.now)
        if self.opened_at is None:
            assert state is BreakerState.CLOSED
        elif self.now < self.opened_at + OPEN_SECONDS:
            assert state is BreakerState.OPEN
        else:
            assert state is BreakerState.HALF_OPEN


TestBreaker = BreakerModel.TestCase
