"""The rate limiter: takes from every limit of a request, or refuses it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Never, assert_never

from sidecar.domain.limits import Level, Limit, Standing
from sidecar.domain.principal import Principal
from sidecar.limits.budgets import Budgets
from sidecar.limits.claims import Calendar, Claim, Slots
from sidecar.limits.leases import Holdings, Lease
from sidecar.limits.local import LocalShares, Moment
from sidecar.limits.shared import SharedCounts
from sidecar.limits.store import (
    Answer,
    Ask,
    Change,
    LimitsUnavailableError,
    Short,
    State,
    Taken,
    ThresholdListener,
    Unknown,
    UsageTotals,
)

REMEMBERED_SECONDS: Final = 0.05
"""Others can free units at any time, by giving back what they took; so not for long."""


@dataclass(frozen=True, slots=True)
class _Short:
    standing: Standing
    need: int
    seen_at: float
    until: float


class Shortages:
    """Of one worker. What was refused is refused again at once, until there may be room."""

    def __init__(self) -> None:
        self._known: dict[str, _Short] = {}

    def note(self, claim: Claim, standing: Standing, *, now: float) -> None:
        """The limit of *claim* has no room for it."""
        until = now + min(REMEMBERED_SECONDS, standing.reset_seconds)
        need = claim.cost + claim.reserve
        self._known[claim.limit.id] = _Short(standing, need, now, until)

    def of(self, claims: Sequence[Claim], *, now: float) -> Standing | None:
        """Return how the first limit stands that is known to have no room; None mostly."""
        if not self._known:
            return None
        for claim in claims:
            short = self._known.get(claim.limit.id)
            if short is None:
                continue
            is_of_this = short.standing.limit == claim.limit
            if is_of_this and now < short.until and claim.cost + claim.reserve >= short.need:
                standing, passed = short.standing, now - short.seen_at
                reset = max(0.0, standing.reset_seconds - passed)
                return Standing(standing.limit, standing.remaining, reset)
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

    standings: tuple[Standing, ...]
    is_local: bool = False


@dataclass(frozen=True, slots=True)
class Limited:
    """The request may not be made now: `standing` has no room; try again after its reset."""

    standing: Standing
    is_local: bool = False


Outcome = Granted | Limited


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
        self._holdings = Holdings()
        self._shortages = Shortages()
        self._refills: set[asyncio.Task[None]] = set()
        self._no_records_until = 0.0
        self.is_local = False
        self.budgets = Budgets(thresholds)

    def take(
        self, principal: Principal, claims: tuple[Claim, ...], *, member: str
    ) -> Outcome | Awaitable[Outcome]:
        """Take what *claims* ask for, all or nothing; *member* names the request.

        At once where leases have it all or there was no room a moment ago, else something to
        await.
        """
        if not claims:
            return Granted(())
        at_hand = self._at_hand(principal.organization_id, claims)
        return at_hand or self._take_later(_Asking(principal, member), claims)

    def settle(self, organization_id: str, changes: Sequence[Change]) -> None:
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
        for scope, change in self._holdings.expired(now=now.monotonic):
            self._shared.correct(scope, change)
        self._shortages.forget(now=now.monotonic)
        self._local.tidy(now=now)
        await self._shared.send()

    async def aclose(self) -> None:
        """Give back all that is held ahead, as far as the shared counts answer."""
        for scope, change in self._holdings.give_up():
            self._shared.correct(scope, change)
        await self._shared.send()

    def uncounted(self, *, counted: int) -> Iterator[Change]:
        """Yield what the shared counts lack if the worker dies now: what it holds ahead as well.

        Of the batches of corrections that it has sent, those up to number *counted* have arrived.
        """
        yield from self._holdings.held()
        yield from self._shared.uncounted(counted=counted)

    def _at_hand(self, scope: str, claims: tuple[Claim, ...]) -> Outcome | None:
        now = self._clocks.monotonic()
        leases = self._holdings.take(scope, claims, now=now)
        if leases is not None:
            self._refill_low(scope, claims, leases, now=now)
            return Granted(tuple(map(self._holdings.standing, claims, leases)))
        short = self._shortages.of(claims, now=now)
        return None if short is None else Limited(short)

    async def _take_later(self, asking: _Asking, claims: tuple[Claim, ...]) -> Outcome:
        try:
            async with self._shared.turn():
                at_hand = self._at_hand(asking.scope, claims)
                return at_hand or await self._take_shared(asking, claims)
        except LimitsUnavailableError:
            return await self._take_local(asking, claims)

    async def _take_shared(self, asking: _Asking, claims: tuple[Claim, ...]) -> Outcome:
        scope = asking.scope
        for _ in range(MAX_TELLS):
            wanted = [self._wanted(scope, claim) for claim in claims]
            asks = tuple(
                Ask(claim, claim.cost, ahead, asking.member)
                for claim, ahead in zip(claims, wanted, strict=True)
            )
            answer = await self._ask(scope, asks)
            match answer:
                case Taken():
                    leases = [self._lease(scope, claim) for claim in claims]
                    return Granted(tuple(map(self._holdings.standing, claims, leases)))
                case Short(index, states):
                    standing = _stands(claims[index], states[index])
                    self._shortages.note(claims[index], standing, now=self._clocks.monotonic())
                    return Limited(standing)
                case Unknown(index, start):
                    await self._tell(asking, claims[index], start)
                case _:
                    assert_never(answer)
        raise LimitsUnavailableError("does not keep what it is told")

    async def _ask(self, scope: str, asks: tuple[Ask, ...]) -> Answer:
        """Ask the shared counts, and keep what they say."""
        ahead = [self._holdings.lease(scope, ask.claim) for ask in asks if ask.ahead]
        for lease in ahead:
            lease.refilling = True
        try:
            answer = await self._shared.take(scope, asks, at=self._clocks.wall())
        finally:
            for lease in ahead:
                lease.refilling = False
        if not isinstance(answer, Unknown):
            self._keep(scope, asks, answer)
        return answer

    def _keep(self, scope: str, asks: tuple[Ask, ...], answer: Taken | Short) -> None:
        self.is_local = False
        now, wall = self._clocks.monotonic(), self._clocks.wall()
        is_taken = isinstance(answer, Taken)
        for ask, state in zip(asks, answer.states, strict=True):
            claim = ask.claim
            self.budgets.note(claim.limit, state, now=wall, is_taken=is_taken)
            if is_taken:
                back = self._holdings.fill(scope, claim, state, asked=ask.ahead, now=now)
                if back is not None:
                    self._shared.correct(scope, back)
            else:
                self._holdings.note(claim, state, now=now)
            limit_id = claim.limit.id
            if self._local.is_counting(limit_id) and self._shared.is_complete(limit_id):
                self._local.forget(limit_id)

    async def _tell(self, asking: _Asking, claim: Claim, start: int) -> None:
        subject = subject_of(asking.principal, claim.limit)
        used = await self._totals.used(claim.limit, subject=subject, start=start)
        await self._shared.begin(asking.scope, claim, start=start, used=used)

    async def _take_local(self, asking: _Asking, claims: tuple[Claim, ...]) -> Outcome:
        self.is_local = True
        for claim in claims:
            await self._look_up(asking.principal, claim)
        now, known = self._moment(), self._holdings.known
        index = self._local.take(claims, member=asking.member, now=now, known=known)
        states = [
            self._local.state(claim, now=now, known=known.get(claim.limit.id)) for claim in claims
        ]
        if index is not None:
            return Limited(_stands(claims[index], states[index]), is_local=True)
        for claim in claims:
            if not isinstance(claim.span, Slots):
                self._shared.correct(asking.scope, _new(claim, now.wall))
        return Granted(tuple(map(_stands, claims, states)), is_local=True)

    async def _look_up(self, principal: Principal, claim: Claim) -> None:
        """Learn from the records what was used of a period that nobody here has heard of."""
        known = self._holdings.known.get(claim.limit.id)
        is_known = known is not None and known.period_start == claim.period_start
        now = self._clocks.monotonic()
        if is_known or not isinstance(claim.span, Calendar) or now < self._no_records_until:
            return
        subject = subject_of(principal, claim.limit)
        start = claim.period_start
        try:
            used = await self._totals.used(claim.limit, subject=subject, start=start)
        except LimitsUnavailableError:
            self._no_records_until = now + RECORDS_AWAY_SECONDS
            return
        state = State(0, max(0, claim.limit.amount - used), 0.0, used)
        self._holdings.note(claim, state, now=now)

    def _lease(self, scope: str, claim: Claim) -> Lease | None:
        return None if isinstance(claim.span, Slots) else self._holdings.lease(scope, claim)

    def _wanted(self, scope: str, claim: Claim) -> int:
        lease = self._lease(scope, claim)
        return 0 if lease is None else lease.wanted(now=self._clocks.monotonic())

    def _refill_low(
        self, scope: str, claims: tuple[Claim, ...], leases: tuple[Lease, ...], *, now: float
    ) -> None:
        asks: list[Ask] = []
        for claim, lease in zip(claims, leases, strict=True):
            if wanted := lease.wanted(now=now):
                lease.refilling = True
                asks.append(Ask(claim, 0, wanted))
        if asks:
            task = asyncio.ensure_future(self._refill(scope, tuple(asks)))
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)

    async def _refill(self, scope: str, asks: tuple[Ask, ...]) -> None:
        with contextlib.suppress(LimitsUnavailableError):
            await self._ask(scope, asks)

    def _moment(self) -> Moment:
        return Moment(self._clocks.monotonic(), self._clocks.wall())


def _new(claim: Claim, at: float) -> Change:
    start = claim.period_start
    return Change(claim.limit, claim.cost, period_start=start, is_new=True, taken_at=at)


def _stands(claim: Claim, state: State) -> Standing:
    return Standing(claim.limit, state.remaining, state.reset_seconds)


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
