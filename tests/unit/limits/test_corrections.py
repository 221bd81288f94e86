from __future__ import annotations

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.corrections import MAX_BATCH, MAX_RELEASES, Corrections
from sidecar.limits.ports import Change

WORKERS = 4
SLIDING = Limit(
    id="sliding", level=Level.KEY, measure=Measure.TOKENS, window=Window.MINUTE, amount=60
)
SLOTS = Limit(
    id="slots", level=Level.KEY, measure=Measure.CONCURRENT, window=Window.ONCE, amount=10
)


def new(units: int) -> Change:
    """Return units of the sliding limit that nobody has counted."""
    return Change(SLIDING, units, is_new=True)


def sent(corrections: Corrections, *, now: float) -> list[tuple[int, float]]:
    """Return what the next batch says: units and age."""
    batch = corrections.batch()
    assert batch is not None
    return [(change.amount, change.age_seconds) for change in batch.changes(now=now)]


def test_a_batch_is_the_same_until_it_is_acknowledged() -> None:
    """But for its age: time goes on while nobody answers."""
    corrections = Corrections(shares=WORKERS)
    corrections.add("org", new(5), now=10.0)
    first = corrections.batch()
    corrections.add("org", new(7), now=11.0)
    assert corrections.batch() is first
    assert sent(corrections, now=12.0) == [(5, 2.0)]
    assert corrections.has_debts
    corrections.acknowledge()
    assert sent(corrections, now=12.0) == [(7, 1.0)]
    corrections.acknowledge()
    assert (corrections.batch(), corrections.has_debts, len(corrections)) == (None, False, 0)


def test_units_add_up_at_the_pace_of_a_share() -> None:
    """A quarter of one a second: two drain in eight seconds, and only then time is lost."""
    corrections = Corrections(shares=WORKERS)
    corrections.add("org", new(2), now=10.0)
    corrections.add("org", new(1), now=14.0)
    assert sent(corrections, now=20.0) == [(3, 10.0)]
    corrections.acknowledge()
    corrections.add("org", new(2), now=10.0)
    corrections.add("org", new(1), now=20.0)
    assert sent(corrections, now=20.0) == [(3, 8.0)]


def test_what_is_new_comes_before_what_is_too_much_of_it() -> None:
    """They are not one sum: what is given back has no age."""
    corrections = Corrections(shares=WORKERS)
    corrections.add("org", Change(SLIDING, -3), now=10.0)
    corrections.add("org", new(4), now=10.0)
    assert sent(corrections, now=11.0) == [(4, 1.0), (-3, 0.0)]


def test_a_call_takes_so_many_of_one_organization() -> None:
    """Their keys are on one node of a cluster."""
    corrections = Corrections(shares=WORKERS)
    for number in range(MAX_BATCH + 1):
        corrections.add("org", Change(SLOTS, 0, member=f"r{number}"), now=1.0)
    corrections.add("other", Change(SLOTS, 0, member="r"), now=1.0)
    sizes = []
    while (batch := corrections.batch()) is not None:
        sizes.append((batch.scope, len(batch.sums)))
        corrections.acknowledge()
    assert sizes == [("org", MAX_BATCH), ("org", 1), ("other", 1)]


def test_slots_that_wait_to_be_freed_are_bounded() -> None:
    """In a long outage the oldest are left to their expiry; sums of units are kept."""
    corrections = Corrections(shares=WORKERS)
    corrections.add("org", new(5), now=1.0)
    for number in range(MAX_RELEASES + 10):
        corrections.add("org", Change(SLOTS, 0, member=f"r{number}"), now=1.0)
    assert len(corrections) == MAX_RELEASES + 1
    assert sent(corrections, now=1.0)[0][0] == 5
