"""Receives access-log records, and acknowledges them once they are stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeVar

import structlog

from sidecar.domain.errors import UnreadableMessageError
from sidecar.domain.usage import (
    NO_TOKENS,
    AnswerEnd,
    DecisionKind,
    ExchangeEnded,
    JudgedRequest,
    UnmatchedEnd,
    UsageRecord,
)
from sidecar.usage.access_log import ACCEPTED, decode_access_log
from sidecar.usage.records import EndedListener, NotKeptError, UsageKeeper, record_of

VERDICT_SECONDS: Final = 30.0
"""Envoy retries a log entry that a worker did not acknowledge for so long."""
MAX_VERDICTS: Final = 10_000
"""At more than 300 requests a second the time is shorter."""
EARLY_SECONDS: Final = 5.0
MAX_EARLY: Final = 10_000
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


class _Recent(OrderedDict[str, tuple[float, _Value]]):
    """Values by name beside the time they came: the last *most* of the last *seconds*."""

    def __init__(self, *, seconds: float, most: int) -> None:
        super().__init__()
        self._seconds = seconds
        self._most = most
        self._tidy_at = 0.0

    def put(self, name: str, value: _Value, *, now: float) -> None:
        self[name] = (now, value)
        if len(self) > self._most or now >= self._tidy_at:
            self._tidy_at = now + TIDY_SECONDS
            while len(self) > self._most or next(iter(self.values()))[0] < now - self._seconds:
                self.popitem(last=False)


class AccessLogReceiver:
    """Receives Envoy's access log, and acknowledges a message once its records are safe."""

    def __init__(
        self,
        keeper: UsageKeeper,
        listener: EndedListener,
        *,
        pending: PendingVerdicts,
        on_unreadable: Callable[[int], None],
        on_unmatched: Callable[[int], None],
    ) -> None:
        self._keeper = keeper
        self._listener = listener
        self._pending = pending
        self._on_unreadable = on_unreadable
        self._on_unmatched = on_unmatched

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
        if batch.ended:
            records = [record_of(ended) for ended in batch.ended]
            await self._keeper.keep(records)
            for ended, record in zip(batch.ended, records, strict=True):
                self._listener.exchange_ended(ended, record)
        if batch.unmatched:
            self._on_unmatched(len(batch.unmatched))
            self._pending.match(batch.unmatched)
        return ACCEPTED

    def _unreadable(self, fields: Sequence[str]) -> None:
        _log.error("usage.unreadable", count=len(fields), fields=sorted(set(fields)))
        self._on_unreadable(len(fields))
