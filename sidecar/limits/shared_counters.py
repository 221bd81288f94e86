"""Shared counters in Valkey: acquisitions, corrections, and replies that were lost."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from sidecar.domain.limits import Limit, sliding_seconds
from sidecar.limits.limit_check import ConcurrencyWindow, LimitCheck
from sidecar.limits.store import (
    Acquire,
    Adjustment,
    LimitStore,
    LimitsUnavailableError,
    NotSentError,
    Reply,
)

MAX_UNACKNOWLEDGED: Final = 10_000
"""Beyond, the oldest stay taken: rather too much than too little."""
MAX_VOIDED: Final = 256


@dataclass(frozen=True, slots=True)
class UnacknowledgedTake:
    """One take, made `at` or never; `name` is what the shared counts know it by."""

    scope: str
    name: str
    acquires: tuple[Acquire, ...]
    at: float

    def given_back(self, ahead: tuple[int, ...]) -> Iterator[Adjustment]:
        """Yield what puts it right, where it was made and took *ahead* of its limits as well."""
        for acquire, units in zip(self.acquires, ahead, strict=True):
            check = acquire.check
            if isinstance(check.window, ConcurrencyWindow):
                yield Adjustment(check.limit, 0, member=acquire.member)
            else:
                back = -(acquire.cost + units)
                start = check.period_start
                yield Adjustment(check.limit, back, period_start=start, taken_at=self.at)


class UnacknowledgedTakes:
    """Of one worker, oldest first."""

    def __init__(self) -> None:
        self._takes: deque[UnacknowledgedTake] = deque(maxlen=MAX_UNACKNOWLEDGED)

    def __len__(self) -> int:
        return len(self._takes)

    def add(self, take: UnacknowledgedTake) -> None:
        """Keep *take*."""
        self._takes.append(take)

    def some(self) -> tuple[UnacknowledgedTake, ...]:
        """Return as many of one scope as are made void in one call."""
        if not self._takes:
            return ()
        scope = self._takes[0].scope
        return tuple(take for take in self._takes if take.scope == scope)[:MAX_VOIDED]

    def remove(self, voided: tuple[UnacknowledgedTake, ...]) -> None:
        """Nothing has to be done about these any more."""
        names = {take.name for take in voided}
        left = (take for take in self._takes if take.name not in names)
        self._takes = deque(left, maxlen=MAX_UNACKNOWLEDGED)


MAX_RELEASES: Final = 100_000
"""Slots that wait to be freed, some 30 MB; beyond, the oldest are left to their expiry."""
MAX_BATCH: Final = 256
APART_SECONDS: Final = 1
"""What is given back to a calendar limit is one sum for each second that it was taken in: a count
that was begun later lacks it, and must not lose what was taken since."""

_Key = tuple[str, str, int, int, int]
_NEW: Final = 2


@dataclass(frozen=True, slots=True)
class _Sum:
    change: Adjustment
    at: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent in one call; `number` tells the shared counts whether they have had it."""

    number: int
    scope: str
    sums: tuple[_Sum, ...]

    def changes(self, *, now: float) -> tuple[Adjustment, ...]:
        """Return the changes, each with its age at *now*."""
        return tuple(
            replace(one.change, age_seconds=max(0.0, now - one.at))
            if one.change.is_new
            else one.change
            for one in self.sums
        )


class Adjustments:
    """Of one worker. A batch is sent, unchanged, until it is acknowledged; then comes the next.

    *shares* is the number of workers that share the limits.
    """

    def __init__(self, *, shares: int) -> None:
        self._shares = shares
        self._waiting: dict[str, dict[_Key, _Sum]] = {}
        self._releases = 0
        self._debts = 0
        self._sent: Batch | None = None
        self._number = 0

    def __len__(self) -> int:
        sent = 0 if self._sent is None else len(self._sent.sums)
        return sent + sum(map(len, self._waiting.values()))

    def add(self, scope: str, change: Adjustment, *, now: float) -> None:
        """Keep *change*.

        New units drain from now on. A worker that goes by its share drains at the pace of its
        share: together they drain as fast as the limit does, and not each of them.
        """
        sums = self._waiting.setdefault(scope, {})
        if self._debts and change.amount < 0 and change.period_start:
            change = _less_debt(sums, change)
            if not change.amount:
                return
        key = _key(change)
        known = sums.get(key)
        if known is None:
            self._releases += bool(change.member)
            self._debts += change.is_new
            sums[key] = _Sum(change, now)
            self._drop_releases()
            return
        drained_at = now - known.change.amount * _interval(change.limit) * self._shares
        total = known.change.amount + change.amount
        taken_at = min(known.change.taken_at, change.taken_at)
        sums[key] = _Sum(change.of(total, taken_at=taken_at), max(known.at, drained_at))

    @property
    def has_debts(self) -> bool:
        """Whether units were used that nobody has counted yet."""
        return self._debts > 0

    def waits(self, limit_id: str) -> bool:
        """Tell whether anything about a limit has not been counted yet."""
        sent = () if self._sent is None else self._sent.sums
        return any(one.change.limit.id == limit_id for one in sent) or any(
            key[0] == limit_id for sums in self._waiting.values() for key in sums
        )

    def batch(self) -> Batch | None:
        """Return what is to be sent now: the same again until it is acknowledged."""
        if self._sent is None and self._waiting:
            scope, sums = next(iter(self._waiting.items()))
            # What is new comes first: what was too much of it may be in the same batch.
            new = (key for key, one in sums.items() if one.change.is_new)
            some = (*(new if self._debts else ()), *islice(sums, MAX_BATCH))
            keys = list(dict.fromkeys(some))[:MAX_BATCH]
            self._number += 1
            self._sent = Batch(self._number, scope, tuple(sums.pop(key) for key in keys))
            self._releases -= sum(bool(one.change.member) for one in self._sent.sums)
            if not sums:
                del self._waiting[scope]
        return self._sent

    def acknowledge(self) -> None:
        """The last batch was counted."""
        if self._sent is not None:
            self._debts -= sum(one.change.is_new for one in self._sent.sums)
        self._sent = None

    def uncounted(self, *, counted: int) -> Iterator[Adjustment]:
        """Yield what is lost with a worker that dies; batches up to *counted* have arrived."""
        if self._sent is not None and self._sent.number > counted:
            yield from (one.change for one in self._sent.sums)
        for sums in self._waiting.values():
            yield from (one.change for one in sums.values())

    def _drop_releases(self) -> None:
        if self._releases <= MAX_RELEASES:
            return
        for sums in self._waiting.values():
            oldest = next((key for key, one in sums.items() if one.change.member), None)
            if oldest is not None:
                del sums[oldest]
                self._releases -= 1
                return


def _key(change: Adjustment) -> _Key:
    is_back = change.amount < 0 and change.period_start
    apart = int(change.taken_at // APART_SECONDS) if is_back else 0
    kind = _NEW if change.is_new else int(change.amount > 0)
    return change.limit.id, change.member, change.period_start, kind, apart


def _less_debt(sums: dict[_Key, _Sum], change: Adjustment) -> Adjustment:
    """Give back what nobody has counted yet; return what is left to be given back.

    While the shared counts are away, what was taken since this worker's first debt is a debt of
    one worker or another. Sent apart, it could not be given back to a count that is begun after.
    """
    key = (change.limit.id, change.member, change.period_start, _NEW, 0)
    known = sums.get(key)
    if known is None or change.taken_at < known.change.taken_at:
        return change
    debt, at = known.change, change.taken_at
    units = min(debt.amount, -change.amount)
    sums[key] = replace(known, change=debt.of(debt.amount - units, taken_at=debt.taken_at))
    return change.of(change.amount + units, taken_at=at)


def _interval(limit: Limit) -> float:
    """Return in how many seconds a sliding limit drains a unit; a period drains nothing."""
    window = sliding_seconds(limit.window)
    return 0.0 if window is None else window / max(1, limit.amount)


AWAY_SECONDS: Final = 0.05
"""After a call without an answer, how long nobody calls: the others need not wait for theirs."""
QUEUE_SECONDS: Final = 0.25
"""How long a request waits for its turn to call."""


@dataclass(frozen=True, slots=True)
class Worker:
    """One of `shares` workers that share limits; `instance` was never another's before."""

    instance: str
    shares: int


class SharedCounts:
    """Counts each take and each correction once, whichever answers are lost.

    *calls* is how many are under way at once.
    """

    def __init__(
        self, store: LimitStore, *, worker: Worker, calls: int, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self.worker = worker
        self._clock = clock
        self._turns = asyncio.Semaphore(calls)
        self._sending = asyncio.Lock()
        self._takes = 0
        self._away_until = 0.0
        self._corrections = Adjustments(shares=worker.shares)
        self._unacknowledged = UnacknowledgedTakes()

    def __len__(self) -> int:
        return len(self._corrections) + len(self._unacknowledged)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to call. Much may have become known meanwhile: look again.

        Raises:
            LimitsUnavailableError: it would take too long.
        """
        try:
            async with asyncio.timeout(QUEUE_SECONDS):
                await self._turns.acquire()
        except TimeoutError:
            raise LimitsUnavailableError("busy") from None
        try:
            yield
        finally:
            self._turns.release()

    async def take(self, scope: str, acquires: tuple[Acquire, ...], *, at: float) -> Reply:
        """Take all that is asked for, or nothing; who has used what nobody counted tells it first.

        *at* is now, in seconds since the epoch. Where no answer comes, for whatever reason, the
        take is made void later.

        Raises:
            LimitsUnavailableError: no answer in time, or none a moment ago.
        """
        if self._is_away or not await self._is_out_of_debt():
            raise LimitsUnavailableError("away")
        self._takes += 1
        name = f"{self.worker.instance}.{self._takes}"
        is_heard = False
        try:
            answer = await self._store.take(scope, acquires, name=name)
            is_heard = True
        except NotSentError:
            is_heard = True
            raise
        except LimitsUnavailableError:
            self._away_until = self._clock() + AWAY_SECONDS
            raise
        finally:
            if not is_heard:
                self._unacknowledged.add(UnacknowledgedTake(scope, name, acquires, at))
        return answer

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        """Tell what was used of a calendar limit since *start*, unless somebody has.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        await self._store.begin(scope, check, start=start, used=used)

    def correct(self, scope: str, change: Adjustment) -> None:
        """Have *change* counted."""
        self._corrections.add(scope, change, now=self._clock())

    def is_complete(self, limit_id: str) -> bool:
        """Tell whether all that is known here of a limit has been counted."""
        return not self._corrections.waits(limit_id)

    def uncounted(self, *, counted: int) -> Iterator[Adjustment]:
        """Yield what is lost with a worker that dies; batches up to *counted* have arrived."""
        return self._corrections.uncounted(counted=counted)

    async def send(self) -> None:
        """Send what waits; what cannot be sent now goes on waiting."""
        async with self._sending:
            await self._send()

    @property
    def _is_away(self) -> bool:
        return self._clock() < self._away_until

    async def _is_out_of_debt(self) -> bool:
        """Tell what was used and nobody has counted; return whether all of it has been told."""
        if self._corrections.has_debts:
            async with self._sending:
                if not self._is_away:  # else one that waited here before has just found out
                    await self._send()
        return not self._corrections.has_debts

    async def _send(self) -> None:
        try:
            while takes := self._unacknowledged.some():
                found = await self._store.void(takes[0].scope, [take.name for take in takes])
                self._unacknowledged.remove(takes)
                for take, ahead in zip(takes, found, strict=True):
                    for change in () if ahead is None else take.given_back(ahead):
                        self.correct(take.scope, change)
            while (batch := self._corrections.batch()) is not None:
                changes = batch.changes(now=self._clock())
                await self._store.adjust(
                    batch.scope, changes, sender=self.worker.instance, number=batch.number
                )
                self._corrections.acknowledge()
        except LimitsUnavailableError:
            self._away_until = self._clock() + AWAY_SECONDS
