"""What waits for the shared counts: added up by limit, and counted once however often it is sent.

No I/O and no clock: times are monotonic seconds, passed in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final

from sidecar.domain.limits import Limit, sliding_seconds
from sidecar.limits.ports import Change

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
    change: Change
    at: float


@dataclass(frozen=True, slots=True)
class Batch:
    """What is sent in one call; `number` tells the shared counts whether they have had it."""

    number: int
    scope: str
    sums: tuple[_Sum, ...]

    def changes(self, *, now: float) -> tuple[Change, ...]:
        """Return the changes, each with its age at *now*."""
        return tuple(
            replace(one.change, age_seconds=max(0.0, now - one.at))
            if one.change.is_new
            else one.change
            for one in self.sums
        )


class Corrections:
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

    def add(self, scope: str, change: Change, *, now: float) -> None:
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

    def uncounted(self, *, counted: int) -> Iterator[Change]:
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


def _key(change: Change) -> _Key:
    is_back = change.amount < 0 and change.period_start
    apart = int(change.taken_at // APART_SECONDS) if is_back else 0
    kind = _NEW if change.is_new else int(change.amount > 0)
    return change.limit.id, change.member, change.period_start, kind, apart


def _less_debt(sums: dict[_Key, _Sum], change: Change) -> Change:
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
