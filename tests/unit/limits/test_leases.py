from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sidecar.limits.leases import LARGEST_SHARE, SHORT_SECONDS, TTL_SECONDS, Lease

AMOUNT = 6_400


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["take", "fill", "expire", "put_back"]),
            st.integers(0, 50),
            st.floats(0, 0.6),
        ),
        max_size=60,
    )
)
def test_a_lease_gives_out_no_more_than_it_was_filled_with(
    steps: list[tuple[str, int, float]],
) -> None:
    """Whatever is given out, given up or left adds up to what was taken ahead."""
    lease, now = Lease(AMOUNT), 0.0
    filled = given_out = given_up = 0
    for step, units, passed in steps:
        now += passed
        match step:
            case "take":
                given_out += units if lease.take(units, now=now) else 0
            case "fill":
                lease.filled(units, asked=units, now=now)
                filled += units
            case "expire":
                given_up += lease.expired(now=now)
            case _:
                back = min(units, given_out)
                lease.put_back(back)
                given_out -= back
        assert filled == given_out + given_up + lease.left
        assert lease.left >= 0


def test_what_was_not_used_in_time_is_not_given_out() -> None:
    """Another worker may need it."""
    lease = Lease(AMOUNT)
    lease.filled(10, asked=10, now=0.0)
    assert lease.take(1, now=TTL_SECONDS - 0.01)
    assert not lease.take(1, now=TTL_SECONDS)
    assert lease.expired(now=TTL_SECONDS) == 9


def test_a_lease_is_as_large_as_demand_wants_and_no_larger_than_its_share() -> None:
    """A busy key takes more ahead than a quiet one."""
    wanted = []
    for units in (0, 1, 40, 4_000):
        lease = Lease(AMOUNT)
        for tick in range(100):
            lease.take(units, now=1 + tick / 100)
        wanted.append(lease.wanted(now=2.0))
    assert wanted == [0, 22, AMOUNT // LARGEST_SHARE, AMOUNT // LARGEST_SHARE]


def test_a_limit_that_runs_short_is_not_asked_ahead_for_a_while() -> None:
    """Near the limit every request asks for itself, which is exact."""
    lease = Lease(AMOUNT)
    for tick in range(100):
        lease.take(40, now=1 + tick / 100)
    assert lease.wanted(now=2.0) > 0
    lease.filled(0, asked=100, now=2.0)
    assert lease.wanted(now=2.0 + SHORT_SECONDS / 2) == 0
    assert lease.wanted(now=2.0 + SHORT_SECONDS) > 0


def test_what_costs_nothing_asks_once_for_as_long_as_units_would_last() -> None:
    """A model without a price under a budget would make every request ask, and wait."""
    lease = Lease(AMOUNT)
    assert not lease.take(0, now=5.0, period_start=60)
    lease.filled(0, asked=0, now=5.0, period_start=60)
    assert lease.take(0, now=5.0, period_start=60)
    assert not lease.take(1, now=5.0, period_start=60)
    assert lease.take(0, now=5.9, period_start=60)
    assert not lease.take(0, now=5.9, period_start=120)
    assert not lease.take(0, now=5.0 + TTL_SECONDS, period_start=60)


def test_units_of_an_earlier_period_are_given_up_when_the_next_one_begins() -> None:
    """Also where nothing is taken ahead of the new one."""
    lease = Lease(AMOUNT)
    lease.filled(10, asked=10, now=0.0, period_start=60)
    assert lease.filled(0, asked=0, now=0.5, period_start=120) == 10
    assert lease.left == 0
