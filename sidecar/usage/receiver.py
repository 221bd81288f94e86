"""Receives access-log records, and acknowledges them once they are stored."""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final, Generic, Protocol, TypeVar

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
"""A log entry that another worker did not take is sent again for so long (Envoy's tries)."""
MAX_VERDICTS: Final = 10_000
"""At more than 300 requests a second the time is shorter."""
EARLY_SECONDS: Final = 5.0
MAX_EARLY: Final = 10_000

_Value = TypeVar("_Value")


class WorkerBroadcast(Protocol):
    """Who may have given the verdict of a stream, too."""

    def tell(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Tell them. Must not wait and does not raise."""
        ...


class PendingVerdicts:
    """What this worker decided lately, and what came to an end without a name."""

    def __init__(
        self,
        keeper: UsageKeeper,
        listeners: Sequence[EndedListener],
        *,
        others: WorkerBroadcast | None,
        clock: Callable[[], float],
        on_found: Callable[[], None],
    ) -> None:
        self._keeper = keeper
        self._listeners = tuple(listeners)
        self._others = others
        self._clock = clock
        self._on_found = on_found
        self._given = _Lately[JudgedRequest](seconds=VERDICT_SECONDS, most=MAX_VERDICTS)
        self._early = _Lately[UnmatchedEnd](seconds=EARLY_SECONDS, most=MAX_EARLY)
        self._tasks: set[asyncio.Task[None]] = set()

    def given(self, stream: str, request: JudgedRequest) -> None:
        """Remember a verdict that Envoy may not hear of. Must not wait and does not raise."""
        now = self._clock()
        # Told before we were through with it: on another connection, by another worker.
        end = self._early.pop(stream)
        if end is None:
            self._given.put(stream, request, now=now)
            return
        self._conclude([_ended(request, end)])

    def hear(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Take what Envoy's log says, and tell the others.

        Also of what is known here: Envoy may have asked another worker when one did not answer.
        """
        self.hear_of_others(ends)
        if self._others is not None:
            self._others.tell(ends)

    def hear_of_others(self, ends: Sequence[UnmatchedEnd]) -> None:
        """Take what another worker was told by Envoy's log."""
        found: list[ExchangeEnded] = []
        for end in ends:
            # Once only: an entry may come twice, and nothing is given back twice.
            request = self._given.pop(end.stream)
            if request is None:
                self._early.put(end.stream, end, now=self._clock())
            else:
                found.append(_ended(request, end))
        if found:
            self._conclude(found)

    def _conclude(self, found: Sequence[ExchangeEnded]) -> None:
        for ended in found:
            self._on_found()
            for listener in self._listeners:
                listener.exchange_ended(ended)
        task = asyncio.ensure_future(self._keep([record_of(ended) for ended in found]))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _keep(self, records: Sequence[UsageRecord]) -> None:
        # Where nothing can be kept now, the requests are recorded as lost in the end.
        with contextlib.suppress(NotKeptError):
            await self._keeper.keep(records)


def _ended(request: JudgedRequest, end: UnmatchedEnd) -> ExchangeEnded:
    """Return how it ended: no provider has seen the request, so it has used nothing."""
    is_denied = request.decision is DecisionKind.DENY
    return ExchangeEnded(
        request=request,
        status=end.status,
        end=AnswerEnd.REFUSED if is_denied else end.end,
        tokens=NO_TOKENS,
        latency_seconds=end.latency_seconds,
    )


class _Lately(Generic[_Value]):
    """Values by name, of the last *seconds* and *most* at most; the oldest go first."""

    def __init__(self, *, seconds: float, most: int) -> None:
        self._seconds = seconds
        self._most = most
        self._values: OrderedDict[str, tuple[float, _Value]] = OrderedDict()

    def put(self, name: str, value: _Value, *, now: float) -> None:
        values = self._values
        values[name] = (now, value)
        while len(values) > self._most or next(iter(values.values()))[0] < now - self._seconds:
            values.popitem(last=False)

    def pop(self, name: str) -> _Value | None:
        found = self._values.pop(name, None)
        return None if found is None else found[1]


class AccessLogReceiver:
    """One a worker; answers only when what it was sent is safe."""

    def __init__(
        self,
        keeper: UsageKeeper,
        listeners: Sequence[EndedListener],
        *,
        unnamed: PendingVerdicts,
        on_unreadable: Callable[[int], None],
        on_unnamed: Callable[[int], None],
    ) -> None:
        self._keeper = keeper
        self._unnamed = unnamed
        self._listeners = tuple(listeners)
        self._on_unreadable = on_unreadable
        self._on_unnamed = on_unnamed

    async def receive(self, message: bytes) -> bytes:
        """Take one message and return the answer that lets Envoy forget it.

        Raises:
            NotKeptError: Envoy is to send it to another worker.
        """
        try:
            batch = decode_access_log(message)
        except UnreadableMessageError:
            # Sent again it would be no better.
            self._on_unreadable(1)
            return ACCEPTED
        if batch.unreadable:
            self._on_unreadable(batch.unreadable)
        if batch.ended:
            await self._keeper.keep([record_of(ended) for ended in batch.ended])
            for ended in batch.ended:
                for listener in self._listeners:
                    listener.exchange_ended(ended)
        if batch.unnamed:
            self._on_unnamed(len(batch.unnamed))
            self._unnamed.hear(batch.unnamed)
        return ACCEPTED
