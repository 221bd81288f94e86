"""The limits of several workers on one Valkey."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr

from sidecar.domain.limits import Limit, Measure, Priority, Window
from sidecar.limits.leases import LARGEST_SHARE
from sidecar.limits.limit_check import LimitCheck, RequestCost, limit_checks
from sidecar.limits.limiter import TEND_SECONDS, Granted, LimitDecision, Limited, Limiter
from sidecar.limits.settlement import FinishedRequest, adjustments_of
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import open_valkey
from tests.support.limits import PRINCIPAL, Records, checks, limit, limiter, valkey_limits
from tests.support.live_servers import LiveServer, valkey_server

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]

WORKERS = 4


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An id of the test's own."""
    return str(request.node.name)


@asynccontextmanager
async def workers(
    server: LiveServer,
    *,
    count: int = WORKERS,
    totals: Records | None = None,
    seconds: float = 5.0,
) -> AsyncIterator[list[Limiter]]:
    """Give so many workers' limits, each with its own connections, tended as they run."""
    socket = server.program.log.parent / "valkey.sock"
    async with AsyncExitStack() as stack:
        made = [
            await stack.enter_async_context(limiter(socket, totals=totals, seconds=seconds))
            for _ in range(count)
        ]
        running = [asyncio.ensure_future(one.run()) for one in made]
        try:
            yield made
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)


async def take(
    one: Limiter, asked: tuple[LimitCheck, ...], *, member: str = "r1"
) -> LimitDecision:
    """Ask, and wait if it takes waiting."""
    outcome = one.take(PRINCIPAL, asked, member=member)
    return await outcome if isinstance(outcome, Awaitable) else outcome


async def flush(server: LiveServer) -> None:
    """Have it forget everything."""
    url = SecretStr(f"unix://{server.program.log.parent / 'valkey.sock'}")
    async with open_valkey(ValkeySettings(url=url)) as client:
        await client.flushall()


async def hammer(
    made: list[Limiter], asked: Limit, *, clients: int, seconds: float, **demand: int
) -> Counter[str]:
    """Ask from so many clients a worker for so long, as fast as they can."""
    counted: Counter[str] = Counter()
    end = time.monotonic() + seconds

    async def acquire(one: Limiter) -> None:
        while time.monotonic() < end:
            before = time.monotonic()
            outcome = await take(one, checks(asked, **demand))
            counted["granted"] += isinstance(outcome, Granted)
            await asyncio.sleep(0.001 if time.monotonic() - before < 1 else 0)

    await asyncio.gather(*(acquire(one) for one in made for _ in range(clients)))
    return counted


async def test_workers_together_let_through_what_the_limit_says(
    server: LiveServer, name: str
) -> None:
    """Never more than the amount, the burst and what is held ahead; nor less than 99 of 100.

    The latter in one of ten rounds: a busy machine may stand still for longer than a burst lasts.
    """
    seconds, granted = 3.0, list[int]()
    while not granted or granted[-1] < 0.99 * 300 * seconds:
        assert len(granted) < 10, granted
        one = limit(id=f"{name}-{len(granted)}", window=Window.SECOND, amount=300, burst=300)
        async with workers(server) as made:
            began = time.monotonic()
            counted = await hammer(made, one, clients=20, seconds=seconds)
            took = time.monotonic() - began + 2 * TEND_SECONDS
        bound = one.at_once + WORKERS * (one.amount // LARGEST_SHARE)
        granted.append(counted["granted"])
        assert granted[-1] <= one.amount * took + bound


async def test_what_a_lease_does_not_use_comes_back(server: LiveServer, name: str) -> None:
    """A worker that fell quiet holds nothing for longer than a moment."""
    one = limit(id=name, window=Window.DAY, amount=100_000)
    async with workers(server, count=2) as made:
        counted = await hammer(made[:1], one, clients=20, seconds=0.5)
        left = one.amount - counted["granted"]
        async with asyncio.timeout(60):
            while await _remaining(made[1], one) != (left := left - 1):  # noqa: ASYNC110 - in Valkey
                await asyncio.sleep(0.05)


async def _remaining(one: Limiter, asked: Limit) -> int:
    """Take a unit and return what is left of them."""
    outcome = await take(one, checks(asked))
    assert isinstance(outcome, Granted)
    return outcome.standings[0].remaining


async def test_a_calendar_limit_begins_with_what_the_records_say(
    server: LiveServer, name: str
) -> None:
    """Budgets survive a flush, and a period that began without us."""
    one = limit(Measure.COST, id=name, window=Window.MONTH, amount=100)
    totals = Records(used_before=95)
    async with workers(server, totals=totals) as made:
        outcomes = await asyncio.gather(
            *(take(made[n % 4], checks(one, cost=1)) for n in range(40))
        )
    assert sum(isinstance(outcome, Granted) for outcome in outcomes) == 5
    assert len(set(totals.asked)) == 1


async def test_requests_that_are_under_way_while_valkey_is_flushed_free_nothing(
    server: LiveServer, name: str
) -> None:
    """The count that is begun anew from the records lacks them: it does not fall below those."""
    one = limit(Measure.TOKENS, id=name, window=Window.DAY, amount=1_000_000)
    totals = Records()
    async with workers(server, count=2, totals=totals) as made:
        demand = RequestCost(operation="chat", model="gpt-5", output_tokens=90_000)
        for _ in range(10):
            assert isinstance(await take(made[0], checks(one, output_tokens=90_000)), Granted)
        judged_at = time.time() - 1
        await flush(server)
        totals.used_before = 950_000
        assert isinstance(await take(made[1], checks(one, output_tokens=60_000)), Limited)
        for _ in range(10):
            ended = FinishedRequest(demand, "r1", judged_at, output_tokens=1_000)
            made[0].settle(
                PRINCIPAL.organization_id, adjustments_of([one], ended, now=time.time())
            )
        await made[0].tend()
        outcomes = [await take(made[1], checks(one, output_tokens=10_000)) for _ in range(10)]
    # A sixteenth of what is left may be held ahead.
    assert sum(isinstance(outcome, Granted) for outcome in outcomes) in {4, 5}


@pytest.mark.parametrize(("seconds", "outcome"), [(120.0, Limited), (0.0, Granted)])
async def test_a_request_that_ends_long_after_it_began_frees_nothing_of_others(
    server: LiveServer, name: str, seconds: float, outcome: type
) -> None:
    """Its units have drained: else a client that breaks off many could use as much once more."""
    one = limit(Measure.OUTPUT_TOKENS, id=name, amount=1_000)
    demand = RequestCost(operation="chat", model="gpt-5", output_tokens=1_000)
    async with workers(server, count=1) as (worker,):
        assert isinstance(await take(worker, checks(one, output_tokens=1_000)), Granted)
        ended = FinishedRequest(demand, name, time.time() - seconds)
        changes = adjustments_of([one], ended, now=time.time())
        worker.settle(PRINCIPAL.organization_id, changes, name=ended.member)
        await worker.tend()
        assert isinstance(await take(worker, checks(one, output_tokens=900)), outcome)


async def test_a_request_that_two_workers_settle_is_settled_once(
    server: LiveServer, name: str
) -> None:
    """Envoy sent its log entry to a second worker: the first did not acknowledge it in time."""
    one = limit(Measure.TOKENS, id=name, window=Window.DAY, amount=100_000)
    slots = limit(Measure.CONCURRENT, id=f"{name}-slots", window=Window.ONCE, amount=1)
    demand = RequestCost(operation="chat", model="gpt-5", output_tokens=40_000)
    async with workers(server, count=2) as made:
        for member in ("r1", "r2"):
            asked = checks(one, *[slots] * (member == "r1"), output_tokens=40_000)
            assert isinstance(await take(made[0], asked, member=member), Granted)
        ended = FinishedRequest(demand, "r1", time.time(), output_tokens=10_000)
        for each in (made[1], made[0], made[1]):
            changes = adjustments_of([one, slots], ended, now=time.time())
            each.settle(PRINCIPAL.organization_id, changes, name=ended.member)
        for each in made:
            await each.aclose()
        async with valkey_limits(server.program.log.parent / "valkey.sock") as store:
            (state,) = (await store.look(PRINCIPAL.organization_id, checks(one))).states
        assert state is not None
        assert state.used == 40_000 + 10_000
        assert isinstance(await take(made[1], checks(slots)), Granted)


async def test_limits_are_shared_out_while_valkey_is_away_and_whole_again_after(
    tmp_path: Path, name: str
) -> None:
    """A quarter of what was left for each of four; what was used meanwhile is counted after."""
    server = valkey_server(tmp_path)
    await server.start()
    one = limit(Measure.COST, id=name, window=Window.DAY, amount=100)
    try:
        async with workers(server, seconds=1.0) as made:
            assert isinstance(await take(made[0], checks(one, cost=10)), Granted)
            await server.freeze()
            outcomes = [await take(made[0], checks(one, cost=5)) for _ in range(12)]
            assert [type(outcome) for outcome in outcomes] == [Granted] * 4 + [Limited] * 8
            assert all(outcome.is_local for outcome in outcomes)
            assert made[0].is_local
            await server.thaw()
            async with asyncio.timeout(60):
                while (outcome := await take(made[0], checks(one, cost=3))).is_local:  # noqa: ASYNC110 - until it is back
                    await asyncio.sleep(0.05)
            await made[0].tend()
            outcome = await take(made[1], checks(one, cost=1))
            assert isinstance(outcome, Granted)
            assert not outcome.is_local
            # 10 before, 20 meanwhile (3 are more than was left of a share), 3 and 1 since.
            assert outcome.standings[0].remaining == one.amount - 34
    finally:
        await server.aclose()


async def test_one_noisy_key_leaves_capacity_to_those_before_it(
    server: LiveServer, name: str
) -> None:
    """Batch work stops at four fifths of what a team has; interactive use goes on."""
    one = limit(id=name, window=Window.DAY, amount=100)  # nothing comes back meanwhile
    async with workers(server, count=1) as made:
        for priority, granted in (("batch", 80), ("standard", 15), ("interactive", 5)):
            outcomes = [await take(made[0], _claims_with(one, priority)) for _ in range(100)]
            assert sum(isinstance(outcome, Granted) for outcome in outcomes) == granted


def _claims_with(one: Limit, priority: str) -> tuple[LimitCheck, ...]:
    demand = RequestCost(operation="chat", model="gpt-5", priority=Priority(priority))
    found = limit_checks([one], demand, now=time.time())
    assert isinstance(found, tuple)
    return found
