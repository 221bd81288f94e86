"""Wiring of usage: access log, spool, delivery, prices, settlement."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from typing import Final, Never, TypeVar

from sidecar.domain.limits import Limit, Measure
from sidecar.domain.usage import AnswerEnd, ExchangeEnded, JudgedRequest, UsageRecord
from sidecar.keys.cache import Hit, KeyCache
from sidecar.keys.ports import KeyStoreUnavailableError, KeyUnreadableError
from sidecar.limits.settlement import FinishedRequest, adjustments_of, finished_request
from sidecar.pipeline.dependencies import Limits, Prices
from sidecar.server.options import ReceiveLog
from sidecar.settings.process import Settings
from sidecar.settings.stores import UsageSource
from sidecar.storage.pool import UNAVAILABLE, Pool
from sidecar.storage.spool import UsageSpool
from sidecar.storage.spool_files import SpoolLimits
from sidecar.storage.usage_delivery import UsageDelivery
from sidecar.storage.usage_store import PostgresUsage
from sidecar.telemetry.usage_metrics import UsageMetrics
from sidecar.usage.prices import PriceList
from sidecar.usage.receiver import AccessLogReceiver, OwnEndReceiver, PendingVerdicts
from sidecar.usage.records import EndedListener, OwnEnds, UsageNotes, VerdictNotes
from sidecar.worker.runtime import BackgroundTasks

PRICES_SECONDS: Final = 10.0
FRESH_SECONDS: Final = 30.0
"""Usage is not written with prices that are older; without any it waits on the disk."""
CLOSING_SECONDS: Final = 3.0
RETRY_SECONDS: Final = 1.0
"""Between two tries to load the limits of a key."""
MAX_LATER: Final = 10_000
"""Requests that wait for their key's limits, or for prices; beyond, the oldest are not settled."""
UNSETTLED: Final = "unsettled"
"""In metrics: the reason of use that is in no limit."""
COST_PART: Final = "cost"

_Waiting = TypeVar("_Waiting")


class PriceCache:
    """The prices in the database as they were last read, for all parts of a worker."""

    def __init__(
        self,
        load: Callable[[], Awaitable[PriceList]],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.current = PriceList(is_known=False)
        self._load = load
        self._clock = clock
        self._read_at: float | None = None

    async def run(self) -> Never:
        """Read them every ten seconds; while the database is away, the last ones stay."""
        while True:
            try:
                await self._read()
            except UNAVAILABLE:
                await asyncio.sleep(1.0)
                continue
            await asyncio.sleep(PRICES_SECONDS)

    async def fresh(self) -> PriceList:
        """Return prices that were read in the last half minute, else read them now.

        Raises:
            One of `UNAVAILABLE`.
        """
        if self._read_at is None or self._clock() - self._read_at >= FRESH_SECONDS:
            await self._read()
        return self.current

    async def _read(self) -> None:
        self.current = await self._load()
        self._read_at = self._clock()


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """A request that is over and whose limits have not received its use yet, or its cost alone."""

    request: JudgedRequest
    finished: FinishedRequest
    is_cost_alone: bool = False


class UsageSettlement:
    """Implements `EndedListener`: counts requests and their cost, and settles their limits.

    *owner_limits* loads the limits of a team and an organization by their ids.
    """

    def __init__(
        self,
        prices: Prices,
        metrics: UsageMetrics,
        *,
        limiter: Limits,
        keys: KeyCache,
        owner_limits: Callable[[str, str], Awaitable[tuple[Limit, ...]]],
    ) -> None:
        self._prices = prices
        self._metrics = metrics
        self._limiter = limiter
        self._keys = keys
        self._owner_limits = owner_limits
        self._later: deque[_Unsettled] = deque()
        self._unpriced: deque[UsageRecord] = deque()
        self._uncounted: deque[tuple[UsageRecord, tuple[str, ...]]] = deque(maxlen=MAX_LATER)
        """For metrics alone: requests without limits take no room from those that have some."""
        self._settling: asyncio.Task[None] | None = None
        self._pricing: asyncio.Task[None] | None = None

    def exchange_ended(self, ended: ExchangeEnded, record: UsageRecord) -> None:
        """Count *ended* and its cost, and settle its limits; at once if the key is cached.

        Until prices are read for the first time, its cost waits for them; all else does not.
        """
        prices = self._prices.current
        cost = prices.cost_of(record)
        if cost is None and not prices.is_known:
            self._uncounted.append((record, self._metrics.exchange_ended(ended, record)))
            if ended.request.reserved is not None:
                self._wait(self._unpriced, record)
            if self._pricing is None or self._pricing.done():
                self._pricing = asyncio.ensure_future(self._settle_costs())
        else:
            self._metrics.exchange_ended(ended, record, cost)
        if ended.request.reserved is None:
            return
        is_used = ended.end is not AnswerEnd.REFUSED
        finished = finished_request(record if is_used else None, ended.request, cost=cost)
        if finished is None:
            return
        request = ended.request
        cached = self._keys.peek(request.key_id, now=time.monotonic())
        if isinstance(cached, Hit):
            changes = adjustments_of(cached.record.limits, finished, now=time.time())
            self._limiter.settle(request.organization_id, changes, name=finished.member)
        else:
            self._wait_for_key(_Unsettled(request, finished))

    async def aclose(self) -> None:
        """Settle the requests that wait for their key's limits, for some seconds at most."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSING_SECONDS):
                while running := self._running:
                    await asyncio.wait(running)
        for task in self._running:
            task.cancel()
        if waiting := len(self._later) + len(self._unpriced):
            self._metrics.lost(UNSETTLED, waiting)

    def _wait(self, queue: deque[_Waiting], one: _Waiting) -> None:
        queue.append(one)
        if len(queue) > MAX_LATER:
            queue.popleft()
            self._metrics.lost(UNSETTLED)

    def _wait_for_key(self, one: _Unsettled) -> None:
        self._wait(self._later, one)
        if self._settling is None or self._settling.done():
            self._settling = asyncio.ensure_future(self._settle_later())

    @property
    def _running(self) -> list[asyncio.Task[None]]:
        tasks = (self._pricing, self._settling)
        return [one for one in tasks if one is not None and not one.done()]

    async def _settle_later(self) -> None:
        """Load keys one by one: all at once, they would leave requests no room to load theirs."""
        while self._later:
            one = self._later.popleft()
            request, part = one.request, ""
            try:
                limits = await self._limits_of(request)
            except KeyStoreUnavailableError:
                self._wait(self._later, one)  # last: others may be loaded
                await asyncio.sleep(RETRY_SECONDS)
                continue
            if one.is_cost_alone:
                # The rest was settled before. By the request's own name, so that no other worker
                # counts the cost as well.
                part = COST_PART
                limits = tuple([limit for limit in limits if limit.measure is Measure.COST])
            changes = adjustments_of(limits, one.finished, now=time.time())
            name = one.finished.member
            self._limiter.settle(request.organization_id, changes, name=name, part=part)

    async def _limits_of(self, request: JudgedRequest) -> tuple[Limit, ...]:
        """Return the limits of the key of *request* and its owners.

        Of a key that was deleted while its request ran, or that cannot be read, those of its
        owners: waiting would help neither.

        Raises:
            KeyStoreUnavailableError: no store answered.
        """
        try:
            record = (await self._keys.load(request.key_id, now=time.monotonic)).record
        except KeyUnreadableError:
            record = None
            self._metrics.lost(UNSETTLED)
        if record is not None:
            return record.limits
        return await self._owner_limits(request.team_id, request.organization_id)

    async def _settle_costs(self) -> None:
        while not self._prices.current.is_known:  # noqa: ASYNC110 - `PriceCache` has no event
            await asyncio.sleep(RETRY_SECONDS)
        while self._unpriced:
            record = self._unpriced.popleft()
            cost = self._prices.current.cost_of(record)
            finished = finished_request(record, record.request, cost=cost)
            if finished is not None:
                self._wait_for_key(_Unsettled(record.request, finished, is_cost_alone=True))
            await asyncio.sleep(0)
        while self._uncounted:
            record, labels = self._uncounted.popleft()
            self._metrics.cost_known(labels, self._prices.current.cost_of(record))
            await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class WorkerUsage:
    """The parts of a worker that record usage.

    `receive_log` is None if usage is off. `own_ends` is None if usage is off, or comes from
    Envoy's access log.
    """

    notes: UsageNotes
    verdicts: VerdictNotes
    receive_log: ReceiveLog | None
    own_ends: OwnEnds | None = None


class _NoNotes:
    """Discards notes and verdicts."""

    def note(self, request: JudgedRequest) -> None:
        del request

    def add(self, stream: str, request: JudgedRequest) -> None:
        del stream, request


async def open_usage(
    settings: Settings,
    pool: Pool,
    *,
    metrics: UsageMetrics,
    prices: PriceCache,
    listener: EndedListener,
    instance: str,
    stack: AsyncExitStack,
) -> WorkerUsage:
    """Open the spool, to be closed with *stack*, and deliver from now on.

    *listener* receives every request that ends.

    Raises:
        SpoolError: there is no place for it.
    """
    if settings.usage.source is UsageSource.OFF:
        return WorkerUsage(_NoNotes(), _NoNotes(), None)
    spool = await UsageSpool.open(
        settings.usage.spool_directory.absolute(),
        instance=instance,
        limits=SpoolLimits(max_bytes=settings.usage.spool_max_bytes),
        on_note_lost=lambda: metrics.lost("note"),
    )
    store = PostgresUsage(pool, settings.postgres, batch_seconds=settings.usage.batch_seconds)
    delivery = UsageDelivery(
        spool, store, metrics, prices=prices.fresh, settle_seconds=settings.usage.settle_seconds
    )
    stack.push_async_callback(delivery.aclose)
    tasks = await stack.enter_async_context(BackgroundTasks())
    tasks.start(delivery.run(), name="usage")
    others = None
    if settings.valkey.url is not None:
        # A worker without Valkey never loads its client.
        from sidecar.storage.valkey_limits import ValkeyEnds  # noqa: PLC0415

        others = ValkeyEnds(settings.valkey)
    pending = PendingVerdicts(
        delivery,
        listener,
        others=others,
        clock=time.monotonic,
        on_matched=metrics.orphaned_verdict,
    )
    if others is not None:
        tasks.start(others.run_publisher(), name="ends publisher")
        tasks.start(others.run_subscriber(pending.match_published), name="ends subscriber")
    receiver = AccessLogReceiver(delivery, listener, pending=pending, metrics=metrics)
    own_ends: OwnEndReceiver | None = None
    if settings.usage.source is not UsageSource.ACCESS_LOG:
        own_ends = OwnEndReceiver(
            delivery, listener, source=settings.usage.source, metrics=metrics
        )
        stack.push_async_callback(own_ends.aclose)  # before the delivery is closed
    # An access log is received in any case: its requests may be those of a worker with another
    # source, while settings are being changed.
    return WorkerUsage(spool, pending, receiver.receive, own_ends)
