from __future__ import annotations

import pytest

from sidecar.guardrails.remote.resilience import (
    Breaker,
    BreakerPermit,
    BreakerScope,
    BreakerState,
)

CLOSED, HALF_OPEN, OPEN = BreakerState.CLOSED, BreakerState.HALF_OPEN, BreakerState.OPEN


def admitted(breaker: Breaker, now: float, organization: str = "a") -> BreakerPermit:
    admission = breaker.admit(organization, now)
    assert admission is not None
    return admission


def fail(breaker: Breaker, now: float, *organizations: str) -> None:
    for organization in organizations:
        breaker.failed(admitted(breaker, now, organization), now)


def states(breaker: Breaker, now: float) -> tuple[BreakerState, BreakerState]:
    """Return the state for all organizations and that for one."""
    return breaker.state(now, BreakerScope.ALL), breaker.state(now, BreakerScope.ORGANIZATION)


def open_breaker(*organizations: str) -> Breaker:
    """Return one that two failures at 0 s opened, for 10 s."""
    breaker = Breaker(failures=2, open_seconds=10)
    fail(breaker, 0, *organizations)
    return breaker


# Failures of one organization open it for that one, failures of two for all.
ROWS = pytest.mark.parametrize("row", [("a", "a"), ("b", "a")], ids=["one", "all"])


@ROWS
def test_failures_in_a_row_open_it_and_a_success_between_them_does_not(
    row: tuple[str, str],
) -> None:
    """The limit counts from the last answer."""
    breaker = open_breaker(row[0])
    breaker.succeeded(admitted(breaker, 1))
    fail(breaker, 2, row[0])
    assert states(breaker, 2) == (CLOSED, CLOSED)
    fail(breaker, 3, row[1])
    assert (max(states(breaker, 3)), breaker.admit("a", 12.9)) == (OPEN, None)


@ROWS
def test_a_success_of_the_one_trial_closes_it(row: tuple[str, str]) -> None:
    """The requests during the trial do not pass; those after it do."""
    breaker = open_breaker(*row)
    assert max(states(breaker, 10)) is HALF_OPEN
    trial = admitted(breaker, 10)
    assert (trial.is_probe, breaker.admit("a", 10)) == (True, None)
    breaker.succeeded(trial)
    assert states(breaker, 10) == (CLOSED, CLOSED)
    assert not admitted(breaker, 10).is_probe


@ROWS
def test_a_failed_trial_opens_it_again_at_once(row: tuple[str, str]) -> None:
    """Its pause begins anew, for the organization of the trial."""
    breaker = open_breaker(*row)
    breaker.failed(admitted(breaker, 10), 11)
    assert (max(states(breaker, 20.9)), breaker.admit("a", 20.9)) == (OPEN, None)
    assert admitted(breaker, 21).is_probe


@ROWS
def test_an_abandoned_trial_makes_room_for_another(row: tuple[str, str]) -> None:
    """Else the server would never be asked again."""
    breaker = open_breaker(*row)
    breaker.abandoned(admitted(breaker, 10))
    assert admitted(breaker, 10).is_probe


def test_an_abandoned_request_from_before_is_not_the_trial() -> None:
    """It was admitted while the breaker was closed, and its client goes away during the trial."""
    breaker = Breaker(failures=1, open_seconds=10)
    late = admitted(breaker, 0)
    fail(breaker, 0, "a")
    assert admitted(breaker, 10).is_probe
    breaker.abandoned(late)
    assert breaker.admit("a", 10) is None


def test_a_failure_counts_whatever_its_order_among_requests_under_way() -> None:
    """Requests end in another order than they began."""
    breaker = Breaker(failures=1, open_seconds=10)
    first, second = admitted(breaker, 0), admitted(breaker, 0)
    breaker.succeeded(first)
    breaker.failed(second, 1)
    assert states(breaker, 1) == (CLOSED, OPEN)


@pytest.mark.parametrize("late_succeeds", [True, False])
def test_a_request_from_before_it_opened_says_nothing(*, late_succeeds: bool) -> None:
    """Its late success does not close it, and its late failure does not lengthen the pause."""
    breaker = Breaker(failures=1, open_seconds=10)
    late = admitted(breaker, 0)
    fail(breaker, 0, "a")
    if late_succeeds:
        breaker.succeeded(late)
    else:
        breaker.failed(late, 9)
    assert (states(breaker, 9), states(breaker, 10)) == ((CLOSED, OPEN), (CLOSED, HALF_OPEN))


def test_failures_of_one_organization_open_it_for_that_one() -> None:
    """The others go on as if nothing had happened, also while that one's probe is under way."""
    breaker = open_breaker("a", "a")
    assert (states(breaker, 0), breaker.admit("a", 0)) == ((CLOSED, OPEN), None)
    assert not admitted(breaker, 0, "b").is_probe
    trial = admitted(breaker, 10)
    breaker.succeeded(admitted(breaker, 10, "b"))
    assert (trial.is_probe, breaker.admit("a", 10)) == (True, None)
    breaker.failed(trial, 10)
    assert (breaker.admit("a", 19), admitted(breaker, 19, "b").is_probe) == (None, False)


def test_failures_of_two_organizations_in_a_row_open_it_for_all() -> None:
    """Then the server is at fault, not the texts of one of them."""
    breaker = open_breaker("a", "b")
    assert (states(breaker, 0), breaker.admit("c", 0)) == ((OPEN, CLOSED), None)


def test_failures_of_a_second_organization_while_it_is_open_for_one_open_it_for_all() -> None:
    """Two organizations fail at the same time, one after the other."""
    breaker = open_breaker("a", "a")
    fail(breaker, 9, "b", "b")
    assert (states(breaker, 9), breaker.admit("c", 9)) == ((OPEN, CLOSED), None)


def test_an_opening_whose_pause_is_over_is_replaced_by_that_of_another_organization() -> None:
    """The failures of long ago are no sign that the server is at fault now."""
    breaker = open_breaker("a", "a")
    fail(breaker, 10, "b", "b")
    assert (states(breaker, 10), breaker.admit("b", 10)) == ((CLOSED, OPEN), None)
    assert not admitted(breaker, 10, "a").is_probe


def test_one_organization_does_not_keep_it_open_for_all_by_failed_probes() -> None:
    """Its probe opens it for that one alone, and another organization probes the server next."""
    breaker = open_breaker("a", "b")
    breaker.failed(admitted(breaker, 10, "a"), 11)
    assert (states(breaker, 11), breaker.admit("a", 11)) == ((HALF_OPEN, OPEN), None)
    trial = admitted(breaker, 11, "b")
    assert (trial.is_probe, breaker.admit("c", 11)) == (True, None)
    breaker.succeeded(trial)
    assert (states(breaker, 11), breaker.admit("a", 11)) == ((CLOSED, OPEN), None)
    assert not admitted(breaker, 11, "c").is_probe


def test_failed_probes_of_two_organizations_open_it_for_all_again() -> None:
    """A server that is down is tried by two requests after each pause."""
    breaker = open_breaker("a", "b")
    fail(breaker, 10, "a", "b")
    assert (states(breaker, 10), breaker.admit("c", 19)) == ((OPEN, CLOSED), None)
