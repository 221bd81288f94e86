"""Workers that share limits while calls of the counts are lost; on a clock of the test's."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.principal import Principal
from sidecar.domain.report import Clocks
from sidecar.limits.leases import LARGEST_SHARE
from sidecar.limits.limit_check import RequestCost, limit_checks
from sidecar.limits.limiter import (
    SLOT_DELAY_SECONDS,
    TEND_SECONDS,
    Granted,
    LimitDecision,
    Limited,
    Limiter,
)
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.settlement import FinishedRequest, adjustments_of
from sidecar.limits.shared_counters import AWAY_SECONDS, MAX_ENDED, SharedCounts
from sidecar.limits.store import Adjustment, LimitsUnavailableError
from tests.support.counted_limits import CountedLimits, Fault, Server

WORKERS = 4
PRINCIPAL = Principal("key_1", "team_1", "search", "org_1", "acme")
MIDNIGHT = 1_700_006_400.0
NOON = MIDNIGHT + 43_200


def limit(measure: Measure = Measure.REQUESTS, **fields: object) -> Limit:
    """Return a key's limit: 1,200 a minute, 40 at once, unless told otherwise."""
    defaults: dict[str, object] = {
        "id": "lim_1", "level": Level.KEY, "window": Window.MINUTE, "amount": 1_200, "burst": 40,
    }  # fmt: skip
    return Limit(measure=measure, **{**defaults, **fields})  # type: ignore[arg-type]


def budget(amount: int) -> Limit:
    """Return a key's budget for the day; below 128 nothing of it is ever taken ahead."""
    return limit(Measure.COST, window=Window.DAY, amount=amount, burst=None)


@dataclass
class Fleet:
    """So many workers on one memory; `faults` decides what becomes of a worker's call."""

    now: float = NOON
    faults: Callable[[int], Fault] = lambda _: Fault.NONE
    recorded: int = 0
    has_records: bool = True
    wall_is_off: float = 0.0
    waited: int = 0
    server: Server = field(init=False)
    workers: list[Limiter] = field(init=False)

    def __post_init__(self) -> None:
        self.server = Server(lambda: self.now)
        self.workers = [self.worker(number) for number in range(WORKERS)]

    def worker(self, number: int) -> Limiter:
        """Return one worker's limits."""
        store = CountedLimits(self.server, lambda: self.faults(number))
        clock = lambda: self.now  # noqa: E731
        shared = SharedCounts(
            store, worker=SharingWorker(f"w{number}", WORKERS), calls=8, clock=clock
        )
        clocks = Clocks(clock, lambda: self.now + self.wall_is_off)
        return Limiter(shared, self, clocks=clocks)

    async def used(self, limit: Limit, *, subject: str, start: int) -> int:
        """Tell what the records say."""
        del limit, subject, start
        if not self.has_records:
            raise LimitsUnavailableError("down")
        return self.recorded

    async def take(
        self, number: int, *limits: Limit, cost: int = 0, member: str = "r"
    ) -> LimitDecision:
        """Ask a worker."""
        asked = RequestCost(operation="chat", model="gpt-5", cost=cost)
        found = limit_checks(limits, asked, now=self.now + self.wall_is_off)
        assert isinstance(found, tuple)
        outcome = self.workers[number].take(PRINCIPAL, found, member=member)
        if not isinstance(outcome, Awaitable):
            return outcome
        self.waited += 1
        return await outcome

    async def hammer(self, one: Limit, *, seconds: float) -> int:
        """Have every worker ask five times a step, more than there is; count what is granted."""
        granted, tended_at, end = 0, self.now, self.now + seconds
        while self.now < end:
            for number in range(WORKERS):
                for _ in range(5):
                    granted += isinstance(await self.take(number, one), Granted)
            self.now += 0.04
            if self.now - tended_at >= TEND_SECONDS:
                tended_at = self.now
                await self.tend()
        return granted

    def end(self, number: int, one: Limit, *, cost: int, used: int, at: float) -> None:
        """Tell a worker of the end of a request that was judged at *at*."""
        demand = RequestCost(operation="chat", model="gpt-5", cost=cost)
        ended = FinishedRequest(demand, "r", at, cost=used)
        changes = adjustments_of([one], ended, now=self.now + self.wall_is_off)
        self.workers[number].settle(PRINCIPAL.organization_id, changes)

    async def tend(self) -> None:
        """Let every worker send what waits."""
        for worker in self.workers:
            await worker.tend()
            await asyncio.sleep(0)  # refills run beside


def most(one: Limit, seconds: float, *, bursts: int = 1) -> float:
    """Return what decision 22 says can get through at most."""
    leases = WORKERS * (one.amount // LARGEST_SHARE)
    return one.amount * seconds / 60 + bursts * one.at_once + leases


@pytest.mark.parametrize("answers", [0.9, 0.5], ids=["few", "half"])
@pytest.mark.parametrize(
    "fault", [Fault.LOST, Fault.UNHEARD], ids=lambda fault: fault.name.lower()
)
async def test_calls_that_are_lost_let_nothing_more_through(fault: Fault, answers: float) -> None:
    """A busy machine answers late now and then: that is not worth another burst each time."""
    chance, one = random.Random(1), limit()  # noqa: S311
    fleet = Fleet(faults=lambda _: Fault.NONE if chance.random() < answers else fault)
    granted = await fleet.hammer(one, seconds=60)
    # What shares have let through in the end and nobody has counted yet is on top.
    uncounted = one.amount / 60 * 2 * TEND_SECONDS
    assert 0.99 * one.amount <= granted <= most(one, 60) + uncounted


async def test_a_worker_that_stops_asks_again_if_valkey_is_late() -> None:
    """Once would not do: what it holds would stay taken until the end of the period."""
    fleet, one = Fleet(), limit(window=Window.DAY, amount=10**6, burst=None)
    granted = await fleet.hammer(one, seconds=5.1)
    assert fleet.server.periods[one.id][1] > granted
    await fleet.tend()
    faults = iter([Fault.LOST, Fault.UNHEARD, Fault.LOST])
    fleet.faults = lambda _: next(faults, Fault.NONE)
    for worker in fleet.workers:
        await worker.aclose()
    assert [worker.waiting for worker in fleet.workers] == [0] * WORKERS
    assert fleet.server.periods[one.id] == (MIDNIGHT, granted)


async def test_a_request_without_a_claim_is_settled_all_the_same() -> None:
    """In a long outage the oldest are settled without one, and each once."""
    fleet, one = Fleet(), budget(10**9)
    await fleet.take(0, one)
    fleet.faults = lambda _: Fault.LOST
    for number in range(MAX_ENDED + 5):
        change = Adjustment(one, 1, period_start=int(MIDNIGHT), taken_at=fleet.now)
        for _ in range(2 if number > 5 else 1):
            fleet.workers[0].settle("org_1", [change], name=f"r{number}")
    await fleet.tend()
    assert fleet.workers[0].waiting == MAX_ENDED + 1
    assert sum(c.amount for c in fleet.workers[0].uncounted(counted=0)) == MAX_ENDED + 5
    fleet.faults = lambda _: Fault.NONE
    fleet.now += AWAY_SECONDS
    await fleet.tend()
    assert fleet.server.periods[one.id] == (MIDNIGHT, MAX_ENDED + 5)


async def test_what_a_worker_lets_through_by_itself_is_paid_back() -> None:
    """Cut off for 20 of 60 seconds, while the others go on with all of it."""
    one, fleet = limit(), Fleet()
    granted = await fleet.hammer(one, seconds=20)
    fleet.faults = lambda number: Fault.LOST if number == 0 else Fault.NONE
    alone = await fleet.hammer(one, seconds=20)
    # Its share on top of the limit, and not a burst more.
    assert alone <= one.amount / 60 * 20 * (1 + 1 / WORKERS) + WORKERS * (
        one.amount // LARGEST_SHARE
    )
    fleet.faults = lambda _: Fault.NONE
    granted += alone + await fleet.hammer(one, seconds=20)
    assert 0.99 * one.amount <= granted <= most(one, 60)


async def test_an_outage_for_all_is_no_second_burst() -> None:
    """Shares begin with what was left, not with all, and are counted as of when they were used."""
    one, fleet = limit(), Fleet()
    granted = await fleet.hammer(one, seconds=20)
    fleet.faults = lambda _: Fault.LOST
    granted += await fleet.hammer(one, seconds=20)
    assert all(worker.is_local for worker in fleet.workers)
    fleet.faults = lambda _: Fault.NONE
    granted += await fleet.hammer(one, seconds=20)
    assert not any(worker.is_local for worker in fleet.workers)
    assert 0.99 * one.amount <= granted <= most(one, 60)


async def test_a_memory_that_is_lost_is_one_burst_more() -> None:
    """Killed for a second, then started again without anything: a sliding limit begins anew."""
    one, fleet = limit(), Fleet()
    granted = await fleet.hammer(one, seconds=30)
    fleet.faults = lambda _: Fault.LOST
    granted += await fleet.hammer(one, seconds=1)
    fleet.server.forget()
    fleet.faults = lambda _: Fault.NONE
    granted += await fleet.hammer(one, seconds=29)
    assert 0.99 * one.amount <= granted <= most(one, 60, bursts=2)


async def spent(fleet: Fleet, one: Limit, cost: int) -> int:
    """Have the workers spend in turn until none of them lets anything through; return how much."""
    total, refused = 0, 0
    while refused < WORKERS:
        for number in range(WORKERS):
            is_granted = isinstance(await fleet.take(number, one, cost=cost), Granted)
            total += cost * is_granted
            refused = 0 if is_granted else refused + 1
    return total


async def test_requests_that_cost_nothing_do_not_ask_one_by_one() -> None:
    """As those of a model without a price under a budget: each would wait for a call."""
    one, fleet = budget(120), Fleet()
    calls = Counter[int]()
    fleet.faults = lambda number: (calls.update([number]), Fault.NONE)[1]
    for _ in range(50):
        assert isinstance(await fleet.take(0, one), Granted)
    # Asked, told what was used, asked again.
    assert calls[0] == 3
    await fleet.take(1, one, cost=120)
    await fleet.take(1, one, cost=1)
    fleet.now += 1
    assert isinstance(await fleet.take(0, one), Granted)
    assert isinstance(await fleet.take(0, one, cost=1), Limited)


async def test_a_budget_does_not_begin_anew_because_nobody_answers() -> None:
    """Nine tenths are used: of the rest every worker has its share, not of the whole."""
    one, fleet = budget(120), Fleet()
    for number in range(WORKERS):
        for _ in range(9):
            assert isinstance(await fleet.take(number, one, cost=3), Granted)
    fleet.now += 1
    for number in range(WORKERS):
        await fleet.take(number, one)
    fleet.faults = lambda _: Fault.LOST
    fleet.now += 1
    assert await spent(fleet, one, 1) == 12
    fleet.faults = lambda _: Fault.NONE
    fleet.now += 1
    await fleet.tend()
    assert fleet.server.periods[one.id][1] == 120
    assert await spent(fleet, one, 1) == 0


@pytest.mark.parametrize(("has_records", "left"), [(True, 20), (False, 120)])
async def test_a_worker_that_has_never_heard_of_a_budget_asks_the_records(
    *, has_records: bool, left: int
) -> None:
    """Only where those are away as well does it take its share of the whole."""
    fleet = Fleet(faults=lambda _: Fault.LOST, recorded=100, has_records=has_records)
    assert await spent(fleet, budget(120), 5) == left


async def with_a_lost_answer(one: Limit) -> Fleet:
    """Take 10 of a hundred, and 90 of which the worker does not hear."""
    fleet = Fleet()
    await fleet.take(0, one, cost=10)
    fleet.faults = lambda _: Fault.UNHEARD
    fleet.now += 1
    assert isinstance(await fleet.take(0, one, cost=90), Limited)
    assert fleet.server.periods[one.id][1] == 100
    return fleet


async def test_a_take_whose_answer_was_lost_is_made_void() -> None:
    """Nothing was let through for it, so nothing is charged for it; not even once."""
    one = budget(100)
    fleet = await with_a_lost_answer(one)
    await fleet.tend()  # done, and not heard of either
    fleet.faults = lambda _: Fault.NONE
    await fleet.tend()
    assert fleet.server.periods[one.id][1] == 10


async def test_a_take_under_whose_name_somebody_else_has_written_stays_taken() -> None:
    """Another program, with numbers of its own: nothing is given back, and the worker goes on."""
    one = budget(100)
    fleet = await with_a_lost_answer(one)
    fleet.server.names |= dict.fromkeys(fleet.server.names, (1, 2, 3))
    fleet.faults = lambda _: Fault.NONE
    await fleet.tend()
    assert fleet.server.periods[one.id][1] == 100


async def test_a_request_that_is_given_up_while_it_waits_holds_no_slot() -> None:
    """A client that opens thousands of streams and aborts them."""
    one = limit(Measure.CONCURRENT, window=Window.ONCE, amount=5, burst=None)
    fleet = Fleet(faults=lambda _: Fault.UNHEARD)
    fleet.workers[0] = fleet.worker(0)
    await fleet.take(0, one, member="stream")
    assert fleet.server.slots[one.id] == {"stream"}
    fleet.faults = lambda _: Fault.NONE
    await fleet.tend()
    assert fleet.server.slots[one.id] == set()


async def test_a_slot_is_free_at_the_end_of_its_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not when the worker tends its leases the next time: a client would meet itself."""
    monkeypatch.setattr("sidecar.limits.limiter.TEND_SECONDS", 3_600.0)
    one, fleet = limit(Measure.CONCURRENT, window=Window.ONCE, amount=1, burst=None), Fleet()
    running = asyncio.ensure_future(fleet.workers[0].run())
    await fleet.take(0, one, member="r1")
    fleet.workers[0].settle("org_1", [Adjustment(one, 0, member="r1")], name="r1")
    async with asyncio.timeout(60):
        while fleet.server.slots[one.id]:  # noqa: ASYNC110 - of the server
            await asyncio.sleep(0.01)
    running.cancel()


async def test_slots_that_end_while_valkey_is_away_do_not_keep_the_worker_away(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each call without an answer would: nobody could ask again, of other organizations either."""
    monkeypatch.setattr("sidecar.limits.limiter.TEND_SECONDS", 3_600.0)
    one, calls = limit(Measure.CONCURRENT, window=Window.ONCE, amount=5, burst=None), [0]

    def lost(_: int) -> Fault:
        calls[0] += 1
        return Fault.LOST

    fleet = Fleet()
    for member in ("r1", "r2"):
        await fleet.take(0, one, member=member)
    fleet.faults = lost
    running = asyncio.ensure_future(fleet.workers[0].run())
    await fleet.take(0, one, member="r3")
    assert calls[0] == 1
    fleet.workers[0].settle("org_1", [Adjustment(one, 0, member="r1")])
    await asyncio.sleep(5 * SLOT_DELAY_SECONDS)
    assert calls[0] == 1
    fleet.faults, fleet.now = (lambda _: Fault.NONE), fleet.now + AWAY_SECONDS
    fleet.workers[0].settle("org_1", [Adjustment(one, 0, member="r2")])
    async with asyncio.timeout(60):
        while fleet.server.slots[one.id]:  # noqa: ASYNC110 - of the server
            await asyncio.sleep(0.01)
    running.cancel()


async def test_a_timer_that_is_a_moment_early_tends_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No slot has ended: what is held ahead goes back now, and not with the next timer."""
    monkeypatch.setattr("sidecar.limits.limiter.TEND_SECONDS", 0.01)
    one, fleet = budget(1_000_000), Fleet()
    for _ in range(100):
        await fleet.take(0, one, cost=10)
        fleet.now += 0.01
        await asyncio.sleep(0)  # a refill runs beside
    assert fleet.server.periods[one.id][1] > 1_000
    fleet.now += 5
    running = asyncio.ensure_future(fleet.workers[0].run())
    async with asyncio.timeout(60):
        while fleet.server.periods[one.id][1] > 1_000:  # noqa: ASYNC110 - of the server
            await asyncio.sleep(0.01)
    running.cancel()


async def test_a_long_outage_leaves_no_more_to_send_than_may_still_be_returned() -> None:
    """Not a sum for each of its seconds: the first take would wait for hundreds of calls."""
    one, fleet = limit(Measure.COST, window=Window.MINUTE), Fleet(faults=lambda _: Fault.LOST)
    for _ in range(300):
        fleet.end(0, one, cost=9, used=1, at=fleet.now)
        fleet.now += 1
        await fleet.workers[0].tend()
    assert fleet.workers[0].waiting <= one.at_once * 60 / one.amount


async def test_an_end_that_waits_for_valkey_frees_nothing_of_others() -> None:
    """Its units have drained meanwhile, as those of a take that is made void late."""
    one, fleet = limit(Measure.COST, window=Window.MINUTE, amount=1_200, burst=1_200), Fleet()
    fault = Fault.NONE
    fleet.faults = lambda number: fault if number == 0 else Fault.NONE
    assert isinstance(await fleet.take(0, one, cost=1_000), Granted)
    fault = Fault.LOST
    fleet.workers[0].settle("org_1", [Adjustment(one, -1_000, taken_at=fleet.now)], name="r")
    await fleet.workers[0].tend()
    fleet.now += 60
    assert isinstance(await fleet.take(1, one, cost=1_100), Granted)
    fault = Fault.NONE
    await fleet.workers[0].tend()
    assert isinstance(await fleet.take(1, one, cost=200), Limited)


async def test_a_take_that_is_made_void_late_frees_nothing_of_others() -> None:
    """Its units have drained: a burst could else be had twice."""
    one, fleet = limit(Measure.COST, window=Window.MINUTE, amount=1_200, burst=1_200), Fleet()
    fault = Fault.UNHEARD
    fleet.faults = lambda number: fault if number == 0 else Fault.NONE
    await fleet.take(0, one, cost=1_000)
    fleet.now += 60
    assert isinstance(await fleet.take(1, one, cost=1_100), Granted)
    fault = Fault.NONE
    await fleet.workers[0].tend()
    assert isinstance(await fleet.take(1, one, cost=200), Limited)


async def test_a_correction_is_counted_once_however_often_it_is_sent() -> None:
    """Its answer is lost, so it is sent again."""
    one, fleet = budget(100), Fleet()
    await fleet.take(0, one, cost=100)
    lost = [Fault.UNHEARD, Fault.UNHEARD]
    fleet.faults = lambda _: lost.pop() if lost else Fault.NONE
    back = Adjustment(one, -60, period_start=int(MIDNIGHT), taken_at=fleet.now)
    fleet.workers[0].settle("org_1", [back])
    for _ in range(3):
        await fleet.tend()
    assert fleet.server.periods[one.id][1] == 40
    assert fleet.workers[0].waiting == 0


async def test_far_from_a_limit_a_lease_covers_almost_every_request() -> None:
    """Once the rate is known; a lease that runs low is refilled beside."""
    one, fleet = limit(amount=10_000_000, burst=None), Fleet()
    for number in range(2_000):
        if number == 200:
            fleet.waited = 0
        assert isinstance(await fleet.take(0, one), Granted)
        fleet.now += 1 / 100
        await asyncio.sleep(0)  # a refill runs beside
    assert fleet.waited < 1_800 / 50


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(
            limit(Measure.CONCURRENT, id="lim_2", window=Window.ONCE, amount=50, burst=None),
            id="concurrent",
        ),
        pytest.param(limit(id="lim_2", amount=100, burst=100), id="small"),
    ],
)
async def test_nothing_is_taken_ahead_beside_a_limit_that_is_asked_each_time(other: Limit) -> None:
    """No request could use it."""
    budgeted, fleet = budget(1_000_000_000), Fleet()
    for number in range(50):
        assert isinstance(await fleet.take(0, budgeted, other, cost=1_000), Granted)
        assert fleet.server.periods[budgeted.id][1] == 1_000 * (number + 1)
        fleet.now += 0.02
        fleet.server.slots.clear()


async def test_a_request_that_waits_for_an_answer_is_one_demand() -> None:
    """The lease refuses it twice, before its turn and in it, and lasts for a quarter second."""
    fleet, one = Fleet(), budget(1_000_000_000)
    for _ in range(12):  # so far apart that no lease outlives the pause
        await fleet.take(0, one, cost=1_000)
        fleet.now += 0.99
    held = sum(-change.amount for change in fleet.workers[0].uncounted(counted=0))
    assert held == pytest.approx(1_000 / 4, rel=0.02)


async def test_a_flood_at_a_limit_is_no_flood_on_the_shared_counts() -> None:
    """What was refused is refused again at once, until there may be room."""
    one, calls = limit(burst=1), [0]

    def count(_: int) -> Fault:
        calls[0] += 1
        return Fault.NONE

    fleet = Fleet(faults=count)
    outcomes = [await fleet.take(0, one) for _ in range(1_000)]
    assert sum(isinstance(outcome, Granted) for outcome in outcomes) == 1
    assert calls[0] == 2
    fleet.now += 0.05
    assert isinstance(await fleet.take(0, one), Granted)


async def test_a_limit_that_was_raised_is_asked_for_at_once() -> None:
    """Whatever was refused a moment ago."""
    fleet = Fleet()
    assert isinstance(await fleet.take(0, limit(amount=0)), Limited)
    assert isinstance(await fleet.take(0, limit()), Granted)


async def test_windows_that_overlap_all_hold() -> None:
    """The tightest one refuses, and what it refuses costs the others nothing."""
    second = limit(id="second", window=Window.SECOND, amount=10, burst=10)
    minute = limit(id="minute", amount=60, burst=25)
    day = limit(id="day", window=Window.DAY, amount=40, burst=None)
    fleet, granted = Fleet(), []
    for _ in range(4):
        outcomes = [await fleet.take(0, second, minute, day) for _ in range(50)]
        granted.append(sum(isinstance(outcome, Granted) for outcome in outcomes))
        fleet.now += 1.0
    assert granted == [10, 10, 7, 1]
    assert fleet.server.periods["day"][1] == 28
    fleet.now += 60
    outcomes = [await fleet.take(0, minute, day) for _ in range(50)]
    assert sum(isinstance(outcome, Granted) for outcome in outcomes) == 12


@pytest.mark.parametrize("step", [-86_400.0, -5.0, 5.0, 86_400.0])
async def test_a_clock_that_steps_lets_nothing_more_through(step: float) -> None:
    """Sliding limits and leases go by the monotonic clock, and the server's own."""
    one, fleet = limit(), Fleet()
    granted = await fleet.hammer(one, seconds=5)
    fleet.wall_is_off = step
    fleet.faults = lambda number: Fault.LOST if number == 0 else Fault.NONE
    granted += await fleet.hammer(one, seconds=5)
    fleet.faults = lambda _: Fault.NONE
    granted += await fleet.hammer(one, seconds=5)
    assert 0.99 * one.amount / 4 <= granted <= most(one, 15)


async def test_what_is_held_ahead_is_given_back_in_the_end() -> None:
    """A worker that is stopped in good order leaves nothing taken."""
    one, fleet = budget(1_000_000), Fleet()
    granted = 0
    for _ in range(100):
        granted += isinstance(await fleet.take(0, one, cost=10), Granted)
        fleet.now += 0.01
        await asyncio.sleep(0)
    assert fleet.server.periods[one.id][1] > granted * 10
    await fleet.workers[0].aclose()
    assert fleet.server.periods[one.id][1] == granted * 10


async def test_a_refill_that_is_under_way_in_the_end_is_given_back_too() -> None:
    """Its units would stay taken until the end of the period."""
    for requests in range(1, 60):
        one, fleet = budget(1_000_000), Fleet()
        granted = 0
        for _ in range(requests):
            await asyncio.sleep(0)
            granted += isinstance(await fleet.take(0, one, cost=10), Granted)
            fleet.now += 0.01
        await fleet.workers[0].aclose()
        for _ in range(5):
            await asyncio.sleep(0)
        assert fleet.server.periods[one.id][1] == granted * 10


async def test_units_held_for_one_day_are_not_given_out_on_the_next() -> None:
    """Nor are they given back to it."""
    one, fleet = limit(window=Window.DAY, amount=100_000, burst=None), Fleet(now=MIDNIGHT + 86_399)
    for _ in range(90):
        await fleet.take(0, one)
        fleet.now += 0.01
        await asyncio.sleep(0)
    granted = 0
    for _ in range(30):
        fleet.now += 0.01
        granted += fleet.now >= MIDNIGHT + 86_400
        await fleet.take(0, one)
        await asyncio.sleep(0)
    await fleet.workers[0].aclose()
    assert fleet.server.periods[one.id] == (int(MIDNIGHT) + 86_400, granted)


async def test_a_memory_that_is_lost_gives_back_nothing_that_it_does_not_count() -> None:
    """Ten are under way. Those that come after are given back as ever, the first of them too."""
    one, fleet = budget(120), Fleet()
    for _ in range(10):
        assert isinstance(await fleet.take(0, one, cost=9), Granted)
    judged_at = fleet.now
    fleet.server.forget()
    fleet.recorded, fleet.now = 95, fleet.now + 3
    assert isinstance(await fleet.take(1, one, cost=9), Granted)
    for _ in range(10):
        fleet.end(2, one, cost=9, used=1, at=judged_at)
    fleet.end(3, one, cost=9, used=2, at=fleet.now)
    await fleet.tend()
    assert fleet.server.periods[one.id][1] == 97
    fleet.end(2, one, cost=9, used=12, at=judged_at)
    await fleet.tend()
    assert fleet.server.periods[one.id][1] == 100


@pytest.mark.parametrize("is_begun_here", [True, False])
async def test_what_was_held_ahead_of_a_memory_that_is_lost_is_not_given_back(
    *, is_begun_here: bool
) -> None:
    """Whoever begins to count anew, and whether the holder asks again or gives all up."""
    one, fleet = budget(1_000_000), Fleet()
    for _ in range(100):
        await fleet.take(0, one, cost=10)
        fleet.now += 0.01
        await asyncio.sleep(0)
    assert fleet.server.periods[one.id][1] > 1_000
    fleet.server.forget()
    fleet.recorded, fleet.now = 1_000, fleet.now + 0.01
    asked = 0 if is_begun_here else 1
    assert isinstance(await fleet.take(asked, one, cost=900_000), Granted)
    for worker in fleet.workers:
        await worker.aclose()
    assert fleet.server.periods[one.id][1] == 901_000


async def test_what_was_let_through_without_counts_and_has_ended_counts_as_it_was_used() -> None:
    """Whichever worker hears of the end, and though the counts are begun anew after."""
    one, fleet = budget(120), Fleet()
    fleet.faults = lambda _: Fault.LOST
    for _ in range(5):
        fleet.now += 1
        for number in range(WORKERS):
            assert isinstance(await fleet.take(number, one, cost=5), Granted)
        for number in range(WORKERS):
            fleet.end((number + 3) % WORKERS, one, cost=5, used=1, at=fleet.now)
    fleet.faults = lambda _: Fault.NONE
    fleet.now += 1
    await fleet.tend()
    assert isinstance(await fleet.take(0, one), Granted)
    assert fleet.server.periods[one.id][1] == 5 * WORKERS
