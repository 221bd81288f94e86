"""Decides whether a request may be made now, mostly without asking anybody."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Never, assert_never

from sidecar.domain.limits import Level, Limit, Standing
from sidecar.domain.principal import Principal
from sidecar.limits.claims import Calendar, Claim, Slots
from sidecar.limits.lease import Lease
from sidecar.limits.local import LocalShares, period_start
from sidecar.limits.ports import (
    Ask,
    Change,
    LimitStore,
    LimitsUnavailableError,
    Short,
    State,
    Taken,
    Unknown,
    UsageTotals,
)

TEND_SECONDS: Final = 0.25
MAX_CHANGES: Final = 100_000
"""Corrections that wait for the shared counts, some 30 MB; beyond, the oldest are dropped."""
MAX_BATCH: Final = 256
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


class Limiter:
    """The limits of a worker. `run` runs beside it, returns leases and sends corrections."""

    def __init__(
        self, store: LimitStore, totals: UsageTotals, *, shares: int, clocks: Clocks
    ) -> None:
        self._store = store
        self._totals = totals
        self._clocks = clocks
        self._shares = shares
        self._local = LocalShares(shares=shares)
        self._leases: dict[tuple[str, int], Lease] = {}
        self._owners: dict[tuple[str, int], tuple[str, Claim]] = {}
        self._states: dict[str, State] = {}
        self._changes: deque[tuple[str, Change]] = deque(maxlen=MAX_CHANGES)
        self._refills: set[asyncio.Task[None]] = set()
        self.is_local = False

    def take(
        self, principal: Principal, claims: tuple[Claim, ...], *, member: str
    ) -> Outcome | Awaitable[Outcome]:
        """Take what *claims* ask for, all or nothing; *member* names the request.

        At once where leases have it all, else something to await.
        """
        if not claims:
            return Granted(())
        scope = principal.organization_id
        if self._take_leased(claims):
            self._refill_low(scope, claims)
            return Granted(self._standings(claims))
        return self._take_shared(principal, claims, member=member)

    def settle(self, organization_id: str, changes: Sequence[Change]) -> None:
        """Put right what was taken for a request that has ended; sent with others, later."""
        self._changes.extend((organization_id, change) for change in changes)

    @property
    def waiting(self) -> int:
        """How many corrections have not reached the shared counts yet."""
        return len(self._changes)

    async def run(self) -> Never:
        """Return what leases did not use and send corrections, for ever."""
        while True:
            await asyncio.sleep(TEND_SECONDS)
            await self.tend()

    async def tend(self) -> None:
        """Do so once."""
        now = self._clocks.monotonic()
        for key, lease in list(self._leases.items()):
            units = lease.expired(now=now)
            scope, claim = self._owners[key]
            if units:
                self._changes.append((scope, self._change(claim, -units)))
            elif not lease.refilling and not lease.left and not lease.is_in_demand(now=now):
                del self._leases[key], self._owners[key]
        await self._send_changes()

    def _take_leased(self, claims: tuple[Claim, ...]) -> bool:
        now = self._clocks.monotonic()
        given: list[tuple[Lease, int]] = []
        for claim in claims:
            lease = None if isinstance(claim.span, Slots) else self._lease(claim)
            if lease is None or not lease.take(claim.cost, now=now):
                for one, cost in given:
                    one.put_back(cost)
                return False
            given.append((lease, claim.cost))
        return True

    def _lease(self, claim: Claim) -> Lease:
        key = (claim.limit.id, claim.reserve)
        lease = self._leases.get(key)
        if lease is None or lease.amount != claim.limit.amount:
            # A limit that was changed starts anew: what was held of the old one runs out unused.
            lease = self._leases[key] = Lease(claim.limit.amount)
        return lease

    async def _take_shared(
        self, principal: Principal, claims: tuple[Claim, ...], *, member: str
    ) -> Outcome:
        scope = principal.organization_id
        now = self._clocks.monotonic()
        asks = tuple(Ask(claim, claim.cost, self._wanted(claim, now), member) for claim in claims)
        try:
            for _ in range(MAX_TELLS):
                answer = await self._store.take(scope, asks)
                match answer:
                    case Taken(states):
                        self._keep(scope, asks, states)
                        return Granted(self._standings(claims))
                    case Short(index, states):
                        return Limited(_stands(claims[index], states[index]))
                    case Unknown(index, start):
                        await self._tell(principal, asks[index], start)
                    case _:
                        assert_never(answer)
        except LimitsUnavailableError:
            pass
        return self._take_local(scope, claims, member=member)

    async def _tell(self, principal: Principal, ask: Ask, start: int) -> None:
        subject = subject_of(principal, ask.claim.limit)
        used = await self._totals.used(ask.claim.limit, subject=subject, start=start)
        await self._store.begin(principal.organization_id, ask, start=start, used=used)

    def _take_local(self, scope: str, claims: tuple[Claim, ...], *, member: str) -> Outcome:
        self.is_local = True
        now = self._clocks.wall()
        index = self._local.take(claims, member=member, now=now)
        if index is not None:
            state = self._local.state(claims[index], now=now)
            return Limited(_stands(claims[index], state), is_local=True)
        for claim in claims:
            if isinstance(claim.span, Calendar):
                self._changes.append((scope, self._change(claim, claim.cost)))
        standings = (_stands(claim, self._local.state(claim, now=now)) for claim in claims)
        return Granted(tuple(standings), is_local=True)

    def _wanted(self, claim: Claim, now: float) -> int:
        return 0 if isinstance(claim.span, Slots) else self._lease(claim).wanted(now=now)

    def _refill_low(self, scope: str, claims: tuple[Claim, ...]) -> None:
        now = self._clocks.monotonic()
        asks = tuple(
            Ask(claim, 0, wanted) for claim in claims if (wanted := self._wanted(claim, now))
        )
        if asks:
            for ask in asks:
                self._lease(ask.claim).refilling = True
            task = asyncio.ensure_future(self._refill(scope, asks))
            self._refills.add(task)
            task.add_done_callback(self._refills.discard)

    async def _refill(self, scope: str, asks: tuple[Ask, ...]) -> None:
        try:
            answer = await self._store.take(scope, asks)
        except LimitsUnavailableError:
            return
        finally:
            for ask in asks:
                self._lease(ask.claim).refilling = False
        if isinstance(answer, Taken):
            self._keep(scope, asks, answer.states)

    def _keep(self, scope: str, asks: tuple[Ask, ...], states: tuple[State, ...]) -> None:
        if self.is_local:
            self.is_local = False
            self._local = LocalShares(shares=self._shares)
        now = self._clocks.monotonic()
        for ask, state in zip(asks, states, strict=True):
            self._states[ask.claim.limit.id] = state
            if not isinstance(ask.claim.span, Slots):
                self._owners[ask.claim.limit.id, ask.claim.reserve] = (scope, ask.claim)
                self._lease(ask.claim).filled(state.ahead, asked=ask.ahead, now=now)

    def _standings(self, claims: tuple[Claim, ...]) -> tuple[Standing, ...]:
        return tuple(self._standing(claim) for claim in claims)

    def _standing(self, claim: Claim) -> Standing:
        state = self._states[claim.limit.id]
        held = 0 if isinstance(claim.span, Slots) else self._lease(claim).left
        return Standing(claim.limit, state.remaining + held, state.reset_seconds)

    def _change(self, claim: Claim, amount: int) -> Change:
        start = 0
        if isinstance(claim.span, Calendar):
            start = period_start(claim.span.borders, self._clocks.wall())
        return Change(claim.limit, amount, period_start=start)

    async def _send_changes(self) -> None:
        for scope, batch in self._batches():
            try:
                await self._store.adjust(scope, batch)
            except LimitsUnavailableError:
                self._changes.extendleft((scope, change) for change in reversed(batch))
                return

    def _batches(self) -> Iterator[tuple[str, list[Change]]]:
        """Yield what waits, in order, as much at a time as one call takes."""
        waiting = len(self._changes)
        while waiting and self._changes:
            scope = self._changes[0][0]
            batch: list[Change] = []
            while (
                waiting
                and self._changes
                and self._changes[0][0] == scope
                and len(batch) < MAX_BATCH
            ):
                batch.append(self._changes.popleft()[1])
                waiting -= 1
            yield scope, batch


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
