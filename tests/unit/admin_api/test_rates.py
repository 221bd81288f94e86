from __future__ import annotations

import pytest

from sidecar.admin_api import rates
from sidecar.admin_api.rates import RateLimiter


def test_a_name_may_send_a_burst_and_then_waits() -> None:
    """Another name is not slowed by it."""
    limiter = RateLimiter(per_second=2, burst=3)

    waits = [limiter.wait_seconds("alice", now=10.0) for _ in range(4)]

    assert waits == [0, 0, 0, pytest.approx(0.5)]
    assert limiter.wait_seconds("bob", now=10.0) == 0
    assert limiter.wait_seconds("alice", now=10.5) == 0


def test_a_clock_that_goes_back_gives_nothing_away() -> None:
    """Neither a fault nor more requests."""
    limiter = RateLimiter(per_second=1, burst=1)

    assert limiter.wait_seconds("alice", now=100.0) == 0
    assert limiter.wait_seconds("alice", now=50.0) > 0


def test_buckets_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """An attacker with many addresses takes no memory; the longest unused is forgotten."""
    monkeypatch.setattr(rates, "MAX_BUCKETS", 2)
    limiter = RateLimiter(per_second=0.001, burst=1)

    for name in ("alice", "bob", "carol"):
        assert limiter.wait_seconds(name, now=0.0) == 0

    assert limiter.wait_seconds("carol", now=0.0) > 0
    assert limiter.wait_seconds("alice", now=0.0) == 0


def test_a_request_that_is_given_back_was_not_sent() -> None:
    """It never adds to the burst; a rate below one still lets single requests pass."""
    limiter = RateLimiter(per_second=0.1, burst=0.5)

    limiter.give_back("alice")
    assert limiter.wait_seconds("alice", now=0.0) == 0
    limiter.give_back("alice")
    limiter.give_back("alice")
    assert limiter.wait_seconds("alice", now=0.0) == 0
    assert limiter.wait_seconds("alice", now=0.0) == pytest.approx(10)
