from __future__ import annotations

import pytest

from sidecar.guardrails.remote.resilience import Breaker, BreakerPermit, BreakerState


def admitted(breaker: Breaker, now: float) -> BreakerPermit:
    admission = breaker.admit(now)
    assert admission is not None
    return admission


def open_breaker() -> Breaker:
    """Return one that two failures at 0 s opened, for 10 s."""
    breaker = Breaker(failures=2, open_seconds=10)
    for _ in range(2):
        breaker.failed(admitted(breaker, 0), 0)
    return breaker


def test_failures_in_a_row_open_it_and_a_success_between_them_does_not() -> None:
    """The limit counts from the last answer."""
    breaker = Breaker(failures=2, open_seconds=10)
    breaker.failed(admitted(breaker, 0), 0)
    breaker.succeeded(admitted(breaker, 1))
    breaker.failed(admitted(breaker, 2), 2)
    assert breaker.state(2) is BreakerState.CLOSED
    breaker.failed(admitted(breaker, 3), 3)
    assert (breaker.state(3), breaker.admit(12.9)) == (BreakerState.OPEN, None)


def test_after_the_pause_one_request_tries_and_closes_it() -> None:
    """Others are refused meanwhile, and asked again once it has answered."""
    breaker = open_breaker()
    assert breaker.state(10) is BreakerState.HALF_OPEN
    trial = admitted(breaker, 10)
    assert (trial.is_probe, breaker.admit(10)) == (True, None)
    breaker.succeeded(trial)
    assert breaker.state(10) is BreakerState.CLOSED
    assert not admitted(breaker, 10).is_probe


def test_a_trial_that_fails_opens_it_for_another_pause() -> None:
    """One failure is enough here."""
    breaker = open_breaker()
    breaker.failed(admitted(breaker, 10), 11)
    assert (breaker.state(20.9), breaker.admit(20.9)) == (BreakerState.OPEN, None)
    assert admitted(breaker, 21).is_probe


def test_a_trial_nobody_waited_for_leaves_room_for_another() -> None:
    """A client that goes away must not keep a server from being tried for ever."""
    breaker = open_breaker()
    breaker.abandoned(admitted(breaker, 10))
    assert admitted(breaker, 10).is_probe


def test_a_late_request_does_not_make_room_for_a_second_trial() -> None:
    """It was admitted while the breaker was closed, and its client goes away during the trial."""
    breaker = Breaker(failures=1, open_seconds=10)
    late = admitted(breaker, 0)
    breaker.failed(admitted(breaker, 0), 0)
    assert admitted(breaker, 10).is_probe
    breaker.abandoned(late)
    assert breaker.admit(10) is None


def test_failures_count_beside_a_request_that_succeeds_at_the_same_time() -> None:
    """The answer begins the count anew, and says nothing about requests that are under way."""
    breaker = Breaker(failures=1, open_seconds=10)
    first, second = admitted(breaker, 0), admitted(breaker, 0)
    breaker.succeeded(first)
    breaker.failed(second, 1)
    assert breaker.state(1) is BreakerState.OPEN


@pytest.mark.parametrize("ends_well", [True, False])
def test_what_was_asked_before_a_change_says_nothing_after_it(*, ends_well: bool) -> None:
    """A request admitted while it was closed neither closes it nor prolongs the pause."""
    breaker = Breaker(failures=1, open_seconds=10)
    late = admitted(breaker, 0)
    breaker.failed(admitted(breaker, 0), 0)
    if ends_well:
        breaker.succeeded(late)
    else:
        breaker.failed(late, 9)
    assert (breaker.state(9), breaker.state(10)) == (BreakerState.OPEN, BreakerState.HALF_OPEN)
