from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from sidecar.admin_api import rates
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.rates import RateLimiter, Rates
from sidecar.settings.administration import AdminSettings


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


def test_the_longest_unused_bucket_is_dropped_beyond_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
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


async def test_reports_leave_turns_for_changes_of_the_same_person_and_of_others() -> None:
    """However many reports are asked for, by one person and by several."""
    limits = Rates.of(AdminSettings(pool_size=10))
    ended, begun = asyncio.Event(), Counter[str]()

    async def report(person: str) -> None:
        async with limits.turn(person, is_report=True):
            begun[person] += 1
            await ended.wait()

    async with asyncio.TaskGroup() as tasks:
        for person in ("alice", "bob"):
            for _ in range(20):
                tasks.create_task(report(person))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        reports = dict(begun)
        for person in ("alice", "bob", "carol"):
            async with limits.turn(person, is_report=False):
                pass
        ended.set()

    assert reports == {"alice": 3, "bob": 1}
    assert begun == {"alice": 20, "bob": 20}


async def test_a_report_whose_turn_does_not_come_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And takes no turn from those behind it."""
    monkeypatch.setattr(rates, "REPORT_SECONDS", 0.01)
    limits = Rates.of(AdminSettings(pool_size=2))

    async with limits.turn("alice", is_report=True):
        with pytest.raises(Problem) as refused:
            async with limits.turn("bob", is_report=True):
                pass

    assert (refused.value.status, refused.value.headers) == (503, {"retry-after": "5"})
    async with limits.turn("bob", is_report=True):
        pass
