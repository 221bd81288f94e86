"""What a request that is over comes to: what it cost, and what is given back of what it took."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from decimal import Decimal
from typing import Final, Never

from sidecar.authorization.key_cache import Hit, KeyCache
from sidecar.authorization.ports import KeyStoreUnavailableError
from sidecar.domain.limits import Limit
from sidecar.domain.usage import AnswerEnd, ExchangeEnded, UsageRecord
from sidecar.limits.settlement import Ended, changes_of, ended_with
from sidecar.pipeline.worker import Limits, Prices
from sidecar.storage.pool import UNAVAILABLE
from sidecar.storage.usage_store import PostgresUsage
from sidecar.telemetry.usage_metrics import UsageMetrics
from sidecar.usage.estimate import record_of
from sidecar.usage.prices import PriceList

PRICES_SECONDS: Final = 10.0
MAX_LATER: Final = 10_000
"""Ends that wait for their key's limits; beyond, the oldest keep what was taken for them."""


class PriceBook:
    """Prices as they were last read."""

    def __init__(self, store: PostgresUsage) -> None:
        self.current = PriceList()
        self._store = store

    async def run(self) -> Never:
        """Read them again and again; while the database is away, the last ones stay."""
        while True:
            try:
                self.current = await self._store.load_prices()
            except UNAVAILABLE:
                await asyncio.sleep(1.0)
                continue
            await asyncio.sleep(PRICES_SECONDS)


class Accounts:
    """Implements `EndedListener`: counts the cost, and puts right what was taken of limits."""

    def __init__(
        self, prices: Prices, metrics: UsageMetrics, *, limiter: Limits, keys: KeyCache
    ) -> None:
        self._prices = prices
        self._metrics = metrics
        self._limiter = limiter
        self._keys = keys
        self._later: deque[tuple[ExchangeEnded, Ended]] = deque(maxlen=MAX_LATER)
        self._settling: asyncio.Task[None] | None = None

    def exchange_ended(self, ended: ExchangeEnded) -> None:
        """Do both; at once where the key's limits are at hand."""
        record = record_of(ended)
        cost = self._prices.current.cost_of(record)
        self._metrics.cost(ended, cost)
        over = _over(ended, record, cost)
        if over is not None:
            self._settle(ended, over)

    def _settle(self, ended: ExchangeEnded, over: Ended) -> None:
        peeked = self._keys.peek(ended.request.key_id, now=time.monotonic())
        if isinstance(peeked, Hit):
            self._put_right(ended, over, peeked.record.limits)
            return
        self._later.append((ended, over))
        if self._settling is None or self._settling.done():
            self._settling = asyncio.ensure_future(self._settle_later())

    async def _settle_later(self) -> None:
        """One by one: all at once, they would leave requests no room to load their keys."""
        while self._later:
            ended, over = self._later.popleft()
            try:
                loaded = await self._keys.load(ended.request.key_id, now=time.monotonic)
            except KeyStoreUnavailableError:
                continue  # what was taken stays taken: too much rather than too little
            if loaded.record is not None:
                self._put_right(ended, over, loaded.record.limits)

    def _put_right(self, ended: ExchangeEnded, over: Ended, limits: tuple[Limit, ...]) -> None:
        self._limiter.settle(ended.request.organization_id, changes_of(limits, over))


def _over(ended: ExchangeEnded, record: UsageRecord, cost: Decimal | None) -> Ended | None:
    is_used = ended.end is not AnswerEnd.REFUSED
    return ended_with(record if is_used else None, ended.request, cost=cost)
