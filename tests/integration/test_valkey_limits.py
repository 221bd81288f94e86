"""Counts of limits on a real Valkey."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import structlog
from pydantic import SecretStr

from sidecar.domain.limits import Limit, Measure, Window
from sidecar.domain.usage import MAX_COUNT, AnswerEnd, UnmatchedEnd
from sidecar.limits.limit_check import CalendarWindow, LimitCheck
from sidecar.limits.store import (
    Acquire,
    Acquired,
    Adjustment,
    Exhausted,
    LimitsUnavailableError,
    Reply,
    Uninitialized,
)
from sidecar.settings.stores import ValkeySettings
from sidecar.storage import valkey_limits as stored_limits
from sidecar.storage.valkey import open_valkey
from sidecar.storage.valkey_limits import ENDS_TOPIC, ValkeyEnds, ValkeyLimits
from tests.support.limits import checks, limit, valkey_limits
from tests.support.live_servers import LiveServer, valkey_server

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(loop_scope="module")
async def store(server: LiveServer) -> AsyncIterator[ValkeyLimits]:
    async with valkey_limits(socket_of(server)) as store:
        yield store


@pytest.fixture
def scope(request: pytest.FixtureRequest) -> str:
    """A name of the test's own, so that no count is another's."""
    return str(request.node.name)


def socket_of(server: LiveServer) -> Path:
    """Return where the server listens."""
    return server.program.log.parent / "valkey.sock"


def acquires(
    *limits: Limit, ahead: int = 0, member: str = "r1", **demand: Any
) -> tuple[Acquire, ...]:
    """Return what a request asks of *limits*."""
    return tuple(Acquire(one, one.cost, ahead, member) for one in checks(*limits, **demand))


async def take(store: ValkeyLimits, scope: str, asked: Sequence[Acquire]) -> Reply:
    """Take under a name of its own."""
    return await store.take(scope, asked, name=secrets.token_hex(8))


async def adjust(store: ValkeyLimits, scope: str, *changes: Adjustment) -> None:
    """Put right, as a worker of its own."""
    await store.adjust(scope, changes, sender=secrets.token_hex(8), number=1)


async def taken(store: ValkeyLimits, scope: str, *limits: Limit, times: int, **asked: Any) -> int:
    """Ask so many times, as fast as can be; return how often all was taken."""
    answers = await asyncio.gather(
        *(take(store, scope, acquires(*limits, **asked)) for _ in range(times))
    )
    return sum(isinstance(answer, Acquired) for answer in answers)


def remaining(answer: Reply) -> int:
    """Return how much is left of the first limit."""
    assert isinstance(answer, (Acquired, Exhausted))
    return answer.states[0].remaining


async def test_a_sliding_limit_lets_its_burst_through_and_then_its_rate(
    store: ValkeyLimits, scope: str
) -> None:
    """Sixty a minute, five at once: five now, one a second after; more if asking takes long."""
    one = limit(amount=60, burst=5)
    began_at = time.monotonic()
    at_once = await taken(store, scope, one, times=50)
    while isinstance(answer := await take(store, scope, acquires(one)), Acquired):
        at_once += 1
    assert isinstance(answer, Exhausted)
    assert 5 <= at_once <= 5 + int(time.monotonic() - began_at + 0.1)
    assert 0 < answer.states[0].reset_seconds <= 1
    await asyncio.sleep(answer.states[0].reset_seconds)
    later = await taken(store, scope, one, times=50)
    # A tenth for clocks that are read in milliseconds.
    assert 1 <= later <= 5 + int(time.monotonic() - began_at + 0.1) - at_once


async def test_a_request_larger_than_what_is_left_waits_for_it(
    store: ValkeyLimits, scope: str
) -> None:
    """Tokens are taken at once; the answer says when enough will be there."""
    one = limit(Measure.TOKENS, amount=6_000)
    began_at = time.monotonic()
    assert await taken(store, scope, one, times=1, input_tokens=5_900) == 1
    answer = await take(store, scope, acquires(one, input_tokens=200))
    seconds = time.monotonic() - began_at
    assert isinstance(answer, Exhausted)
    assert answer.states[0].reset_seconds == pytest.approx(1.0, abs=0.2 + seconds)


@pytest.mark.parametrize(("age_seconds", "left"), [(0.0, 60), (25.0, 35), (60.0, 0), (1e6, 0)])
async def test_what_has_drained_is_not_given_back(
    store: ValkeyLimits, scope: str, age_seconds: float, left: int
) -> None:
    """Else requests that wait and are broken off together free what others have taken since."""
    one = limit(Measure.OUTPUT_TOKENS, amount=60)
    began_at = time.monotonic()
    assert await taken(store, scope, one, times=1, output_tokens=60) == 1
    await adjust(store, scope, Adjustment(one, -60, age_seconds=age_seconds))
    found = remaining(await take(store, scope, acquires(one, output_tokens=0)))
    assert left <= found <= left + 1 + int(time.monotonic() - began_at)


async def test_all_is_taken_or_nothing(store: ValkeyLimits, scope: str) -> None:
    """A request that one limit refuses costs none of the others."""
    wide, narrow = limit(amount=4, burst=4), limit(id="lim_2", amount=4, burst=1)
    assert await taken(store, scope, wide, narrow, times=20) == 1
    answer = await take(store, scope, acquires(wide, narrow))
    assert isinstance(answer, Exhausted)
    assert answer.index == 1
    assert remaining(await take(store, scope, acquires(wide))) == 2


async def test_much_is_taken_ahead_far_from_the_limit_and_nothing_near_it(
    store: ValkeyLimits, scope: str
) -> None:
    """A sixteenth of what is left at most."""
    one = limit(window=Window.DAY, amount=1_600)
    (acquire,) = acquires(one)
    today = int(time.time()) // 86_400 * 86_400
    await store.begin(scope, acquire.check, start=today, used=0)
    ahead: list[int] = []
    while isinstance(answer := await take(store, scope, acquires(one, ahead=100)), Acquired):
        ahead.append(answer.states[0].ahead)
    assert ahead[0] == 99
    assert ahead == sorted(ahead, reverse=True)
    assert ahead[-1] == 0
    assert len(ahead) + sum(ahead) == one.amount


async def test_a_calendar_limit_has_to_be_told_what_was_used(
    store: ValkeyLimits, scope: str
) -> None:
    """After a flush nobody knows; the records of usage do. Telling twice changes nothing."""
    one = limit(Measure.COST, window=Window.DAY, amount=100)
    (acquire,) = acquires(one, cost=10)
    answer = await take(store, scope, [acquire])
    today = int(time.time()) // 86_400 * 86_400
    assert answer == Uninitialized(0, today)
    await store.begin(scope, acquire.check, start=today, used=75)
    await store.begin(scope, acquire.check, start=today, used=0)
    assert await taken(store, scope, one, times=10, cost=10) == 2
    answer = await take(store, scope, [acquire])
    assert isinstance(answer, Exhausted)
    assert (answer.states[0].used, answer.states[0].remaining) == (95, 5)
    assert 0 < answer.states[0].reset_seconds <= 86_400


@pytest.mark.parametrize("amount", [1, 6_000])
async def test_a_count_beyond_all_reason_leaves_a_limit_without_room(
    store: ValkeyLimits, scope: str, amount: int
) -> None:
    """A provider may state 2^53 tokens; the other adjustments of its batch are applied as well."""
    absurd, other = limit(Measure.TOKENS, amount=amount), limit(id="lim_2", amount=60, burst=5)
    await adjust(store, scope, Adjustment(absurd, MAX_COUNT), Adjustment(other, 3))
    (state,) = (await store.look(scope, checks(absurd))).states
    assert state is not None
    assert (state.used, state.remaining) == (amount, 0)
    assert state.reset_seconds > 1e6
    smaller = limit(Measure.TOKENS, amount=1)
    (state,) = (await store.look(scope, checks(smaller))).states
    assert state is not None
    assert state.reset_seconds > 1e6
    for asked in (acquires(absurd, input_tokens=1), acquires(smaller, input_tokens=MAX_COUNT)):
        answer = await take(store, scope, asked)
        assert isinstance(answer, Exhausted)
        assert answer.states[0].reset_seconds > 1e6
    assert remaining(await take(store, scope, acquires(other))) == 1


async def test_adjustments_beside_one_that_fails_are_applied_once(
    server: LiveServer, store: ValkeyLimits, scope: str
) -> None:
    """A key that holds another type, say, or sums beyond a whole number of 64 bits."""
    today = int(time.time()) // 86_400 * 86_400
    daily, broken = (limit(Measure.TOKENS, id=n, window=Window.DAY) for n in ("daily", "broken"))
    other = limit(id="other", amount=60, burst=5)
    for one in (daily, broken):
        await store.begin(scope, acquires(one)[0].check, start=today, used=1)
    async with open_valkey(ValkeySettings(url=SecretStr(f"unix://{socket_of(server)}"))) as client:
        await client.set(f"egret:limit:{{{scope}}}:broken", "text")
    changes = [
        Adjustment(daily, 2, period_start=today),
        Adjustment(broken, 2, period_start=today),
        Adjustment(other, 3),
    ]
    with structlog.testing.capture_logs() as logged:
        for _ in range(2):
            await store.adjust(scope, changes, sender="a", number=1)
    assert [(line["event"], line["count"]) for line in logged] == [
        ("limits.adjustments_failed", 1)
    ]
    assert await used_of(store, scope, acquires(daily)[0]) == 3
    assert remaining(await take(store, scope, acquires(other))) == 1


async def test_a_period_that_has_counted_absurd_numbers_counts_on(
    store: ValkeyLimits, scope: str
) -> None:
    """A provider may state 2^53 tokens again and again; the sum is no whole number of 64 bits."""
    today = int(time.time()) // 86_400 * 86_400
    daily = limit(Measure.TOKENS, window=Window.DAY, amount=1_000)
    (acquire,) = acquires(daily)
    await store.begin(scope, acquire.check, start=today, used=MAX_COUNT * 1_500)
    for _ in range(3):
        await adjust(store, scope, Adjustment(daily, MAX_COUNT * 1_000, period_start=today))
    answer = await take(store, scope, acquires(daily, input_tokens=1))
    assert isinstance(answer, Exhausted)
    assert remaining(answer) == 0


async def used_of(store: ValkeyLimits, scope: str, acquire: Acquire) -> int | None:
    """Return what is counted of a limit, None where nobody knows."""
    (state,) = (await store.look(scope, [acquire.check])).states
    return None if state is None else state.used


async def test_who_tells_late_of_a_period_that_is_over_tells_nothing(
    store: ValkeyLimits, scope: str
) -> None:
    """The records took long to answer; others count in the next period already."""
    (acquire,) = acquires(limit(Measure.COST, window=Window.DAY, amount=1_000), cost=0)
    today = int(time.time()) // 86_400 * 86_400
    await store.begin(scope, acquire.check, start=today - 86_400, used=5)
    assert await used_of(store, scope, acquire) is None
    await store.begin(scope, acquire.check, start=today, used=777)
    await store.begin(scope, acquire.check, start=today - 86_400, used=5)
    assert await used_of(store, scope, acquire) == 777


async def test_what_was_taken_before_a_count_was_begun_is_not_given_back(
    store: ValkeyLimits, scope: str
) -> None:
    """It is not in the count. What was used beyond it is counted, whenever it was taken."""
    one = limit(Measure.COST, window=Window.DAY, amount=1_000)
    (acquire,) = acquires(one, cost=0)
    today = int(time.time()) // 86_400 * 86_400
    before = time.time() - 1
    await store.begin(scope, acquire.check, start=today, used=950)
    after = time.time()
    for amount, at, used in ((-90, before, 950), (5, before, 955), (-90, after, 865)):
        await adjust(store, scope, Adjustment(one, amount, period_start=today, taken_at=at))
        assert await used_of(store, scope, acquire) == used


async def test_a_count_of_an_earlier_release_gives_back_what_it_did(
    store: ValkeyLimits, server: LiveServer, scope: str
) -> None:
    """It does not say when it was begun."""
    one = limit(Measure.COST, window=Window.DAY, amount=1_000)
    (acquire,) = acquires(one, cost=0)
    today = int(time.time()) // 86_400 * 86_400
    await store.begin(scope, acquire.check, start=today, used=100)
    async with open_valkey(ValkeySettings(url=SecretStr(f"unix://{socket_of(server)}"))) as client:
        await client.hdel(f"egret:limit:{{{scope}}}:{one.id}", "begun")
    await adjust(store, scope, Adjustment(one, -90, period_start=today, taken_at=today + 0.5))
    assert await used_of(store, scope, acquire) == 10


async def test_a_clock_that_is_off_by_a_day_counts_on_the_right_day(
    store: ValkeyLimits, scope: str
) -> None:
    """The period is picked by the server's clock, out of those around the worker's."""
    one = limit(Measure.COST, window=Window.DAY, amount=100)
    today = int(time.time()) // 86_400 * 86_400
    for days in (-1, 1):
        borders = tuple(today + (days + offset) * 86_400 for offset in (-1, 0, 1, 2))
        (acquire,) = acquires(one, cost=1)
        shifted = Acquire(
            type(acquire.check)(one, CalendarWindow(borders), 1, 0), cost=1, ahead=0, member="r1"
        )
        assert await take(store, f"{scope}{days}", [shifted]) == Uninitialized(0, today)


async def test_a_clock_that_is_set_back_leaves_as_much_room_as_there_was(
    store: ValkeyLimits, scope: str, server: LiveServer
) -> None:
    """Not none until it has caught up, whether units are taken, adjusted or only looked at."""
    plain, adjusted = (limit(id=name, amount=10, burst=10) for name in ("plain", "adjusted"))
    assert await taken(store, scope, plain, adjusted, times=4) == 4
    async with open_valkey(ValkeySettings(url=SecretStr(f"unix://{socket_of(server)}"))) as client:
        for one in (plain, adjusted):
            key = f"egret:limit:{{{scope}}}:{one.id}"
            stored = await client.get(key)
            assert isinstance(stored, bytes)
            tat, amount, *free = stored.decode().split("/")
            later = [str(int(number) + 120_000_000) for number in (tat, *free)]
            await client.set(key, "/".join((later[0], amount, *later[1:])))
    (state,) = (await store.look(scope, checks(plain))).states
    await adjust(store, scope, Adjustment(adjusted, 1))

    assert state is not None
    assert (state.remaining, state.used) == (6, 4)
    assert await taken(store, scope, plain, times=9) == 6
    assert await taken(store, scope, adjusted, times=9) == 5


async def test_slots_are_free_again_by_name(store: ValkeyLimits, scope: str) -> None:
    """Whichever worker hears of the end."""
    one = limit(Measure.CONCURRENT, window=Window.ONCE, amount=2)
    for member in ("a", "b"):
        assert isinstance(await take(store, scope, acquires(one, member=member)), Acquired)
    assert isinstance(await take(store, scope, acquires(one, member="c")), Exhausted)
    await adjust(store, scope, Adjustment(one, 0, member="a"))
    await adjust(store, scope, Adjustment(one, 0, member="a"))
    assert isinstance(await take(store, scope, acquires(one, member="c")), Acquired)
    assert isinstance(await take(store, scope, acquires(one, member="d")), Exhausted)


async def test_a_slot_whose_end_never_comes_is_free_in_time(
    store: ValkeyLimits, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As that of a request whose worker and Envoy have died, while others come and go."""
    one = limit(Measure.CONCURRENT, window=Window.ONCE, amount=2)
    monkeypatch.setattr(stored_limits, "SLOT_SECONDS", 1)
    assert isinstance(await take(store, scope, acquires(one, member="lost")), Acquired)
    monkeypatch.undo()
    assert isinstance(await take(store, scope, acquires(one, member="kept")), Acquired)
    async with asyncio.timeout(30):
        while not isinstance(await take(store, scope, acquires(one, member="next")), Acquired):  # noqa: ASYNC110 - on a server
            await asyncio.sleep(0.1)


@pytest.mark.parametrize(
    "one",
    [
        limit(Measure.TOKENS, amount=5),
        limit(Measure.TOKENS, window=Window.DAY, amount=5),
        limit(Measure.CONCURRENT, window=Window.ONCE, amount=5),
    ],
    ids=["sliding", "calendar", "slots"],
)
async def test_a_request_leaves_the_part_of_those_before_it(
    store: ValkeyLimits, scope: str, one: Limit
) -> None:
    """Two of five, of each kind of limit."""
    (check,) = checks(one, input_tokens=1)
    if one.window is Window.DAY:
        today = int(time.time()) // 86_400 * 86_400
        await store.begin(scope, check, start=today, used=0)

    async def granted(*, reserve: int) -> int:
        asked = LimitCheck(one, check.window, check.cost, reserve)
        answers = [
            await take(store, scope, [Acquire(asked, check.cost, 0, f"{reserve}-{number}")])
            for number in range(6)
        ]
        return sum(isinstance(answer, Acquired) for answer in answers)

    assert (await granted(reserve=2), await granted(reserve=0)) == (3, 2)


async def test_what_was_taken_too_much_is_given_back(store: ValkeyLimits, scope: str) -> None:
    """And what was taken too little is taken after all, even past the limit."""
    tokens = limit(Measure.TOKENS, amount=1_000)
    cost = limit(Measure.COST, id="lim_2", window=Window.DAY, amount=1_000)
    today = int(time.time()) // 86_400 * 86_400
    both = acquires(tokens, cost, input_tokens=800, cost=800)
    await store.begin(scope, both[1].check, start=today, used=0)
    assert isinstance(await take(store, scope, both), Acquired)
    back = Adjustment(cost, -700, period_start=today, taken_at=time.time())
    await adjust(store, scope, Adjustment(tokens, -700), back)
    assert isinstance(await take(store, scope, both), Acquired)
    await adjust(store, scope, Adjustment(cost, 500, period_start=today))
    answer = await take(store, scope, acquires(cost, cost=1))
    assert isinstance(answer, Exhausted)
    assert answer.states[0].used == 1_400


async def test_a_change_to_a_period_that_is_over_is_left_out(
    store: ValkeyLimits, scope: str
) -> None:
    """A stream that began yesterday does not count today."""
    cost = limit(Measure.COST, window=Window.DAY, amount=1_000)
    today = int(time.time()) // 86_400 * 86_400
    (acquire,) = acquires(cost, cost=0)
    await store.begin(scope, acquire.check, start=today, used=0)
    await adjust(store, scope, Adjustment(cost, 500, period_start=today - 86_400))
    answer = await take(store, scope, [acquire])
    assert isinstance(answer, Acquired)
    assert answer.states[0].used == 0


async def test_a_correction_that_is_sent_again_is_counted_once(
    store: ValkeyLimits, scope: str
) -> None:
    """Its answer was lost; another worker's of the same number is another one."""
    tokens = limit(Measure.TOKENS, amount=60_000)
    await taken(store, scope, tokens, times=1, input_tokens=50_000)
    for sender, number in (("a", 1), ("a", 1), ("b", 1), ("a", 2), ("a", 1)):
        await store.adjust(scope, [Adjustment(tokens, -10_000)], sender=sender, number=number)
    left = remaining(await take(store, scope, acquires(tokens)))
    assert left == pytest.approx(40_000, abs=1_000)


async def test_a_take_that_nobody_heard_of_is_found_by_its_name(
    store: ValkeyLimits, scope: str
) -> None:
    """It says what was taken ahead; asked again, the same."""
    one = limit(amount=1_600, burst=1_600)
    assert isinstance(await store.take(scope, acquires(one, ahead=10), name="t1"), Acquired)
    assert await store.void(scope, ["t1", "t2"]) == ((10,), None)
    assert await store.void(scope, ["t1", "t2"]) == ((10,), None)


async def test_a_name_under_which_somebody_else_has_written_is_no_take(
    server: LiveServer, store: ValkeyLimits, scope: str
) -> None:
    """Else whoever may write in Valkey could end workers, one after the other."""
    async with open_valkey(ValkeySettings(url=SecretStr(f"unix://{socket_of(server)}"))) as client:
        await client.set(f"egret:limit-take:{{{scope}}}:t1", "text")
    with structlog.testing.capture_logs() as logged:
        assert await store.void(scope, ["t1", "t2"]) == (None, None)
    assert [(line["event"], line["bytes"]) for line in logged] == [("limits.take_unreadable", 4)]


async def test_a_take_that_arrives_after_it_was_made_void_takes_nothing(
    store: ValkeyLimits, scope: str
) -> None:
    """A server that was frozen reads it from a connection that was given up long ago."""
    one = limit(amount=1_000, burst=100)
    assert await store.void(scope, ["late"]) == (None,)
    assert isinstance(await store.take(scope, acquires(one), name="late"), Exhausted)
    assert remaining(await take(store, scope, acquires(one))) == 99


async def test_units_that_are_told_of_late_have_drained_since(
    store: ValkeyLimits, scope: str
) -> None:
    """Sixty a minute: of thirty that were used twenty seconds ago, ten are left."""
    one = limit(amount=60, burst=60)
    await adjust(store, scope, Adjustment(one, 30, is_new=True, age_seconds=20.0))
    assert remaining(await take(store, scope, acquires(one))) == 49


async def test_more_units_returned_than_are_left_make_no_time_in_which_all_was_free(
    store: ValkeyLimits, scope: str
) -> None:
    """A request ends when part of its units have drained; others were in use meanwhile."""
    one = limit(amount=60, burst=60)
    assert await taken(store, scope, one, times=5) == 5
    await adjust(store, scope, Adjustment(one, -50))
    await adjust(store, scope, Adjustment(one, 30, is_new=True, age_seconds=20.0))
    assert remaining(await take(store, scope, acquires(one))) < 49 - 10


async def test_use_of_a_period_that_is_over_does_not_begin_the_next(
    store: ValkeyLimits, scope: str
) -> None:
    """It came while no counter had begun."""
    one = limit(Measure.COST, window=Window.DAY, amount=1_000)
    (acquire,) = acquires(one, cost=0)
    today = int(time.time()) // 86_400 * 86_400
    await adjust(store, scope, Adjustment(one, 500, period_start=today - 86_400))
    await store.begin(scope, acquire.check, start=today, used=7)
    assert await used_of(store, scope, acquire) == 7


async def test_units_that_are_told_of_after_others_go_to_where_all_was_free(
    store: ValkeyLimits, scope: str
) -> None:
    """The order in which workers come back makes no difference."""
    one = limit(amount=60, burst=60)
    await adjust(store, scope, Adjustment(one, 5, is_new=True, age_seconds=20.0))
    assert await taken(store, scope, one, times=10) == 10
    await adjust(store, scope, Adjustment(one, 5, is_new=True, age_seconds=20.0))
    assert remaining(await take(store, scope, acquires(one))) == 49


async def test_what_is_used_before_counting_begins_is_added_to_what_the_records_say(
    store: ValkeyLimits, scope: str
) -> None:
    """A worker that could ask nobody tells before anybody has asked the records.

    What is given back before may have been taken of a count that was lost.
    """
    cost = limit(Measure.COST, window=Window.DAY, amount=1_000)
    today = int(time.time()) // 86_400 * 86_400
    (acquire,) = acquires(cost, cost=0)
    await adjust(store, scope, Adjustment(cost, 70, period_start=today, is_new=True))
    await adjust(store, scope, Adjustment(cost, 20, period_start=today, is_new=True))
    await adjust(store, scope, Adjustment(cost, -20, period_start=today, taken_at=time.time()))
    assert await take(store, scope, [acquire]) == Uninitialized(0, today)
    await store.begin(scope, acquire.check, start=today, used=100)
    answer = await take(store, scope, [acquire])
    assert isinstance(answer, Acquired)
    assert answer.states[0].used == 190


async def test_a_limit_that_is_changed_has_as_much_used_as_before(
    store: ValkeyLimits, scope: str
) -> None:
    """Raised, there is more room at once; not in a minute, when the old rate would have it."""
    low, high = limit(amount=10, burst=10), limit(amount=60, burst=60)
    assert await taken(store, scope, low, times=20) == 10
    assert remaining(await take(store, scope, acquires(high))) == pytest.approx(49, abs=4)
    assert isinstance(await take(store, scope, acquires(low)), Exhausted)


async def test_a_budget_that_is_changed_within_its_period_counts_on(
    store: ValkeyLimits, scope: str
) -> None:
    """Lowered below what was used nothing goes, raised the difference does."""
    today = int(time.time()) // 86_400 * 86_400
    small, large = (limit(Measure.COST, window=Window.DAY, amount=n) for n in (50, 100))
    await store.begin(scope, acquires(small, cost=1)[0].check, start=today, used=0)
    assert await taken(store, scope, large, times=10, cost=8) == 10
    assert isinstance(await take(store, scope, acquires(small, cost=1)), Exhausted)
    assert await taken(store, scope, large, times=10, cost=8) == 2


async def test_tokens_that_take_less_than_a_microsecond_are_not_rounded_away(
    store: ValkeyLimits, scope: str
) -> None:
    """A billion a minute, a few at a time."""
    one = limit(Measure.TOKENS, amount=10**9, burst=1_000)
    answers = [await take(store, scope, acquires(one, input_tokens=5)) for _ in range(3)]
    assert all(isinstance(answer, Acquired) for answer in answers)
    assert isinstance(await take(store, scope, acquires(one, input_tokens=10**6)), Exhausted)


async def test_an_absurd_request_is_refused_and_takes_nothing(
    store: ValkeyLimits, scope: str
) -> None:
    """More than any limit has at once."""
    one = limit(Measure.TOKENS, amount=1_000)
    answer = await take(store, scope, acquires(one, input_tokens=10**12))
    assert isinstance(answer, Exhausted)
    assert remaining(answer) == 1_000
    assert await taken(store, scope, one, times=1, input_tokens=1_000) == 1


async def test_a_thousand_keys_share_what_their_team_has(store: ValkeyLimits, scope: str) -> None:
    """Each with a limit of its own that would allow it."""
    team = limit(amount=100, burst=100)
    keys = [limit(id=f"key_{n}", amount=60, burst=1) for n in range(1_000)]
    answers = await asyncio.gather(*(take(store, scope, acquires(team, key)) for key in keys))
    assert sum(isinstance(answer, Acquired) for answer in answers) in range(100, 120)
    fresh = [answer for answer in answers if isinstance(answer, Exhausted)]
    assert all(answer.index == 0 for answer in fresh)
    assert all(answer.states[1].remaining == 0 for answer in fresh)


@pytest.mark.parametrize("window", [Window.MINUTE, Window.DAY, Window.ONCE])
async def test_an_amount_of_nothing_lets_nothing_through(
    store: ValkeyLimits, scope: str, window: Window
) -> None:
    """Zero is a limit like any other."""
    measure = Measure.CONCURRENT if window is Window.ONCE else Measure.REQUESTS
    one = limit(measure, window=window, amount=0)
    (acquire,) = acquires(one)
    if window is Window.DAY:
        today = int(time.time()) // 86_400 * 86_400
        await store.begin(scope, acquire.check, start=today, used=0)
    assert isinstance(await take(store, scope, [acquire]), Exhausted)


async def test_a_server_that_does_not_answer_is_unavailable(tmp_path: Path) -> None:
    """Within its budget; whoever asks has another way."""
    server = valkey_server(tmp_path)
    await server.start()
    try:
        async with valkey_limits(socket_of(server), seconds=1.0) as store:
            assert isinstance(await take(store, "org", acquires(limit())), Acquired)
            await server.freeze()
            with pytest.raises(LimitsUnavailableError):
                await take(store, "org", acquires(limit()))
            await server.thaw()
            await server.kill()
            with pytest.raises(LimitsUnavailableError):
                await adjust(store, "org", Adjustment(limit(), -1))
    finally:
        await server.aclose()


@pytest.mark.parametrize(
    "message",
    [
        b"\x91\x81\xa6stream\xa1\xff",
        b"\x91\x81\xa1z" + b"\x91" * 100_000 + b"\x01",
    ],
    ids=["with a text that is not UTF-8", "nested too deeply"],
)
async def test_a_published_end_that_cannot_be_read_is_left_out(
    server: LiveServer, message: bytes
) -> None:
    """The ends behind it are received: the task that receives them is one of the worker's own."""
    settings = ValkeySettings(url=SecretStr(f"unix://{socket_of(server)}"))
    ends, received = ValkeyEnds(settings), asyncio.Queue[Sequence[UnmatchedEnd]]()
    sound = UnmatchedEnd(stream="s1", status=200, end=AnswerEnd.COMPLETED)
    async with asyncio.timeout(20), asyncio.TaskGroup() as group, open_valkey(settings) as client:
        tasks = (
            group.create_task(ends.run_subscriber(received.put_nowait)),
            group.create_task(ends.run_publisher()),
        )
        while not await client.publish(ENDS_TOPIC, message):  # noqa: ASYNC110 - not subscribed yet
            await asyncio.sleep(0.01)
        ends.publish([sound])
        assert await received.get() == (sound,)
        for task in tasks:
            task.cancel()


def passed(answer: Reply) -> tuple[int, int]:
    """Return what was told before of the first limit, and what is passed now."""
    assert isinstance(answer, Acquired)
    return answer.states[0].reported, answer.states[0].passed


async def test_one_caller_is_told_of_each_threshold_of_a_budget(
    store: ValkeyLimits, scope: str
) -> None:
    """Also where what was given back lets it be passed once more; another amount is another."""
    one = limit(Measure.COST, window=Window.DAY, amount=100)
    today = int(time.time()) // 86_400 * 86_400
    await store.begin(scope, acquires(one)[0].check, start=today, used=40)

    async def spend(cost: int, of: Limit = one) -> tuple[int, int]:
        return passed(await take(store, scope, acquires(of, cost=cost)))

    assert await spend(9) == (0, 0)
    assert await spend(1) == (0, 50)
    assert await spend(1) == (50, 50)
    assert await spend(40) == (50, 90)
    await adjust(store, scope, Adjustment(one, -60, period_start=today, taken_at=time.time()))
    assert await spend(59) == (90, 90)
    together = await asyncio.gather(*(spend(1) for _ in range(10)))
    assert sorted(together) == [(90, 90)] * 4 + [(90, 95)] + [(95, 95)] * 5
    raised = limit(Measure.COST, window=Window.DAY, amount=120)
    assert await spend(0, raised) == (0, 80)
    other = limit(Measure.TOKENS, id="lim_2", window=Window.DAY, amount=10)
    await store.begin(scope, acquires(other)[0].check, start=today, used=0)
    assert passed(await take(store, scope, acquires(other, input_tokens=10))) == (0, 0)


async def test_a_new_period_tells_of_its_thresholds_anew(
    store: ValkeyLimits, server: LiveServer, scope: str
) -> None:
    """Here the old one is written as if it had begun yesterday."""
    one = limit(Measure.COST, window=Window.DAY, amount=100)
    today = int(time.time()) // 86_400 * 86_400
    key = f"egret:limit:{{{scope}}}:{one.id}"
    async with open_valkey(ValkeySettings(url=SecretStr(f"unix://{socket_of(server)}"))) as client:
        begun = str((today - 86_400) * 1_000_000)
        await client.hset(key, mapping={"start": begun, "used": "99", "told": "100:95"})
    (acquire,) = acquires(one, cost=55)
    assert await take(store, scope, [acquire]) == Uninitialized(0, today)
    await store.begin(scope, acquire.check, start=today, used=0)
    assert passed(await take(store, scope, [acquire])) == (0, 50)
