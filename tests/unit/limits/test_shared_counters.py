from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.shared_counters import MAX_BATCH, MAX_RELEASES, ROUNDS, Adjustments
from sidecar.limits.store import Adjustment
from tests.support.cpu_time import python_calls

WORKERS = 4
SLIDING = Limit(
    id="sliding", level=Level.KEY, measure=Measure.TOKENS, window=Window.MINUTE, amount=60
)
SLOTS = Limit(
    id="slots", level=Level.KEY, measure=Measure.CONCURRENT, window=Window.ONCE, amount=10
)

DAILY = Limit(id="daily", level=Level.KEY, measure=Measure.COST, window=Window.DAY, amount=10**6)
TODAY = 1_700_006_400


def of_today(units: int, at: float, *, is_new: bool = False) -> Adjustment:
    """Return units of the calendar limit, taken so many seconds after midnight."""
    return Adjustment(DAILY, units, period_start=TODAY, is_new=is_new, taken_at=TODAY + at)


def new(units: int) -> Adjustment:
    """Return units of the sliding limit that nobody has counted."""
    return Adjustment(SLIDING, units, is_new=True)


def sent(corrections: Adjustments, *, now: float) -> list[tuple[int, float]]:
    """Return what the next batch says: units and age."""
    batch = corrections.batch()
    assert batch is not None
    return [(change.amount, change.age_seconds) for change in batch.changes(now=now)]


def test_a_batch_is_the_same_until_it_is_acknowledged() -> None:
    """But for its age: time goes on while nobody answers."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    corrections.add("org", new(5), now=10.0)
    first = corrections.batch()
    corrections.add("org", new(7), now=11.0)
    assert corrections.batch() is first
    assert sent(corrections, now=12.0) == [(5, 2.0)]
    assert corrections.has_uncounted
    corrections.acknowledge()
    assert sent(corrections, now=12.0) == [(7, 1.0)]
    corrections.acknowledge()
    assert (corrections.batch(), corrections.has_uncounted, len(corrections)) == (None, False, 0)


def test_units_add_up_at_the_pace_of_a_share() -> None:
    """A quarter of one a second: two drain in eight seconds, and only then time is lost."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    corrections.add("org", new(2), now=10.0)
    corrections.add("org", new(1), now=14.0)
    assert sent(corrections, now=20.0) == [(3, 10.0)]
    corrections.acknowledge()
    corrections.add("org", new(2), now=10.0)
    corrections.add("org", new(1), now=20.0)
    assert sent(corrections, now=20.0) == [(3, 8.0)]


def test_what_is_new_comes_before_what_is_too_much_of_it() -> None:
    """They are not one sum."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    corrections.add("org", Adjustment(SLIDING, -3), now=10.0)
    corrections.add("org", new(4), now=10.0)
    assert sent(corrections, now=11.0) == [(4, 1.0), (-3, 1.0)]


def test_units_given_back_to_a_sliding_limit_are_as_old_as_their_reservation() -> None:
    """Those of one second are one sum, as old as the oldest; more that was used is of now."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    for units, age in ((-3, 20.0), (-2, 20.5), (-1, 5.0), (2, 9.0)):
        corrections.add("org", Adjustment(SLIDING, units, age_seconds=age), now=100.75)
    assert sent(corrections, now=101.75) == [(-5, 21.5), (-1, 6.0), (2, 0.0)]


@pytest.mark.parametrize(("burst", "seconds"), [(None, 60), (15, 15)])
def test_units_that_a_sliding_limit_has_drained_meanwhile_wait_for_nothing(
    burst: int | None, seconds: int
) -> None:
    """Half an hour without Valkey would else be a sum for each of its seconds."""
    corrections, one = Adjustments(SharingWorker("w", WORKERS)), replace(SLIDING, burst=burst)
    for second in range(1_800):
        corrections.add("org", Adjustment(one, -1, age_seconds=5.0), now=second)
        corrections.drop_drained(now=second)
        corrections.add("org", Adjustment(one, -1, age_seconds=float(seconds)), now=second)
    assert len(corrections) == seconds - 5
    corrections.drop_drained(now=1_900)
    assert (corrections.batch(), len(corrections)) == (None, 0)


def test_many_sums_are_looked_at_in_parts() -> None:
    """A worker drops drained ones four times a second, and requests wait meanwhile."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    for number in range(MAX_RELEASES):
        corrections.add("org", Adjustment(SLOTS, 0, member=f"r{number}"), now=0.0)
    for number in range(100):
        one = replace(SLIDING, id=f"sliding-{number}")
        corrections.add(f"org-{number % 2}", Adjustment(one, -1), now=0.0)
    calls = python_calls(lambda: corrections.drop_drained(now=60.0))
    assert calls < MAX_RELEASES / 10
    for _ in range(ROUNDS):
        corrections.drop_drained(now=60.0)
    assert len(corrections) == MAX_RELEASES


def test_what_was_used_and_what_a_period_gets_back_waits_however_long() -> None:
    """Only units that go back to a sliding limit are worth less with time."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    for change in (new(5), Adjustment(SLIDING, 3), of_today(-7, 0.0)):
        corrections.add("org", change, now=0.0)
    corrections.add("org", Adjustment(SLOTS, 0, member="r"), now=0.0)
    corrections.drop_drained(now=10_000.0)
    assert [units for units, _ in sent(corrections, now=10_000.0)] == [5, 3, -7, 0]


def test_a_call_takes_so_many_of_one_organization() -> None:
    """Their keys are on one node of a cluster."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    for number in range(MAX_BATCH + 1):
        corrections.add("org", Adjustment(SLOTS, 0, member=f"r{number}"), now=1.0)
    corrections.add("other", Adjustment(SLOTS, 0, member="r"), now=1.0)
    sizes = []
    while (batch := corrections.batch()) is not None:
        sizes.append((batch.scope, len(batch.sums)))
        corrections.acknowledge()
    assert sizes == [("org", MAX_BATCH), ("org", 1), ("other", 1)]


def test_slots_that_wait_to_be_freed_are_bounded() -> None:
    """In a long outage the oldest are left to their expiry; sums of units are kept."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    corrections.add("org", new(5), now=1.0)
    for number in range(MAX_RELEASES + 10):
        corrections.add("org", Adjustment(SLOTS, 0, member=f"r{number}"), now=1.0)
    assert len(corrections) == MAX_RELEASES + 1
    assert sent(corrections, now=1.0)[0][0] == 5


def waiting(corrections: Adjustments) -> list[tuple[int, float]]:
    """Return what waits of the calendar limit: units, and seconds after midnight."""
    batch = corrections.batch()
    changes = () if batch is None else batch.changes(now=1.0)
    return [(change.amount, change.taken_at - TODAY) for change in changes]


def test_what_is_given_back_is_a_sum_for_each_second_it_was_taken_in() -> None:
    """Each as old as the oldest in it. What was used beyond it is one sum."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    for units, at in ((-5, 70.9), (-1, 10.0), (-2, 70.5), (3, 70.0), (4, 500.0)):
        corrections.add("org", of_today(units, at), now=1.0)
    assert waiting(corrections) == [(-7, 70.5), (-1, 10.0), (7, 70.0)]


def test_what_is_given_back_of_what_nobody_has_counted_is_less_of_it() -> None:
    """Not what was taken before: that is somebody else's. And never more than there is."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    for units, at in ((50, 20.0), (30, 30.0)):
        corrections.add("org", of_today(units, at, is_new=True), now=1.0)
    for units, at in ((-7, 19.0), (-60, 20.0), (-25, 40.0)):
        corrections.add("org", of_today(units, at), now=1.0)
    assert waiting(corrections) == [(0, 20.0), (-7, 19.0), (-5, 40.0)]


taken = st.tuples(st.integers(-100, -1), st.floats(0, 60))


@given(st.lists(taken, max_size=50), st.integers(0, 70))
def test_a_count_gets_back_what_was_taken_since_it_was_begun(
    ends: list[tuple[int, float]], begun: int
) -> None:
    """All of it, and nothing of what was taken before: counts are begun with a second."""
    corrections = Adjustments(SharingWorker("w", WORKERS))
    for units, at in ends:
        corrections.add("org", of_today(units, at), now=1.0)
    begun += TODAY
    counted = sum(units for units, at in waiting(corrections) if at + TODAY >= begun)
    assert counted == sum(units for units, at in ends if at + TODAY >= begun)
