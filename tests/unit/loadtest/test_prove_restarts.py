from __future__ import annotations

from dataclasses import replace

import pytest

from loadtest.prove_restarts import Failed, Tally, is_later

KILLED = Tally(
    "a worker killed", rounds=2, answered=90, failed=3, had_verdict=0, sent_later=0, may_fail=True
)


@pytest.mark.parametrize(
    ("tally", "faults"),
    [
        (KILLED, 0),
        (replace(KILLED, had_verdict=1), 1),
        (replace(KILLED, sent_later=1), 1),
        (replace(KILLED, may_fail=False), 1),
        (replace(KILLED, may_fail=False, failed=0), 0),
    ],
    ids=["while it was judged", "after its verdict", "sent later", "by a replacement", "none"],
)
def test_only_what_was_judged_at_that_moment_may_fail(tally: Tally, faults: int) -> None:
    """And only by a kill."""
    assert len(tally.faults) == faults


@pytest.mark.parametrize(
    ("begun", "ended", "is_it"),
    [(5, 12, False), (11, 12, True), (11, 21, False), (5, 6, True)],
    ids=["under the first", "between both", "under the second", "before both"],
)
def test_a_failure_is_held_against_the_last_blow_before_its_end(
    *, begun: float, ended: float, is_it: bool
) -> None:
    """What began before a blow and ended after it may have failed by it, nothing else."""
    assert is_later(Failed("500", begun, ended), [10, 20]) is is_it
