"""Shared counters: takes of units, adjustments of them, and takes whose reply was lost.

Each take and each adjustment counts once, whichever replies are lost: see decision 47.
"""

from __future__ import annotations

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Final

import msgspec
from msgspec.structs import replace

from sidecar.domain.limits import Limit, sliding_seconds
from sidecar.limits.limit_check import ConcurrencyWindow, LimitCheck
from sidecar.limits.local_shares import SharingWorker
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
MAX_ENDED: Final = 10_000
"""Ends of requests that wait for a claim; beyond, the oldest are counted without one."""


@dataclass(frozen=True, slots=True)
class UnacknowledgedTake:
    """A take without a reply, made `at` or never; the shared counters know it by `name`.

    `asked_at` is the same time by the clock of `SharedCounts`.
    """

    scope: str
    name: str
    acquires: tuple[Acquire, ...]
    at: float
    asked_at: float

    def returned(self, ahead: tuple[int, ...], *, now: float) -> Iterator[Adjustment]:
        """Yield the adjustments that return its units, *ahead* of its limits included.

        Units that a sliding limit has drained until *now* are not returned. If *ahead* is of
        another number of limits, it is not of this take: no unit is returned.
        """
        if len(ahead) != len(self.acquires):
            return
        for acquire, units in zip(self.acquires, ahead, strict=True):
            check = acquire.check
            if isinstance(check.window, ConcurrencyWindow):
                yield Adjustment(check.limit, 0, member=acquire.member)
            else:
                back = -(acquire.cost + units)
                start = check.period_start
                age = max(0.0, now - self.asked_at)
                yield Adjustment(
                    check.limit, back, period_start=start, age_seconds=age, taken_at=self.at
                )


class UnacknowledgedTakes:
    """The takes of a worker whose reply was lost, oldest first."""

    def __init__(self) -> None:
        self._takes: deque[UnacknowledgedTake] = deque(maxlen=MAX_UNACKNOWLEDGED)

    def __len__(self) -> int:
        return len(self._takes)

    def add(self, take: UnacknowledgedTake) -> None:
        """Keep *take*."""
        self._takes.append(take)

    def some(self) -> tuple[UnacknowledgedTake, ...]:
        """Return takes of one scope, as many as one call voids."""
        if not self._takes:
            return ()
        scope = self._takes[0].scope
        return tuple(take for take in self._takes if take.scope == scope)[:MAX_VOIDED]

    def remove(self, voided: tuple[UnacknowledgedTake, ...]) -> None:
        """Remove takes that were voided."""
        names = {take.name for take in voided}
        left = (take for take in self._takes if take.name not in names)
        self._takes = deque(left, maxlen=MAX_UNACKNOWLEDGED)


MAX_RELEASES: Final = 100_000
"""Slots that wait to be freed, some 30 MB; beyond, the oldest expire."""
MAX_BATCH: Final = 256
LOOKED_AT: Final = 1_024
ROUNDS: Final = 16
"""Of the sums that wait, a call of `drop_drained` looks at so many, or at this part of them: a
hundred thousand at once would hold up requests for tens of milliseconds, four times a second."""
APART_SECONDS: Final = 1
"""Returned units are summed by the second in which they were taken. A calendar limit's counter
that was begun later does not include them, and must not lose units taken since; those of a
sliding limit may have drained."""

_Key = tuple[str, str, int, int, int]
_NEW: Final = 2


class _Sum(msgspec.Struct, frozen=True, gc=False):
    change: Adjustment
    at: float


class Batch(msgspec.Struct, frozen=True, gc=False):
    """Adjustments sent in one call; by `number` the store recognises one that it has applied."""

    number: int
    scope: str
    sums: tuple[_Sum, ...]

    def changes(self, *, now: float) -> tuple[Adjustment, ...]:
        """Return the changes, each with its age at *now*."""
        return tuple(
            replace(one.change, age_seconds=max(0.0, now - one.at))
            if one.change.is_new or one.change.amount < 0
            else replace(one.change, age_seconds=0.0)
            for one in self.sums
        )


class Adjustments:
    """The adjustments of a worker. A batch is sent, unchanged, until it is acknowledged."""

    def __init__(self, worker: SharingWorker) -> None:
        self._worker = worker
        self._waiting: dict[str, dict[_Key, _Sum]] = {}
        self._releases = 0
        self._uncounted = 0
        self._sent: Batch | None = None
        self._number = 0
        self._to_look_at: list[tuple[str, _Key]] = []

    def __len__(self) -> int:
        sent = 0 if self._sent is None else len(self._sent.sums)
        return sent + sum(map(len, self._waiting.values()))

    def add(self, scope: str, change: Adjustment, *, now: float) -> None:
        """Keep *change*.

        New units drain from now on, and returned ones since they were taken. A worker that goes by
        its share drains at the pace of its share: together they drain as fast as the limit does,
        and not each of them. Returned units that have drained are not kept.
        """
        is_return = change.amount < 0
        at = now - change.age_seconds if is_return else now
        if _drained_at(change, at=at) <= now:
            return
        sums = self._waiting.setdefault(scope, {})
        if self._uncounted and change.amount < 0 and change.period_start:
            change = _net_of_uncounted(sums, change)
            if not change.amount:
                return
        taken_at = change.taken_at if change.period_start else at
        apart = int(taken_at // APART_SECONDS) if is_return else 0
        kind = _NEW if change.is_new else int(change.amount > 0)
        key = (change.limit.id, change.member, change.period_start, kind, apart)
        known = sums.get(key)
        if known is None:
            self._releases += bool(change.member)
            self._uncounted += change.is_new
            sums[key] = _Sum(change, at)
            if self._releases > MAX_RELEASES:
                releases = ((one, key) for one in self._waiting.values() for key in one)
                waiting, oldest = next(
                    (one, key) for one, key in releases if one[key].change.member
                )
                del waiting[oldest]
                self._releases -= 1
            return
        began_at = now - known.change.amount * _unit_seconds(change.limit) * self._worker.shares
        total = known.change.amount + change.amount
        taken_at = min(known.change.taken_at, change.taken_at)
        at = min(known.at, at) if is_return else max(known.at, began_at)
        sums[key] = _Sum(replace(change, amount=total, taken_at=taken_at), at)

    def drop_drained(self, *, now: float) -> None:
        """Drop returned units that have drained while they waited: nothing is left to return.

        In an outage there is a sum for each limit and second, and no end of them otherwise. Of
        many sums, each call looks at a part, and `ROUNDS` calls at all that were there before.
        """
        if not self._to_look_at:
            self._to_look_at = [
                (scope, key) for scope, one in self._waiting.items() for key in one
            ]
        count = max(LOOKED_AT, len(self) // ROUNDS)
        looked_at = self._to_look_at[-count:]
        del self._to_look_at[-count:]
        for scope, key in looked_at:
            sums = self._waiting.get(scope, {})
            one = sums.get(key)
            if one is not None and _drained_at(one.change, at=one.at) <= now:
                del sums[key]
                if not sums:
                    del self._waiting[scope]

    @property
    def has_uncounted(self) -> bool:
        """Whether units were used that the shared counters do not include yet."""
        return self._uncounted > 0

    def waits(self, limit_id: str) -> bool:
        """Return whether any adjustment of a limit has not been counted yet."""
        sent = () if self._sent is None else self._sent.sums
        return any(one.change.limit.id == limit_id for one in sent) or any(
            key[0] == limit_id for sums in self._waiting.values() for key in sums
        )

    def batch(self) -> Batch | None:
        """Return the batch to send now: the same again until it is acknowledged."""
        if self._sent is None and self._waiting:
            scope, sums = next(iter(self._waiting.items()))
            # New units come first: units of them to be returned may be in the same batch.
            new = (key for key, one in sums.items() if one.change.is_new)
            some = (*(new if self._uncounted else ()), *islice(sums, MAX_BATCH))
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
            self._uncounted -= sum(one.change.is_new for one in self._sent.sums)
        self._sent = None

    def uncounted(self, *, counted: int) -> Iterator[Adjustment]:
        """Yield the adjustments lost if the worker dies; batches up to *counted* have arrived."""
        if self._sent is not None and self._sent.number > counted:
            yield from (one.change for one in self._sent.sums)
        for sums in self._waiting.values():
            yield from (one.change for one in sums.values())


def _unit_seconds(limit: Limit) -> float:
    window = sliding_seconds(limit.window)  # a period drains nothing
    return 0.0 if window is None else window / max(1, limit.amount)


def _drained_at(change: Adjustment, *, at: float) -> float:
    """Return when units returned to a sliding limit, taken *at*, have drained; else never.

    The rule is that of limits_adjust.lua: all have drained once the units at once would have.
    """
    if change.amount >= 0 or sliding_seconds(change.limit.window) is None:
        return math.inf
    return at + change.limit.at_once * _unit_seconds(change.limit)


def _net_of_uncounted(sums: dict[_Key, _Sum], change: Adjustment) -> Adjustment:
    """Return units to those not counted yet; return the adjustment that is left to send.

    While the shared counters are away, all units taken since this worker's first uncounted ones
    are uncounted on some worker. Sent apart, they could not be returned to a counter begun later.
    """
    key = (change.limit.id, change.member, change.period_start, _NEW, 0)
    known = sums.get(key)
    if known is None or change.taken_at < known.change.taken_at:
        return change
    units = min(known.change.amount, -change.amount)
    left = replace(known.change, amount=known.change.amount - units)
    sums[key] = replace(known, change=left)
    return replace(change, amount=change.amount + units)


AWAY_SECONDS: Final = 0.05
"""After a call without a reply, the time without calls: other requests need not wait too."""
QUEUE_SECONDS: Final = 0.25
"""How long a request waits for its turn to call."""


class _End(msgspec.Struct, frozen=True, gc=False):
    changes: Sequence[Adjustment]
    at: float


class SharedCounts:
    """Counts each take and each adjustment once, whichever replies are lost.

    *calls* is how many requests may call at once; refills of leases and `send` are not counted.
    """

    def __init__(
        self, store: LimitStore, *, worker: SharingWorker, calls: int, clock: Callable[[], float]
    ) -> None:
        self._store = store
        self.worker = worker
        self._clock = clock
        self._turns = asyncio.Semaphore(calls)
        self._sending = asyncio.Lock()
        self._takes = 0
        self._away_until = 0.0
        self._adjustments = Adjustments(worker)
        self._ended: OrderedDict[tuple[str, str, str], _End] = OrderedDict()
        self._unacknowledged = UnacknowledgedTakes()

    def __len__(self) -> int:
        return len(self._adjustments) + len(self._ended) + len(self._unacknowledged)

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """Wait for a turn to call. The leases may have been refilled meanwhile: look again.

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
        """Take all units that *acquires* request, or none; units not counted yet are sent first.

        *at* is now, in seconds since the epoch. A take without a reply is voided later.

        Raises:
            LimitsUnavailableError: no answer in time, or none a moment ago.
        """
        if self.is_away:
            raise LimitsUnavailableError("away")
        if self._adjustments.has_uncounted:
            async with self._sending:
                if not self.is_away:  # else one that waited here before has just found out
                    await self._send()
            if self._adjustments.has_uncounted:
                raise LimitsUnavailableError("away")
        self._takes += 1
        name = f"{self.worker.instance}.{self._takes}"
        is_answered = False
        try:
            answer = await self._store.take(scope, acquires, name=name)
            is_answered = True
        except NotSentError:
            is_answered = True
            raise
        except LimitsUnavailableError:
            self._away_until = self._clock() + AWAY_SECONDS
            raise
        finally:
            if not is_answered:
                asked_at = self._clock()
                self._unacknowledged.add(UnacknowledgedTake(scope, name, acquires, at, asked_at))
        return answer

    async def begin(self, scope: str, check: LimitCheck, *, start: int, used: int) -> None:
        """Begin the counter of a calendar limit with its use since *start*, unless it has begun.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        await self._store.begin(scope, check, start=start, used=used)

    def adjust(self, scope: str, change: Adjustment) -> None:
        """Have *change* counted."""
        self._adjustments.add(scope, change, now=self._clock())

    def settle(
        self, scope: str, changes: Sequence[Adjustment], *, name: str | None, part: str = ""
    ) -> None:
        """Have *changes* of a request counted, if no other worker has claimed its *name*.

        Envoy sends a log entry to another worker if the first has not acknowledged it in time.
        Both may settle its request then. To free a slot twice changes nothing. A *part* that a
        worker settles later is claimed by the name of the whole.
        """
        if name is None or not any(change.amount for change in changes):
            for change in changes:
                self.adjust(scope, change)
            return
        self._ended.setdefault((scope, name, part), _End(changes, self._clock()))
        if len(self._ended) > MAX_ENDED:
            (oldest, _, _), unclaimed = self._ended.popitem(last=False)
            self._adjust_by(unclaimed, oldest)

    def is_complete(self, limit_id: str) -> bool:
        """Return whether all adjustments of a limit have been counted."""
        is_ended = any(change.limit.id == limit_id for change in self._unclaimed)
        return not (is_ended or self._adjustments.waits(limit_id))

    def uncounted(self, *, counted: int) -> Iterator[Adjustment]:
        """Yield the adjustments lost if the worker dies; batches up to *counted* have arrived."""
        yield from self._unclaimed
        yield from self._adjustments.uncounted(counted=counted)

    async def send(self) -> None:
        """Send all adjustments; those that cannot be sent now wait."""
        self._adjustments.drop_drained(now=self._clock())
        async with self._sending:
            await self._send()

    @property
    def _unclaimed(self) -> Iterator[Adjustment]:
        return (change for end in self._ended.values() for change in end.changes)

    def _adjust_by(self, end: _End, scope: str) -> None:
        waited = self._clock() - end.at  # units to return have drained meanwhile
        for change in end.changes:
            self.adjust(scope, replace(change, age_seconds=change.age_seconds + waited))

    @property
    def is_away(self) -> bool:
        """Whether a call had no reply a moment ago: another would wait in vain as well."""
        return self._clock() < self._away_until

    async def _send(self) -> None:
        try:
            while takes := self._unacknowledged.some():
                found = await self._store.void(takes[0].scope, [take.name for take in takes])
                self._unacknowledged.remove(takes)
                for take, ahead in zip(takes, found, strict=True):
                    now = self._clock()
                    for change in () if ahead is None else take.returned(ahead, now=now):
                        self.adjust(take.scope, change)
            while self._ended:
                scope = next(iter(self._ended))[0]
                ends = list(islice((one for one in self._ended if one[0] == scope), MAX_BATCH))
                names = [name for _, name, _ in ends]
                are_own = await self._store.claim(scope, names, sender=self.worker.instance)
                for key, is_own in zip(ends, are_own, strict=True):
                    end = self._ended.pop(key, None)
                    if is_own and end is not None:
                        self._adjust_by(end, scope)
            while (batch := self._adjustments.batch()) is not None:
                changes = batch.changes(now=self._clock())
                await self._store.adjust(
                    batch.scope, changes, sender=self.worker.instance, number=batch.number
                )
                self._adjustments.acknowledge()
        except LimitsUnavailableError:
            self._away_until = self._clock() + AWAY_SECONDS
