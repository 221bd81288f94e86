"""The rate limiter: takes from every limit of a request, or refuses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Iterator, Sequence
from typing import Final, Never, assert_never

import msgspec

from sidecar.domain.limits import Level, Limit, LimitStatus
from sidecar.domain.principal import Principal
from sidecar.domain.report import Clocks
from sidecar.limits.budgets import BudgetWatch
from sidecar.limits.leases import LeaseTable, are_leasable
from sidecar.limits.limit_check import CalendarWindow, ConcurrencyWindow, LimitCheck
from sidecar.limits.local_shares import Instant, LocalShares
from sidecar.limits.shared_counters import AWAY_SECONDS, SharedCounts
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
"""Seconds for which a refusal is remembered; short, because other workers return units."""


class _Short(msgspec.Struct, frozen=True, gc=False):
    standing: LimitStatus
    need: int
    seen_at: float
    until: float


class RecentDenials:
    """Limits of a worker that had no room a moment ago: it refuses at once, without a call."""

    def __init__(self) -> None:
        self._known: dict[str, _Short] = {}

    def note(self, check: LimitCheck, standing: LimitStatus, *, now: float) -> None:
        """Remember that the limit of *check* had no room."""
        until = now + min(REMEMBERED_SECONDS, standing.reset_seconds)
        need = check.cost + check.reserve
        self._known[check.limit.id] = _Short(standing, need, now, until)

    def of(self, checks: Sequence[LimitCheck], *, now: float) -> LimitStatus | None:
        """Return the status of the first limit that is known to have no room, None mostly."""
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
        """Forget denials that are over."""
        self._known = {name: one for name, one in self._known.items() if now < one.until}


TEND_SECONDS: Final = 0.25
SLOT_DELAY_SECONDS: Final = 0.02
"""A slot is free so soon after the end of its request: a client that sends one request after the
other would else meet its own. All that have ended meanwhile are freed by one call."""
CLOSING_TRIES: Final = 20
"""How often a worker that stops tries again to send adjustments, for two seconds at most."""
RECORDS_AWAY_SECONDS: Final = 1.0
"""After a failed look-up of usage records, the time without one: requests would wait for it."""
MAX_BEGINS: Final = 8
"""A request has at most so many calendar limits whose counters have to begin first."""


class Granted(msgspec.Struct, frozen=True, gc=False):
    """The request may be made. With `is_local` the shared counters were away."""

    standings: tuple[LimitStatus, ...]
    is_local: bool = False


class Limited(msgspec.Struct, frozen=True, gc=False):
    """The request may not be made now: the limit of `standing` has no room until its reset."""

    standing: LimitStatus
    is_local: bool = False


LimitDecision = Granted | Limited


class Limiter:
    """The limits of a worker. `run` returns unused units and sends adjustments beside it."""

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
        self._local = LocalShares(shared.worker)
        self._leases = LeaseTable()
        self._denials = RecentDenials()
        self._refills: set[asyncio.Task[None]] = set()
        self._no_records_until = 0.0
        self._slot_ended = asyncio.Event()
        self.is_local = False
        self.budgets = BudgetWatch(thresholds)

    def take(
        self, principal: Principal, checks: tuple[LimitCheck, ...], *, member: str
    ) -> LimitDecision | Awaitable[LimitDecision]:
        """Take the units of *checks*, all or nothing; *member* names the request.

        Returns at once if leases have all units or there was no room a moment ago, else an
        awaitable.
        """
        at_hand = self._at_hand(principal.organization_id, checks, is_measured=False)
        return at_hand or self._take_later(principal, checks, member)

    def settle(
        self,
        organization_id: str,
        changes: Sequence[Adjustment],
        *,
        name: str | None = None,
        part: str = "",
    ) -> None:
        """Apply *changes* of a request that has ended; they are sent together with others.

        Of workers that settle a request of the same *name*, one does, every *part* of it.
        """
        self._shared.settle(organization_id, changes, name=name, part=part)
        for change in changes:
            self._local.settle(change)
            if change.member:
                self._slot_ended.set()

    @property
    def waiting(self) -> int:
        """Adjustments that have not reached the shared counters yet."""
        return len(self._shared)

    async def run(self) -> Never:
        """Return unused units of leases and send adjustments until cancelled."""
        tended_at = self._clocks.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TEND_SECONDS):
                    await self._slot_ended.wait()
            is_due = self._clocks.monotonic() - tended_at >= TEND_SECONDS
            if self._slot_ended.is_set() and not is_due:
                await asyncio.sleep(SLOT_DELAY_SECONDS)
                self._slot_ended.clear()
                if not self._shared.is_away:  # else `tend` tries again
                    await self._shared.send()
            else:
                self._slot_ended.clear()
                await self.tend()
                tended_at = self._clocks.monotonic()

    async def tend(self) -> None:
        """Return expired units, drop old denials and send adjustments."""
        now = self._moment()
        for scope, change in self._leases.expired(now=now.monotonic):
            self._shared.adjust(scope, change)
        self._denials.forget(now=now.monotonic)
        self._local.tidy(now=now)
        await self._shared.send()

    async def aclose(self) -> None:
        """Return all units that leases hold; `waiting` are left if no shared counter answers."""
        await asyncio.gather(*self._refills, return_exceptions=True)
        for scope, change in self._leases.give_up():
            self._shared.adjust(scope, change)
        await self._shared.send()
        for _ in range(CLOSING_TRIES):
            if not self.waiting:
                break
            await asyncio.sleep(AWAY_SECONDS)
            await self._shared.send()

    def uncounted(self, *, counted: int) -> Iterator[Adjustment]:
        """Yield the adjustments that are lost if the worker dies now, units in leases included.

        Of the batches that it has sent, those up to number *counted* have arrived.
        """
        yield from self._leases.held()
        yield from self._shared.uncounted(counted=counted)

    def _at_hand(
        self, scope: str, checks: tuple[LimitCheck, ...], *, is_measured: bool
    ) -> LimitDecision | None:
        now = self._clocks.monotonic()
        leases = self._leases.take(scope, checks, now=now, is_measured=is_measured)
        if leases is None:
            short = self._denials.of(checks, now=now)
            return None if short is None else Limited(short)
        acquires: list[Acquire] = []
        for check, lease in zip(checks, leases, strict=True):
            if wanted := lease.wanted(now=now):
                lease.refilling = True
                acquires.append(Acquire(check, 0, wanted))
        if acquires:

            async def refill() -> None:
                with contextlib.suppress(LimitsUnavailableError):
                    await self._ask(scope, tuple(acquires))

            task = asyncio.ensure_future(refill())
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)
        return Granted(tuple(map(self._leases.standing, checks)))

    async def _take_later(
        self, principal: Principal, checks: tuple[LimitCheck, ...], member: str
    ) -> LimitDecision:
        try:
            async with self._shared.turn():
                at_hand = self._at_hand(principal.organization_id, checks, is_measured=True)
                return at_hand or await self._take_shared(principal, checks, member)
        except LimitsUnavailableError:
            return await self._take_local(principal, checks, member)

    async def _take_shared(
        self, principal: Principal, checks: tuple[LimitCheck, ...], member: str
    ) -> LimitDecision:
        scope = principal.organization_id
        is_leasable = are_leasable(checks)
        for _ in range(MAX_BEGINS):
            now = self._clocks.monotonic()
            acquires = tuple(
                Acquire(
                    check,
                    check.cost,
                    self._leases.lease(scope, check).wanted(now=now) if is_leasable else 0,
                    member,
                )
                for check in checks
            )
            answer = await self._ask(scope, acquires)
            match answer:
                case Acquired():
                    return Granted(tuple(map(self._leases.standing, checks)))
                case Exhausted(index, states):
                    standing = _status(checks[index], states[index])
                    self._denials.note(checks[index], standing, now=self._clocks.monotonic())
                    return Limited(standing)
                case Uninitialized(index, start):
                    limit = checks[index].limit
                    subject = subject_of(principal, limit)
                    used = await self._totals.used(limit, subject=subject, start=start)
                    await self._shared.begin(scope, checks[index], start=start, used=used)
                case _:
                    assert_never(answer)
        raise LimitsUnavailableError("counters do not begin")

    async def _ask(self, scope: str, acquires: tuple[Acquire, ...]) -> Reply:
        """Ask the shared counters, and keep their reply."""
        ahead = [self._leases.lease(scope, acquire.check) for acquire in acquires if acquire.ahead]
        for lease in ahead:
            lease.refilling = True
        try:
            answer = await self._shared.take(scope, acquires, at=self._clocks.wall())
        finally:
            for lease in ahead:
                lease.refilling = False
        if isinstance(answer, Uninitialized):
            return answer
        self.is_local = False
        now, wall = self._clocks.monotonic(), self._clocks.wall()
        is_taken = isinstance(answer, Acquired)
        for acquire, state in zip(acquires, answer.states, strict=True):
            check, limit = acquire.check, acquire.check.limit
            self.budgets.note(limit, state, now=wall, is_taken=is_taken)
            if is_taken:
                back = self._leases.fill(scope, check, state, asked=acquire.ahead, now=now)
                if back is not None:
                    self._shared.adjust(scope, back)
            else:
                self._leases.note(check, state, now=now)
            if self._local.is_counting(limit.id) and self._shared.is_complete(limit.id):
                self._local.forget(limit.id)
        return answer

    async def _take_local(
        self, principal: Principal, checks: tuple[LimitCheck, ...], member: str
    ) -> LimitDecision:
        self.is_local = True
        for check in checks:  # read from the records what this worker has no status of
            status = self._leases.known.get(check.limit.id)
            is_known = status is not None and status.period_start == check.period_start
            at = self._clocks.monotonic()
            if (
                is_known
                or not isinstance(check.window, CalendarWindow)
                or at < self._no_records_until
            ):
                continue
            subject, start = subject_of(principal, check.limit), check.period_start
            try:
                used = await self._totals.used(check.limit, subject=subject, start=start)
            except LimitsUnavailableError:
                self._no_records_until = at + RECORDS_AWAY_SECONDS
                continue
            state = State(0, max(0, check.limit.amount - used), 0.0, used)
            self._leases.note(check, state, now=at)
        now, known = self._moment(), self._leases.known
        index = self._local.take(checks, member=member, now=now, known=known)
        states = [
            self._local.state(check, now=now, known=known.get(check.limit.id)) for check in checks
        ]
        if index is not None:
            return Limited(_status(checks[index], states[index]), is_local=True)
        for check in checks:
            if not isinstance(check.window, ConcurrencyWindow):
                start = check.period_start
                taken = Adjustment(
                    check.limit, check.cost, period_start=start, is_new=True, taken_at=now.wall
                )
                self._shared.adjust(principal.organization_id, taken)
        return Granted(tuple(map(_status, checks, states)), is_local=True)

    def _moment(self) -> Instant:
        return Instant(self._clocks.monotonic(), self._clocks.wall())


def _status(check: LimitCheck, state: State) -> LimitStatus:
    return LimitStatus(check.limit, state.remaining, state.reset_seconds)


def subject_of(principal: Principal, limit: Limit) -> str:
    """Return the id of the owner whose use a limit counts."""
    match limit.level:
        case Level.KEY:
            return principal.key_id
        case Level.TEAM:
            return principal.team_id
        case Level.ORGANIZATION:
            return principal.organization_id
        case _:
            assert_never(limit.level)
