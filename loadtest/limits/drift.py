"""Random use of limits by several workers, with every end and many faults, held against a model.

The usage of a limit is summed here, request by request. At the end the shared counters must agree,
except for the leases of workers that were killed, which are known as well.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Final

from msgspec import structs

from loadtest.limits.child import PRINCIPAL, NoRecords
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.report import Clocks
from sidecar.limits.limit_check import LimitCheck, RequestCost, limit_checks, window_of
from sidecar.limits.limiter import Granted, LimitDecision, Limiter
from sidecar.limits.local_shares import SharingWorker
from sidecar.limits.settlement import FinishedRequest, adjustments_of
from sidecar.limits.shared_counters import SharedCounts
from sidecar.limits.store import (
    Acquire,
    Acquired,
    Adjustment,
    LimitStore,
    LimitsUnavailableError,
    Reply,
    Uninitialized,
)

WORKERS: Final = 4
CLIENTS: Final = 50
SCOPE: Final = PRINCIPAL.organization_id


def _limit(measure: Measure, window: Window, amount: int, *, name: str) -> Limit:
    return Limit(id=name, level=Level.KEY, measure=measure, window=window, amount=amount)


FAR: Final = (
    _limit(Measure.COST, Window.MONTH, 10**12, name="far/cost"),
    _limit(Measure.TOKENS, Window.MINUTE, 10**12, name="far/tokens"),
    _limit(Measure.CONCURRENT, Window.ONCE, 300, name="far/slots"),
)
"""Mostly given out of leases, but for the slots."""
USED_BEFORE: Final = 5_000
"""Of the period. A count does not go below zero: if units are returned before another worker has
reported their take, the first requests of a period would stay taken."""
NEAR: Final = (
    _limit(Measure.COST, Window.MONTH, 20_000, name="near/cost"),
    _limit(Measure.CONCURRENT, Window.ONCE, 20, name="near/slots"),
)
"""Used up again and again; its amount is raised now and then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mix:
    """How many operations, of which so many in a thousand calls or rounds go wrong."""

    operations: int
    seed: int = 1
    lost: int = 20
    unacknowledged: int = 20
    deaths: int = 20


@dataclass
class FaultyCounts:
    """Implements `LimitStore`: loses calls and answers, and knows which of them were done."""

    inner: LimitStore
    chance: random.Random
    mix: Mix
    is_faulty: bool = True
    under_way: int = 0
    unacknowledged: dict[str, tuple[Sequence[Acquire], tuple[int, ...]]] = field(
        default_factory=dict
    )
    counted: dict[str, int] = field(default_factory=dict)

    async def take(self, scope: str, acquires: Sequence[Acquire], *, name: str) -> Reply:
        """Take; the answer may get lost."""
        async with self._call() as is_heard:
            answer = await self.inner.take(scope, acquires, name=name)
            if not is_heard and isinstance(answer, Acquired):
                self.unacknowledged[name] = (
                    acquires,
                    tuple(state.ahead for state in answer.states),
                )
        return answer

    async def void(self, scope: str, names: Sequence[str]) -> tuple[tuple[int, ...] | None, ...]:
        """Make void."""
        async with self._call() as is_heard:
            found = await self.inner.void(scope, names)
            for name in names if is_heard else ():
                self.unacknowledged.pop(name, None)
        return found

    async def claim(self, scope: str, names: Sequence[str], *, sender: str) -> tuple[bool, ...]:
        """Claim ends of requests."""
        async with self._call():
            are_own = await self.inner.claim(scope, names, sender=sender)
        return are_own  # noqa: RET504 - mypy takes the block for one that may swallow errors

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        """Begin to count."""
        async with self._call():
            await self.inner.begin(scope, check, start=start, used=used)

    async def adjust(
        self, scope: str, changes: Sequence[Adjustment], *, sender: str, number: int
    ) -> None:
        """Put right."""
        async with self._call():
            await self.inner.adjust(scope, changes, sender=sender, number=number)
            self.counted[sender] = number

    async def quiet(self) -> None:
        """Wait until no call is under way: refills run beside the requests."""
        while self.under_way:  # noqa: ASYNC110 - many calls, and no event of each
            await asyncio.sleep(0)

    @asynccontextmanager
    async def _call(self) -> AsyncIterator[bool]:
        drawn = self.chance.randrange(1_000) if self.is_faulty else 1_000
        if drawn < self.mix.lost:
            raise LimitsUnavailableError("lost")
        is_heard = drawn >= self.mix.lost + self.mix.unacknowledged
        self.under_way += 1
        try:
            yield is_heard
        finally:
            self.under_way -= 1
        if not is_heard:
            raise LimitsUnavailableError("unheard")


@dataclass(frozen=True, slots=True)
class _Open:
    limits: tuple[Limit, ...]
    demand: RequestCost
    member: str
    at: float


@dataclass(frozen=True, slots=True)
class Drift:
    """The operations, and the limits whose counter differs from the usage."""

    done: Counter[str]
    differences: dict[str, int]


class Usage:
    """Workers, the requests that they allowed, and the usage of those at their end."""

    def __init__(self, store: LimitStore, mix: Mix, clocks: Clocks) -> None:
        self._mix = mix
        self._clocks = clocks
        self._chance = random.Random(mix.seed)  # noqa: S311 - no secret
        self._counts = FaultyCounts(store, self._chance, mix)
        self._started = 0
        self._workers = [self._worker() for _ in range(WORKERS)]
        self._open: list[_Open] = []
        self._near = NEAR
        self._requests = 0
        self._expected: Counter[str] = Counter()
        self._leaked: set[str] = set()
        self.done: Counter[str] = Counter()

    async def run(self, progress: Callable[[int], object] = lambda _: None) -> Drift:
        """Do all operations; then end everything and compare."""
        self._counts.is_faulty = False
        for limits in (FAR, NEAR):  # from here on the usage before is known
            await self._used(limits[0])
            self._expected[limits[0].id] = USED_BEFORE
        self._counts.is_faulty = True
        while self.done.total() < self._mix.operations:
            await asyncio.gather(*(self._client() for _ in range(CLIENTS)))
            await self._between()
            progress(self.done.total())
        return await self._conclude()

    def _worker(self) -> tuple[str, Limiter]:
        self._started += 1
        name = f"worker-{self._mix.seed}-{self._started}"
        shared = SharedCounts(
            self._counts,
            worker=SharingWorker(name, WORKERS),
            calls=8,
            clock=self._clocks.monotonic,
        )
        return name, Limiter(shared, NoRecords(), clocks=self._clocks)

    def _any(self) -> Limiter:
        return self._chance.choice(self._workers)[1]

    async def _client(self) -> None:
        for _ in range(20):
            if self._open and self._chance.random() < 0.5:  # noqa: PLR2004 - begins and ends alike
                self._end()
            else:
                await self._begin()

    async def _begin(self) -> None:
        self._requests += 1
        limits = self._near if self._chance.random() < 0.2 else FAR  # noqa: PLR2004 - a fifth
        demand = RequestCost(
            operation="chat",
            model="gpt-5",
            input_tokens=self._chance.randrange(1_000),
            output_tokens=self._chance.randrange(1_000),
            cost=self._chance.randrange(50),
        )
        now, member = self._clocks.wall(), f"r{self._requests}"
        checks = limit_checks(limits, demand, now=now)
        if not isinstance(checks, tuple):
            raise TypeError("none of these limits is one of a single request")
        outcome: LimitDecision | Awaitable[LimitDecision] = self._any().take(
            PRINCIPAL, checks, member=member
        )
        if isinstance(outcome, Awaitable):
            outcome = await outcome
        if isinstance(outcome, Granted):
            self._open.append(_Open(limits, demand, member, now))
        kind = "granted" if isinstance(outcome, Granted) else "refused"
        self.done[f"{kind} locally" if outcome.is_local else kind] += 1

    def _end(self) -> None:
        """End one as it comes: used as much as it may, more, less, or given up at once."""
        place = self._chance.randrange(len(self._open))
        self._open[place], self._open[-1] = self._open[-1], self._open[place]
        one = self._open.pop()
        ended = FinishedRequest(one.demand, one.member, one.at)
        if self._chance.random() < 0.8:  # noqa: PLR2004 - the rest is aborted
            ended = structs.replace(
                ended,
                input_tokens=one.demand.input_tokens,
                output_tokens=self._chance.randrange(1_200),
                cost=self._chance.randrange(60),
            )
        self._expected[one.limits[0].id] += ended.cost
        changes = adjustments_of(one.limits, ended, now=self._clocks.wall())
        self._any().settle(SCOPE, changes, name=one.member)
        self.done["ended" if ended.cost else "aborted"] += 1

    async def _between(self) -> None:
        """Let workers send their queues; now and then kill one, or raise a budget."""
        for _, worker in self._workers:
            await worker.tend()
        await self._counts.quiet()
        if self._chance.random() < 0.3:  # noqa: PLR2004 - near its end most of the time
            budget = self._near[0]
            self._near = (replace(budget, amount=budget.amount + 5_000), *self._near[1:])
        is_early = self.done.total() * 4 < self._mix.operations
        if not is_early and self._chance.randrange(1_000) < self._mix.deaths:
            self._kill()

    def _kill(self) -> None:
        place = self._chance.randrange(WORKERS)
        name, worker = self._workers[place]
        counted = self._counts.counted.get(name, 0)
        for change in worker.uncounted(counted=counted):
            self._expected[change.limit.id] -= change.amount
            self._leaked |= {change.member} - {""}
        for take in [take for take in self._counts.unacknowledged if take.startswith(f"{name}.")]:
            acquires, ahead = self._counts.unacknowledged.pop(take)
            for acquire, units in zip(acquires, ahead, strict=True):
                if acquire.check.limit.measure is Measure.CONCURRENT:
                    self._leaked.add(acquire.member)
                else:
                    self._expected[acquire.check.limit.id] += acquire.cost + units
        self._workers[place] = self._worker()
        self.done["workers killed"] += 1

    async def _conclude(self) -> Drift:
        self._counts.is_faulty = False
        while self._open:
            self._end()
        for _, worker in self._workers:
            await self._counts.quiet()
            await worker.aclose()
        differences: dict[str, int] = {}
        for limit in (FAR[0], self._near[0]):
            used = await self._used(limit)
            if used != self._expected[limit.id]:
                differences[limit.id] = used - self._expected[limit.id]
        for limit in (FAR[-1], NEAR[-1]):
            if (held := await self._used(limit)) > len(self._leaked):
                differences[limit.id] = held
        self.done["slots lost with workers"] = len(self._leaked)
        return Drift(self.done, differences)

    async def _used(self, limit: Limit) -> int:
        """Return the shared counter; if there is none yet, begin it as a worker does."""
        now = self._clocks.wall()
        check = LimitCheck(limit, window_of(limit, now=now), cost=0, reserve=0)
        acquires = [Acquire(check, 0, member="look")]
        answer = await self._counts.inner.take(SCOPE, acquires, name=f"look-{limit.id}-{now}")
        if isinstance(answer, Uninitialized):
            await self._counts.inner.begin(SCOPE, check, start=answer.start, used=USED_BEFORE)
            return USED_BEFORE
        return answer.states[0].used
