"""Whatever becomes of requests, workers and calls: the counts say what was used, and no more."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from loadtest.limits.drift import Mix, Usage
from sidecar.domain.report import Clocks
from tests.support.counted_limits import CountedLimits, Server


@dataclass
class Ticking:
    """A clock that goes on whenever somebody looks."""

    now: float = 1_700_049_600.0

    def __call__(self) -> float:
        """Return the time, a little later than before."""
        self.now += 0.000_2
        return self.now


mixes = st.builds(
    Mix,
    operations=st.just(3_000),
    seed=st.integers(1, 10_000),
    lost=st.sampled_from([0, 20, 300]),
    unacknowledged=st.sampled_from([0, 20, 300]),
    deaths=st.sampled_from([0, 300]),
)


# Not shrunk: a smaller seed is no simpler run.
@settings(max_examples=8, deadline=None, phases=[Phase.explicit, Phase.generate])
@given(mixes)
async def test_no_order_of_ends_and_faults_leaves_a_drift(mix: Mix) -> None:
    """Reserved, put right, given back, given up, lost, heard of late, and with dead workers."""
    clock = Ticking()
    store = CountedLimits(Server(lambda: clock.now))
    drift = await Usage(store, mix, Clocks(clock, clock)).run()
    assert drift.differences == {}
    assert drift.done["ended"] > mix.operations / 10
    if mix.deaths == 0:
        assert drift.done["slots lost with workers"] == 0
