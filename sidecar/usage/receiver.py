"""Receives the ends of requests: in Envoy's access log, or as a worker has seen them itself."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Final, Protocol, TypeVar

import structlog

from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    DecisionKind,
    Estimate,
    ExchangeEnded,
    JudgedRequest,
    UnmatchedEnd,
    UsageRecord,
)
from sidecar.settings.stores import UsageSource
from sidecar.telemetry.usage_metrics import UsageMetrics
from sidecar.usage.access_log import ACCEPTED, decode_access_log
from sidecar.usage.records import EndedListener, NotKeptError, UsageKeeper, record_of

VERDICT_SECONDS: Final = 30.0
"""Envoy retries a log entry that a worker did not acknowledge for so long."""
MAX_VERDICTS: Final = 10_000
"""At more than 300 requests a second the time is shorter."""
EARLY_SECONDS: Final = 5.0
MAX_EARLY: Final = 10_000
MAX_WAITING: Final = 10_000
"""Records of a worker that wait while neither disk nor database takes any."""
RETRY_SECONDS: Final = 1.0
CLOSING_SECONDS: Final = 3.0
TIDY_SECONDS: Final = 1.0
"""How often values that are too old are removed, at most."""

_log = structlog.get_logger(__name__)

_Value = TypeVar("_Value")


class WorkerBroadcast(Protocol):
    """Reaches the other workers, each of which may have given the verdict of a stream."""

    def publish(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Send *ends* to the other workers. Must not wait and does not raise."""
        ...


class PendingVerdicts:
    """Recent verdicts of this worker, until Envoy's access log shows that Envoy received them.

    If a client leaves in the moment of its verdict, Envoy logs the end of a stream without the
    verdict. The worker that gave it matches the end by the name of the stream, and ends the
    request: units taken for it are returned.
    """

    def __init__(
        self,
        keeper: UsageKeeper,
        listener: EndedListener,
        *,
        others: WorkerBroadcast | None,
        clock: Callable[[], float],
        on_matched: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._listener = listener
        self._others = others
        self._clock = clock
        self._on_matched = on_matched
        self._verdicts = _Recent[JudgedRequest](seconds=VERDICT_SECONDS, most=MAX_VERDICTS)
        self._early_ends = _Recent[UnmatchedEnd](seconds=EARLY_SECONDS, most=MAX_EARLY)
        self._tasks: set[asyncio.Task[None]] = set()

    def add(self, stream: str, request: JudgedRequest) -> None:
        """Remember the verdict on *request*. Must not wait and does not raise."""
        # The log entry may be first: it comes on another connection, or to another worker.
        if stream in self._early_ends:
            self._conclude([(request, self._early_ends.pop(stream)[1])])
        else:
            self._verdicts.put(stream, request, now=self._clock())

    def match(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Match entries of Envoy's log, and publish them to the other workers.

        Matched ones as well: Envoy may have sent the request to a second worker when the first
        did not answer.
        """
        self.match_published(ends)
        if self._others is not None:
            self._others.publish(ends)

    def match_published(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Match entries that another worker received from Envoy."""
        matched: list[tuple[JudgedRequest, UnmatchedEnd]] = []
        for end in ends:
            # Once only: an entry may come twice, and nothing may be returned twice.
            if end.stream in self._verdicts:
                matched.append((self._verdicts.pop(end.stream)[1], end))
            else:
                self._early_ends.put(end.stream, end, now=self._clock())
        if matched:
            self._conclude(matched)

    def _conclude(self, matched: Sequence[tuple[JudgedRequest, UnmatchedEnd]]) -> None:
        records: list[UsageRecord] = []
        for request, end in matched:
            is_denied = request.decision is DecisionKind.DENY
            ended = ExchangeEnded(
                request=request,
                status=end.status,
                end=AnswerEnd.REFUSED if is_denied else end.end,
                tokens=NO_TOKENS,  # no provider has seen the request
                latency_seconds=end.latency_seconds,
            )
            record = record_of(ended)
            records.append(record)
            self._on_matched()
            self._listener.exchange_ended(ended, record)
        task = asyncio.ensure_future(self._keep(records))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, records: Sequence[UsageRecord]) -> None:
        # If nothing can be kept now, the requests are recorded as lost in the end.
        with contextlib.suppress(NotKeptError):
            await self._keeper.keep(records)


class _Recent(OrderedDict[Hashable, tuple[float, _Value]]):
    """Values by name beside the time they came: the last *most* of the last *seconds*."""

    def __init__(self, *, seconds: float, most: int) -> None:
        super().__init__()
        self._seconds = seconds
        self._most = most
        self._tidy_at = 0.0

    def put(self, name: Hashable, value: _Value, *, now: float) -> None:
        self[name] = (now, value)
        if len(self) > self._most or now >= self._tidy_at:
            self._tidy_at = now + TIDY_SECONDS
            while len(self) > self._most or next(iter(self.values()))[0] < now - self._seconds:
                self.popitem(last=False)


class AccessLogReceiver:
    """Receives Envoy's access log, and acknowledges a message once its records are safe.

    Envoy sends an entry again if its acknowledgement is lost. The record changes nothing then, and
    the worker that has accounted for the request does not do so twice.
    """

    def __init__(
        self,
        keeper: UsageKeeper,
        listener: EndedListener,
        *,
        pending: PendingVerdicts,
        metrics: UsageMetrics,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._keeper = keeper
        self._listener = listener
        self._pending = pending
        self._metrics = metrics
        self._clock = clock
        self._accounting: set[asyncio.Task[NotKeptError | None]] = set()
        self._accounted = _Recent[None](seconds=VERDICT_SECONDS, most=MAX_VERDICTS)

    async def receive(self, message: bytes) -> bytes:
        """Store the records of one message, and return the answer that lets Envoy forget it.

        Raises:
            NotKeptError: the records are not stored; Envoy sends them to another worker.
        """
        try:
            batch = decode_access_log(message)
        except UnreadableMessageError:
            self._unreadable(["the message"])
            return ACCEPTED  # sent again it would be no better
        if batch.unreadable:
            self._unreadable(batch.unreadable)
        if batch.ignored:
            self._metrics.access_log_ignored(batch.ignored)

        async def account() -> NotKeptError | None:
            if batch.ended:
                records = [record_of(ended) for ended in batch.ended]
                try:
                    await self._keeper.keep(records)
                except NotKeptError as error:
                    return error
                now, count = self._clock(), 0
                for ended, record in zip(batch.ended, records, strict=True):
                    name = (ended.request.request_id, ended.request.occurred_at)
                    if name not in self._accounted:
                        self._accounted.put(name, None, now=now)
                        self._listener.exchange_ended(ended, record)
                        count += 1
                self._metrics.requests_ended(UsageSource.ACCESS_LOG.value, count)
            if batch.unmatched:
                self._metrics.access_log_unmatched(len(batch.unmatched))
                self._pending.match(batch.unmatched)
            return None

        # It goes on if Envoy leaves meanwhile, say at its own end: the records will be kept, and
        # may never be sent again.
        accounting = asyncio.ensure_future(account())
        self._accounting.add(accounting)
        accounting.add_done_callback(self._accounting.discard)
        failure = await asyncio.shield(accounting)
        if failure is not None:
            raise failure
        return ACCEPTED

    def _unreadable(self, fields: Sequence[str]) -> None:
        _log.error("usage.unreadable", count=len(fields), fields=sorted(set(fields)))
        self._metrics.lost("unreadable_log", len(fields))


class OwnEndReceiver:
    """Implements `OwnEnds`: accounts for a request at once, and stores its record soon after.

    Until then the record is in memory; the note of its verdict is on the disk, so that the request
    is recorded as lost if the worker dies.
    """

    def __init__(
        self,
        keeper: UsageKeeper,
        listener: EndedListener,
        *,
        source: UsageSource,
        metrics: UsageMetrics,
    ) -> None:
        self._keeper = keeper
        self._listener = listener
        self._source = source.value
        self._metrics = metrics
        self._waiting: list[UsageRecord] = []
        self._storing: asyncio.Task[None] | None = None

    def add(self, ended: ExchangeEnded, estimate: Estimate | None) -> None:
        """Account for *ended*; *estimate* is the reason if its tokens are estimated, else None.

        Must not wait and does not raise.
        """
        record = record_of(ended)
        self._listener.exchange_ended(ended, record)
        self._metrics.requests_ended(self._source, 1)
        if estimate is not None:
            self._metrics.answer_estimated(estimate)
        if len(self._waiting) >= MAX_WAITING:
            self._metrics.lost("not_kept")
            return
        self._waiting.append(record)
        if self._storing is None or self._storing.done():
            self._storing = asyncio.ensure_future(self._store())

    async def aclose(self) -> None:
        """Store the records that wait, for some seconds at most."""
        if self._storing is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._storing, CLOSING_SECONDS)
        self._metrics.lost("not_kept", len(self._waiting))

    async def _store(self) -> None:
        while self._waiting:
            batch = tuple(self._waiting)
            try:
                await self._keeper.keep(batch)
            except NotKeptError:
                await asyncio.sleep(RETRY_SECONDS)
            else:
                del self._waiting[: len(batch)]
