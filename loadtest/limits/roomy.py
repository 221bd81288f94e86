"""Limits of a key that always have room, for conversations that are played to a worker's parts."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.principal import Principal
from sidecar.domain.report import Clocks
from sidecar.limits.limit_check import Exceeded, RequestCost, limit_checks
from sidecar.limits.limiter import Granted, Limited, Limiter
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.shared_counters import SharedCounts
from sidecar.limits.store import Acquire, Acquired, Adjustment, State
from sidecar.usage.prices import Price, PriceList


def _of_key(measure: Measure, window: Window, amount: int) -> Limit:
    return Limit(id=measure.value, level=Level.KEY, measure=measure, window=window, amount=amount)


LIMITS: Final = (
    _of_key(Measure.REQUESTS, Window.MINUTE, 1_000_000),
    _of_key(Measure.TOKENS, Window.MINUTE, 1_000_000_000),
    _of_key(Measure.COST, Window.DAY, 1_000_000_000_000),
)
"""As most keys have them: requests, tokens and money."""


_TAKES: Final = 10_000
_STEP_SECONDS: Final = 0.000_1


class Priced:
    """A price for every model; without one a budget has nothing to count."""

    current = PriceList(
        [
            Price(
                model="*",
                valid_from=datetime(2020, 1, 1, tzinfo=UTC),
                input=Decimal("2.5"),
                output=Decimal(10),
            )
        ]
    )


class _Plenty:
    """Grants every take, so that only the work of the worker itself remains."""

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Acquired:
        del scope, name
        return Acquired(
            tuple(State(one.ahead, one.check.limit.amount // 2, 30.0) for one in acquires)
        )

    async def void(self, scope: str, names: Sequence[str]) -> tuple[None, ...]:
        del scope
        return (None,) * len(names)

    async def claim(self, scope: str, names: Sequence[str], *, sender: str) -> tuple[bool, ...]:
        del scope, sender
        return (True,) * len(names)

    async def begin(self, scope: str, check: object, *, start: int, used: int) -> None:
        del scope, check, start, used

    async def adjust(
        self, scope: str, changes: Sequence[Adjustment], *, sender: str, number: int
    ) -> None:
        del scope, changes, sender, number


class _NoTotals:
    """Is never called: the usage of a period is always known."""

    async def used(self, limit: Limit, *, subject: str, start: int) -> int:
        raise NotImplementedError(limit.id, subject, start)


async def roomy_limiter(principal: Principal, *, now: float, demand: RequestCost) -> Limiter:
    """Return a limiter that holds plenty of `LIMITS` for *principal*, by clocks that stand still.

    It has seen *demand* so often that what it holds is enough for a thousand more; *now* is in
    seconds since the epoch.
    """
    times = [0.0]
    clocks = Clocks(monotonic=lambda: times[0], wall=lambda: now)
    shared = SharedCounts(
        _Plenty(), worker=SharingWorker("roomy", 1), calls=4, clock=clocks.monotonic
    )
    limiter = Limiter(shared, _NoTotals(), clocks=clocks)
    checks = limit_checks(LIMITS, demand, now=now)
    if isinstance(checks, Exceeded):
        raise TypeError("none of these limits is one of a single request")
    for _ in range(_TAKES):
        times[0] += _STEP_SECONDS
        taken = limiter.take(principal, checks, member="")
        if not isinstance(taken, (Granted, Limited)):
            await taken
        await asyncio.sleep(0)  # for refills
    return limiter
