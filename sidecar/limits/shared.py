"""One worker's way to the counts that all workers share: what it asks, and what it puts right."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

from sidecar.limits.claims import Claim
from sidecar.limits.corrections import Corrections
from sidecar.limits.ports import (
    Answer,
    Ask,
    Change,
    LimitStore,
    LimitsUnavailableError,
    NotAskedError,
)
from sidecar.limits.unheard import Unheard, UnheardTakes

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
        self._corrections = Corrections(shares=worker.shares)
        self._unheard = UnheardTakes()

    def __len__(self) -> int:
        return len(self._corrections) + len(self._unheard)

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

    async def take(self, scope: str, asks: tuple[Ask, ...], *, at: float) -> Answer:
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
            answer = await self._store.take(scope, asks, name=name)
            is_heard = True
        except NotAskedError:
            is_heard = True
            raise
        except LimitsUnavailableError:
            self._away_until = self._clock() + AWAY_SECONDS
            raise
        finally:
            if not is_heard:
                self._unheard.add(Unheard(scope, name, asks, at))
        return answer

    async def begin(self, scope: str, claim: Claim, *, start: int, used: int) -> None:
        """Tell what was used of a calendar limit since *start*, unless somebody has.

        Raises:
            LimitsUnavailableError: no answer in time.
        """
        await self._store.begin(scope, claim, start=start, used=used)

    def correct(self, scope: str, change: Change) -> None:
        """Have *change* counted."""
        self._corrections.add(scope, change, now=self._clock())

    def is_complete(self, limit_id: str) -> bool:
        """Tell whether all that is known here of a limit has been counted."""
        return not self._corrections.waits(limit_id)

    def uncounted(self, *, counted: int) -> Iterator[Change]:
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
            while takes := self._unheard.some():
                found = await self._store.void(takes[0].scope, [take.name for take in takes])
                self._unheard.remove(takes)
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
