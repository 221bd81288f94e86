"""What becomes of a request that is over."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal

import pytest
from prometheus_client import CollectorRegistry
from typing_extensions import override

from sidecar.domain.limits import Level, Limit, Measure, Reservation, Window, slot_name
from sidecar.domain.metadata import EPOCH
from sidecar.domain.principal import Principal
from sidecar.domain.report import Clocks
from sidecar.domain.usage import TokenCounts
from sidecar.keys.cache import KeyCache
from sidecar.keys.ports import (
    KeyStore,
    KeyStoreUnavailableError,
    KeyUnreadableError,
    LoadedKey,
)
from sidecar.limits.limit_check import LimitCheck
from sidecar.limits.limiter import LimitDecision, Limiter
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.shared_counters import SharedCounts
from sidecar.limits.store import Adjustment
from sidecar.pipeline.dependencies import Limits
from sidecar.telemetry.usage_metrics import UsageMetrics
from sidecar.usage.prices import Price, PriceList
from sidecar.usage.records import record_of as usage_record_of
from sidecar.worker.usage import PriceCache, UsageSettlement
from tests.support.counted_limits import CountedLimits, Server
from tests.support.keys import record_of
from tests.support.limits import Records
from tests.support.usage import MOMENT, ended, judged

SLOTS = Limit(
    id="slots", level=Level.KEY, measure=Measure.CONCURRENT, window=Window.ONCE, amount=2
)


class _Keys:
    """A store in which every key has a slot at most; each load takes a turn of the loop."""

    async def load(self, key_id: str) -> LoadedKey:
        await asyncio.sleep(0)
        return LoadedKey(replace(record_of(key_id), limits=(SLOTS,)))


class _Settled:
    """Limits that remember what is given back."""

    def __init__(self, expected: int) -> None:
        self.changes: list[Adjustment] = []
        self.names: list[tuple[str | None, str]] = []
        self.all_are_here = asyncio.Event()
        self._expected = expected

    def take(
        self, principal: Principal, checks: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision:
        raise NotImplementedError(principal, checks, member)

    def settle(
        self,
        organization_id: str,
        changes: Sequence[Adjustment],
        *,
        name: str | None = None,
        part: str = "",
    ) -> None:
        assert organization_id == "org_1"
        assert all(change.member in {"", name} for change in changes)
        assert (name, part) not in self.names
        self.names.append((name, part))
        self.changes += changes
        if len(self.changes) == self._expected:
            self.all_are_here.set()


class _Prices:
    """Those that were read, none unless told otherwise."""

    def __init__(self, current: PriceList | None = None) -> None:
        self.current = current or PriceList()


async def owner_limits(team_id: str, organization_id: str) -> tuple[Limit, ...]:
    """Every team has a slot at most."""
    return (replace(SLOTS, id=f"{team_id}/slots of {organization_id}", level=Level.TEAM),)


def settlement_of(
    limits: Limits,
    keys: KeyStore,
    prices: _Prices | None = None,
    *,
    registry: CollectorRegistry | None = None,
) -> UsageSettlement:
    """Return what settles requests by *keys*."""
    return UsageSettlement(
        prices or _Prices(),
        UsageMetrics(registry or CollectorRegistry()),
        limiter=limits,
        keys=KeyCache(keys),
        owner_limits=owner_limits,
    )


async def test_slots_are_freed_of_however_many_keys_that_are_not_at_hand() -> None:
    """One message of Envoy's may tell of hundreds, to a worker that has just started."""
    limits = _Settled(200)
    settlement = settlement_of(limits, _Keys())
    for number in range(200):
        request = judged(number, key_id=f"key_{number}", reserved=Reservation())
        end = ended(number, request=request)
        settlement.exchange_ended(end, usage_record_of(end))
    async with asyncio.timeout(60):
        await limits.all_are_here.wait()

    assert {change.member for change in limits.changes} == {
        slot_name(one.request_id, round(one.occurred_at.timestamp() * 1e6))
        for one in map(judged, range(200))
    }


class _AwayOnce(_Keys):
    """The same, whose first answer is an error, as of a database that fails over."""

    def __init__(self) -> None:
        self._is_away = True

    @override
    async def load(self, key_id: str) -> LoadedKey:
        if self._is_away:
            self._is_away = False
            raise KeyStoreUnavailableError("away")
        return await super().load(key_id)


async def three_end(settlement: UsageSettlement, limits: _Settled) -> None:
    """End a request of each of three keys, and wait until the awaited ones are settled."""
    for number in range(3):
        request = judged(number, key_id=f"key_{number}", reserved=Reservation())
        end = ended(number, request=request)
        settlement.exchange_ended(end, usage_record_of(end))
    async with asyncio.timeout(60):
        await limits.all_are_here.wait()


async def test_requests_whose_keys_cannot_be_loaded_now_are_settled_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their slots would be held for ten minutes, their units until the end of a period."""
    monkeypatch.setattr("sidecar.worker.usage.RETRY_SECONDS", 0.01)
    limits = _Settled(3)
    settlement = settlement_of(limits, _AwayOnce())
    await three_end(settlement, limits)


class _OneUnreadable(_Keys):
    """The same, but for a key whose limits a newer release has written."""

    @override
    async def load(self, key_id: str) -> LoadedKey:
        if key_id == "key_0":
            raise KeyUnreadableError("limits that cannot be read")
        return await super().load(key_id)


async def test_a_request_of_a_key_that_cannot_be_read_keeps_up_no_other_one() -> None:
    """It gives its owners back what is theirs, and counts as lost for the key's own limits."""
    limits = _Settled(3)
    registry = CollectorRegistry()
    settlement = settlement_of(limits, _OneUnreadable(), registry=registry)

    await three_end(settlement, limits)

    lost = registry.get_sample_value("egret_usage_lost_total", {"reason": "unsettled"})
    assert (sorted(one.limit.level.value for one in limits.changes), lost) == (
        ["key", "key", "team"],
        1,
    )


class _Deleted:
    """A store whose keys were deleted."""

    async def load(self, key_id: str) -> LoadedKey:
        del key_id
        return LoadedKey(None)


async def test_a_request_whose_key_was_deleted_meanwhile_frees_what_its_owners_gave() -> None:
    """The limits of its team and organization go on; their units would stay taken."""
    limits = _Settled(1)
    request = judged(1, reserved=Reservation())
    end = ended(1, request=request)
    settlement_of(limits, _Deleted()).exchange_ended(end, usage_record_of(end))
    async with asyncio.timeout(60):
        await limits.all_are_here.wait()
    assert [change.limit.id for change in limits.changes] == ["team_1/slots of org_1"]


async def test_a_worker_that_stops_settles_the_requests_that_wait_for_their_keys() -> None:
    """Their slots would be held for ten minutes, their units until the end of a period."""
    limits = _Settled(20)
    settlement = settlement_of(limits, _Keys())
    await settlement.aclose()
    for number in range(20):
        request = judged(number, key_id=f"key_{number}", reserved=Reservation())
        end = ended(number, request=request)
        settlement.exchange_ended(end, usage_record_of(end))
    await settlement.aclose()
    assert len(limits.changes) == 20


TOKENS = Limit(
    id="tokens", level=Level.KEY, measure=Measure.TOKENS, window=Window.DAY, amount=1_000
)
BUDGET = Limit(
    id="budget", level=Level.KEY, measure=Measure.COST, window=Window.MONTH, amount=10**9
)
DOLLARS = PriceList([Price(model="*", valid_from=EPOCH, input=Decimal(10_000), output=Decimal(0))])
"""A cent for a token of input."""


class _Budgets(_Keys):
    """A store in which every key has a budget, a limit on tokens and a slot."""

    @override
    async def load(self, key_id: str) -> LoadedKey:
        return LoadedKey(replace(record_of(key_id), limits=(TOKENS, BUDGET, SLOTS)))


async def test_a_request_that_ends_before_prices_are_read_is_in_its_budget_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As while PostgreSQL is away since the worker's start; tokens and slots do not wait."""
    monkeypatch.setattr("sidecar.worker.usage.RETRY_SECONDS", 0.01)
    limits, prices = _Settled(2), _Prices(PriceList(is_known=False))
    settlement = settlement_of(limits, _Budgets(), prices)
    request = judged(1, reserved=Reservation(input_tokens=50))
    end = ended(1, request=request, tokens=TokenCounts(input=100, output=0))
    settlement.exchange_ended(end, usage_record_of(end))
    async with asyncio.timeout(60):
        await limits.all_are_here.wait()
    assert [(one.limit.id, one.amount) for one in limits.changes] == [("tokens", 50), ("slots", 0)]
    prices.current = DOLLARS
    await settlement.aclose()
    (spent,) = limits.changes[2:]
    assert spent.limit is BUDGET
    assert spent.amount in {1_000_000, 1_000_001}  # a part of a millionth is rounded either way


@pytest.mark.parametrize("reserved", [50, 100], ids=["more was used", "as much was used"])
@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["without prices first", "then"])
async def test_the_cost_of_a_request_that_two_workers_settle_is_counted_once(
    monkeypatch: pytest.MonkeyPatch, order: tuple[int, int], reserved: int
) -> None:
    """Envoy sends an entry of its log again if the first worker is slow; one has no prices yet."""
    monkeypatch.setattr("sidecar.worker.usage.RETRY_SECONDS", 0.01)
    now = MOMENT.timestamp()
    server = Server(lambda: now)
    late = _Prices(PriceList(is_known=False))
    limiters = [
        Limiter(
            SharedCounts(
                CountedLimits(server),
                worker=SharingWorker(f"w{number}", 2),
                calls=8,
                clock=lambda: now,
            ),
            Records(),
            clocks=Clocks(lambda: now, lambda: now),
        )
        for number in range(2)
    ]
    settlements = [
        settlement_of(limiter, _Budgets(), prices)
        for limiter, prices in zip(limiters, (late, _Prices(DOLLARS)), strict=True)
    ]
    request = judged(1, reserved=Reservation(input_tokens=reserved))
    end = ended(1, request=request, tokens=TokenCounts(input=100, output=0))
    for number in order:
        settlements[number].exchange_ended(end, usage_record_of(end))
        async with asyncio.timeout(60):
            while not limiters[number].waiting:  # noqa: ASYNC110 - the key is being loaded
                await asyncio.sleep(0)
        await limiters[number].tend()
    late.current = DOLLARS
    for settlement, limiter in zip(settlements, limiters, strict=True):
        await settlement.aclose()
        await limiter.tend()

    _, spent = server.early[BUDGET.id]
    assert spent in {1_000_000, 1_000_001}  # a part of a millionth is rounded either way


async def test_the_cost_of_a_request_that_ends_before_prices_are_read_is_counted_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With or without a limit; until then nobody knows whether its model has a price."""
    monkeypatch.setattr("sidecar.worker.usage.RETRY_SECONDS", 0.01)
    registry, prices = CollectorRegistry(), _Prices(PriceList(is_known=False))
    settlement = settlement_of(_Settled(0), _Budgets(), prices, registry=registry)
    named = {
        "gen_ai_operation_name": "chat",
        "gen_ai_provider_name": "openai",
        "gen_ai_request_model": "gpt-4o",
    }

    def counted() -> tuple[float | None, float | None]:
        return (
            registry.get_sample_value("egret_cost_usd_total", named),
            registry.get_sample_value("egret_cost_unknown_total"),
        )

    for number, reserved in enumerate((None, Reservation())):
        end = ended(number, request=judged(number, reserved=reserved))
        settlement.exchange_ended(end, usage_record_of(end))
    assert counted() == (None, 0)
    prices.current = DOLLARS
    await settlement.aclose()
    assert counted() == (2.0, 0)


async def test_a_model_without_a_price_is_counted_once_prices_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sidecar.worker.usage.RETRY_SECONDS", 0.01)
    registry, prices = CollectorRegistry(), _Prices(PriceList(is_known=False))
    settlement = settlement_of(_Settled(0), _Budgets(), prices, registry=registry)
    end = ended(1)
    settlement.exchange_ended(end, usage_record_of(end))
    prices.current = PriceList()
    await settlement.aclose()

    assert registry.get_sample_value("egret_cost_unknown_total") == 1


async def test_requests_whose_use_is_in_no_limit_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of those that wait for prices or keys a number is kept; a worker that ends drops them."""
    monkeypatch.setattr("sidecar.worker.usage.MAX_LATER", 2)
    monkeypatch.setattr("sidecar.worker.usage.CLOSING_SECONDS", 0.05)
    registry, prices = CollectorRegistry(), _Prices(PriceList(is_known=False))
    settlement = settlement_of(_Settled(3), _Budgets(), prices, registry=registry)

    def lost() -> float | None:
        return registry.get_sample_value("egret_usage_lost_total", {"reason": "unsettled"})

    for number in range(3):
        request = judged(number, reserved=Reservation())
        end = ended(number, request=request)
        settlement.exchange_ended(end, usage_record_of(end))
    for number in range(3, 6):  # these have no limits, and leave the room to those that do
        end = ended(number)
        settlement.exchange_ended(end, usage_record_of(end))
    assert lost() == 2.0  # an end that waits for its key, and a cost that waits for its price
    await settlement.aclose()
    assert lost() == 4.0


async def test_prices_are_read_once_for_settlement_and_delivery() -> None:
    """What the loop has just read is what usage is written with; half a minute later it is not."""
    now, reads = 0.0, 0

    async def load() -> PriceList:
        nonlocal reads
        reads += 1
        return PriceList()

    prices = PriceCache(load, clock=lambda: now)
    running = asyncio.ensure_future(prices.run())
    await asyncio.sleep(0)
    first = await prices.fresh()
    assert (first is prices.current, reads) == (True, 1)
    now = 30.0
    assert (await prices.fresh() is first, reads) == (False, 2)
    running.cancel()


async def test_without_prices_usage_is_not_written() -> None:
    """It would be stored without a cost for good."""

    async def load() -> PriceList:
        raise ConnectionRefusedError

    with pytest.raises(ConnectionRefusedError):
        await PriceCache(load).fresh()
