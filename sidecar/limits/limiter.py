"""The rate limiter: takes from every limit of a request, or refuses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Never, assert_never

from sidecar.domain.limits import Level, Limit, LimitStatus
from sidecar.domain.principal import Principal
from sidecar.limits.budgets import BudgetWatch
from sidecar.limits.leases import Lease, LeaseTable
from sidecar.limits.limit_check import CalendarWindow, ConcurrencyWindow, LimitCheck
from sidecar.limits.local_shares import Instant, LocalShares
from sidecar.limits.shared_counters import SharedCounts
from sidecar.limits.store import (
    Acquire,
    Acquired,
    Adjustment,
    Exhausted,
    LimitsUnavailableError,
    Reply,
    State,
    ThresholdListener,
    Uninitialized,
    UsageTotals,
)

REMEMBERED_SECONDS: Final = 0.05
"""Others can free units at any time, by giving back what they took; so not for long."""


@dataclass(frozen=True, slots=True)
class _Short:
    standing: LimitStatus
    need: int
    seen_at: float
    until: float


class RecentDenials:
    """Of one worker. What was refused is refused again at once, until there may be room."""

    def __init__(self) -> None:
        self._known: dict[str, _Short] = {}

    def note(self, check: LimitCheck, standing: LimitStatus, *, now: float) -> None:
        """The limit of *check* has no room for it."""
        until = now + min(REMEMBERED_SECONDS, standing.reset_seconds)
        need = check.cost + check.reserve
        self._known[check.limit.id] = _Short(standing, need, now, until)

    def of(self, checks: Sequence[LimitCheck], *, now: float) -> LimitStatus | None:
        """Return how the first limit stands that is known to have no room; None mostly."""
        if not self._known:
            return None
        for check in checks:
            short = self._known.get(check.limit.id)
            if short is None:
                continue
            is_of_this = short.standing.limit == check.limit
            if is_of_this and now < short.until and check.cost + check.reserve >= short.need:
                standing, passed = short.standing, now - short.seen_at
                reset = max(0.0, standing.reset_seconds - passed)
                return LimitStatus(standing.limit, standing.remaining, reset)
        return None

    def forget(self, *, now: float) -> None:
        """Forget what says nothing any more."""
        self._known = {name: one for name, one in self._known.items() if now < one.until}


TEND_SECONDS: Final = 0.25
RECORDS_AWAY_SECONDS: Final = 1.0
"""Records that did not answer are not asked for so long: a request would wait for each of them."""
MAX_TELLS: Final = 8
"""A request has at most so many calendar limits whose counts have to be told first."""


@dataclass(frozen=True, slots=True)
class Granted:
    """The request may be made. `is_local` tells that the shared counts were away."""

    standings: tuple[LimitStatus, ...]
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Limited:
    """The request may not be made now: `standing` has no room; try again after its reset."""

    standing: LimitStatus
    is_local: bool = False


LimitDecision = Granted | Limited


@dataclass(frozen=True, slots=True)
class Clocks:
    """Monotonic seconds for leases, seconds since the epoch for calendars."""

    monotonic: Callable[[], float]
    wall: Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Asking:
    """Who asks for room; `member` names the request."""

    principal: Principal
    member: str

    @property
    def scope(self) -> str:
        return self.principal.organization_id


class Limiter:
    """The limits of a worker. `run` runs beside it, returns leases and sends corrections."""

    def __init__(
        self,
        shared: SharedCounts,
        totals: UsageTotals,
        *,
        clocks: Clocks,
        thresholds: ThresholdListener | None = None,
    ) -> None:
        self._shared = shared
        self._totals = totals
        self._clocks = clocks
        self._local = LocalShares(shares=shared.worker.shares)
        self._leases = LeaseTable()
        self._denials = RecentDenials()
        self._refills: set[asyncio.Task[None]] = set()
        self._no_records_until = 0.0
        self.is_local = False
        self.budgets = BudgetWatch(thresholds)

    def take(
        self, principal: Principal, checks: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision | Awaitable[LimitDecision]:
        """Take what *checks* ask for, all or nothing; *member* names the request.

        At once where leases have it all or there was no room a moment ago, else something to
        await.
        """
        if not checks:
            return Granted(())
        at_hand = self._at_hand(principal.organization_id, checks)
        return at_hand or self._take_later(_Asking(principal, member), checks)

    def settle(self, organization_id: str, changes: Sequence[Adjustment]) -> None:
        """Put right what was taken for a request that has ended; sent with others, later."""
        for change in changes:
            self._shared.correct(organization_id, change)
            self._local.settle(change)

    @property
    def waiting(self) -> int:
        """How many corrections have not reached the shared counts yet."""
        return len(self._shared)

    async def run(self) -> Never:
        """Return what leases did not use and send corrections, for ever."""
        while True:
            await asyncio.sleep(TEND_SECONDS)
            await self.tend()

    async def tend(self) -> None:
        """Do so once."""
        now = self._moment()
        for scope, change in self._leases.expired(now=now.monotonic):
            self._shared.correct(scope, change)
        self._denials.forget(now=now.monotonic)
        self._local.tidy(now=now)
        await self._shared.send()

    async def aclose(self) -> None:
        """Give back all that is held ahead, as far as the shared counts answer."""
        for scope, change in self._leases.give_up():
            self._shared.correct(scope, change)
        await self._shared.send()

    def uncounted(self, *, counted: int) -> Iterator[Adjustment]:
        """Yield what the shared counts lack if the worker dies now: what it holds ahead as well.

        Of the batches of corrections that it has sent, those up to number *counted* have arrived.
        """
        yield from self._leases.held()
        yield from self._shared.uncounted(counted=counted)

    def _at_hand(self, scope: str, checks: tuple[LimitCheck, ...]) -> LimitDecision | None:
        now = self._clocks.monotonic()
        leases = self._leases.take(scope, checks, now=now)
        if leases is not None:
            self._refill_low(scope, checks, leases, now=now)
            return Granted(tuple(map(self._leases.standing, checks, leases)))
        short = self._denials.of(checks, now=now)
        return None if short is None else Limited(short)

    async def _take_later(self, asking: _Asking, checks: tuple[LimitCheck, ...]) -> LimitDecision:
        try:
            async with self._shared.turn():
                at_hand = self._at_hand(asking.scope, checks)
                return at_hand or await self._take_shared(asking, checks)
        except LimitsUnavailableError:
            return await self._take_local(asking, checks)

    async def _take_shared(self, asking: _Asking, checks: tuple[LimitCheck, ...]) -> LimitDecision:
        scope = asking.scope
        for _ in range(MAX_TELLS):
            wanted = [self._wanted(scope, check) for check in checks]
            acquires = tuple(
                Acquire(check, check.cost, ahead, asking.member)
                for check, ahead in zip(checks, wanted, strict=True)
            )
            answer = await self._ask(scope, acquires)
            match answer:
                case Acquired():
                    leases = [self._lease(scope, check) for check in checks]
                    return Granted(tuple(map(self._leases.standing, checks, leases)))
                case Exhausted(index, states):
                    standing = _stands(checks[index], states[index])
                    self._denials.note(checks[index], standing, now=self._clocks.monotonic())
                    return Limited(standing)
                case Uninitialized(index, start):
                    await self._tell(asking, checks[index], start)
                case _:
                    assert_never(answer)
        raise LimitsUnavailableError("does not keep what it is told")

    async def _ask(self, scope: str, acquires: tuple[Acquire, ...]) -> Reply:
        """Ask the shared counts, and keep what they say."""
        ahead = [self._leases.lease(scope, acquire.check) for acquire in acquires if acquire.ahead]
        for lease in ahead:
            lease.refilling = True
        try:
            answer = await self._shared.take(scope, acquires, at=self._clocks.wall())
        finally:
            for lease in ahead:
                lease.refilling = False
        if not isinstance(answer, Uninitialized):
            self._keep(scope, acquires, answer)
        return answer

    def _keep(
        self, scope: str, acquires: tuple[Acquire, ...], answer: Acquired | Exhausted
    ) -> None:
        self.is_local = False
        now, wall = self._clocks.monotonic(), self._clocks.wall()
        is_taken = isinstance(answer, Acquired)
        for acquire, state in zip(acquires, answer.states, strict=True):
            check = acquire.check
            self.budgets.note(check.limit, state, now=wall, is_taken=is_taken)
            if is_taken:
                back = self._leases.fill(scope, check, state, asked=acquire.ahead, now=now)
                if back is not None:
                    self._shared.correct(scope, back)
            else:
                self._leases.note(check, state, now=now)
            limit_id = check.limit.id
            if self._local.is_counting(limit_id) and self._shared.is_complete(limit_id):
                self._local.forget(limit_id)

    async def _tell(self, asking: _Asking, check: LimitCheck, start: int) -> None:
        subject = subject_of(asking.principal, check.limit)
        used = await self._totals.used(check.limit, subject=subject, start=start)
        await self._shared.begin(asking.scope, check, start=start, used=used)

    async def _take_local(self, asking: _Asking, checks: tuple[LimitCheck, ...]) -> LimitDecision:
        self.is_local = True
        for check in checks:
            await self._look_up(asking.principal, check)
        now, known = self._moment(), self._leases.known
        index = self._local.take(checks, member=asking.member, now=now, known=known)
        states = [
            self._local.state(check, now=now, known=known.get(check.limit.id)) for check in checks
        ]
        if index is not None:
            return Limited(_stands(checks[index], states[index]), is_local=True)
        for check in checks:
            if not isinstance(check.window, ConcurrencyWindow):
                self._shared.correct(asking.scope, _new(check, now.wall))
        return Granted(tuple(map(_stands, checks, states)), is_local=True)

    async def _look_up(self, principal: Principal, check: LimitCheck) -> None:
        """Learn from the records what was used of a period that nobody here has heard of."""
        known = self._leases.known.get(check.limit.id)
        is_known = known is not None and known.period_start == check.period_start
        now = self._clocks.monotonic()
        if (
            is_known
            or not isinstance(check.window, CalendarWindow)
            or now < self._no_records_until
        ):
            return
        subject = subject_of(principal, check.limit)
        start = check.period_start
        try:
            used = await self._totals.used(check.limit, subject=subject, start=start)
        except LimitsUnavailableError:
            self._no_records_until = now + RECORDS_AWAY_SECONDS
            return
        state = State(0, max(0, check.limit.amount - used), 0.0, used)
        self._leases.note(check, state, now=now)

    def _lease(self, scope: str, check: LimitCheck) -> Lease | None:
        return (
            None
            if isinstance(check.window, ConcurrencyWindow)
            else self._leases.lease(scope, check)
        )

    def _wanted(self, scope: str, check: LimitCheck) -> int:
        lease = self._lease(scope, check)
        return 0 if lease is None else lease.wanted(now=self._clocks.monotonic())

    def _refill_low(
        self, scope: str, checks: tuple[LimitCheck, ...], leases: tuple[Lease, ...], *, now: float
    ) -> None:
        acquires: list[Acquire] = []
        for check, lease in zip(checks, leases, strict=True):
            if wanted := lease.wanted(now=now):
                lease.refilling = True
                acquires.append(Acquire(check, 0, wanted))
        if acquires:
            task = asyncio.ensure_future(self._refill(scope, tuple(acquires)))
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)

    async def _refill(self, scope: str, acquires: tuple[Acquire, ...]) -> None:
        with contextlib.suppress(LimitsUnavailableError):
            await self._ask(scope, acquires)

    def _moment(self) -> Instant:
        return Instant(self._clocks.monotonic(), self._clocks.wall())


def _new(check: LimitCheck, at: float) -> Adjustment:
    start = check.period_start
    return Adjustment(check.limit, check.cost, period_start=start, is_new=True, taken_at=at)


def _stands(check: LimitCheck, state: State) -> LimitStatus:
    return LimitStatus(check.limit, state.remaining, state.reset_seconds)


def subject_of(principal: Principal, limit: Limit) -> str:
    """Return whose use a limit counts."""
    match limit.level:
        case Level.KEY:
            return principal.key_id
        case Level.TEAM:
            return principal.team_id
        case Level.ORGANIZATION:
            return principal.organization_id
        case _:
            assert_never(limit.level)
