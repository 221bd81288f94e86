"""Retries, circuit breaker, bulkhead and dispatch of remote checks."""

from __future__ import annotations

import asyncio
import enum
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, assert_never

from sidecar.domain.finding import RemoteEvent
from sidecar.domain.guardrail_settings import (
    GrpcSettings,
    LlmJudgeSettings,
    ModerationSettings,
    PresidioSettings,
    RemoteEndpoint,
    RemoteSettings,
    ResilienceSettings,
    WebhookSettings,
)
from sidecar.domain.policy import Guardrail
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteChecks,
    RemoteFault,
    RemoteRequest,
    RemoteTimeoutError,
)
from sidecar.guardrails.remote.verdict_cache import VerdictCache

FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.25

Ask = Callable[[], Awaitable[RemoteAnswer]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """How one check may be asked. `jitter` gives numbers from 0 to 1; `until` is on the clock."""

    resilience: ResilienceSettings
    until: float
    clock: Callable[[], float]
    jitter: Callable[[], float]
    note: Callable[[RemoteEvent], None]
    bulkhead: Callable[[], AbstractContextManager[None]]
    """A further place at the server, for a hedge; raises where there is none."""

    async def answer(self, ask: Ask) -> RemoteAnswer:
        """Return the first answer.

        Raises:
            RemoteCheckError: the last failure, where there is none.
        """
        if self.resilience.hedge_after_seconds is None:
            return await self._with_retries(ask)
        return await self._hedged(ask, self.resilience.hedge_after_seconds)

    async def _with_retries(self, ask: Ask) -> RemoteAnswer:
        for attempt in range(self.resilience.retries):
            try:
                return await ask()
            except RemoteCheckError as error:
                pause = self.jitter() * min(
                    FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS
                )
                if error.fault is not RemoteFault.TRANSIENT or self.clock() + pause >= self.until:
                    raise
            self.note(RemoteEvent.RETRY)
            await asyncio.sleep(pause)
        return await ask()

    async def _hedged(self, ask: Ask, after_seconds: float) -> RemoteAnswer:
        loop = asyncio.get_running_loop()
        first = loop.create_task(_awaited(self._with_retries(ask)))
        tasks = [first]
        try:
            await asyncio.wait(tasks, timeout=after_seconds)
            if not first.done():
                tasks.append(loop.create_task(self._hedge(ask, first)))
            return await self._first_of(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _hedge(self, ask: Ask, first: asyncio.Task[RemoteAnswer]) -> RemoteAnswer:
        with self.bulkhead():
            self.note(RemoteEvent.HEDGE)
            answer = await ask()
        if not first.done():
            self.note(RemoteEvent.HEDGE_WON)
        return answer

    async def _first_of(self, tasks: list[asyncio.Task[RemoteAnswer]]) -> RemoteAnswer:
        """Return the first answer; where all fail, the first task's failure."""
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                if task.exception() is None:
                    return task.result()
        return tasks[0].result()


async def _awaited(pending: Awaitable[RemoteAnswer]) -> RemoteAnswer:
    return await pending


class BreakerState(enum.IntEnum):
    """How a server is treated; the number is what the metric shows."""

    CLOSED = 0
    """Asked."""
    HALF_OPEN = 1
    """Tried with one request at a time."""
    OPEN = 2
    """Let alone."""


@dataclass(frozen=True, slots=True)
class BreakerPermit:
    """Leave to ask, to be given back with how it went, once.

    `is_trial`: the only request under way, on which it depends whether others follow.
    """

    period: int
    is_trial: bool


class Breaker:
    """The state of one server. `now` is monotonic seconds."""

    def __init__(self, *, failures: int, open_seconds: float) -> None:
        self._limit = failures
        self._open_seconds = open_seconds
        self._failures = 0
        self._open_until: float | None = None
        self._trial: BreakerPermit | None = None
        # Ends with every change of state: what was asked before says nothing about the server now.
        self._period = 0

    def state(self, now: float) -> BreakerState:
        """Return the state at *now*."""
        if self._open_until is None:
            return BreakerState.CLOSED
        return BreakerState.OPEN if now < self._open_until else BreakerState.HALF_OPEN

    def admit(self, now: float) -> BreakerPermit | None:
        """Return leave to ask, or None."""
        if self._open_until is None:
            return BreakerPermit(self._period, is_trial=False)
        if now < self._open_until or self._trial is not None:
            return None
        self._trial = BreakerPermit(self._period, is_trial=True)
        return self._trial

    def succeeded(self, admission: BreakerPermit) -> None:
        """Take note that the server answered."""
        if admission.period != self._period:
            return
        self._failures = 0
        if admission.is_trial:
            self._open_until = self._trial = None
            self._period += 1

    def failed(self, admission: BreakerPermit, now: float) -> None:
        """Take note that the server did not answer, or is not well."""
        if admission.period != self._period:
            return
        self._failures += 1
        if admission.is_trial or self._failures >= self._limit:
            self._open_until = now + self._open_seconds
            self._failures = 0
            self._trial = None
            self._period += 1

    def abandoned(self, admission: BreakerPermit) -> None:
        """Take note that nobody waited for how it went; another may try."""
        if admission == self._trial:
            self._trial = None


MAX_SERVERS: Final = 1_000
"""Far more than policies name; those of policies long gone make room."""


class Server:
    """One server as one kind of guardrail asks it: its bulkhead and its breaker."""

    def __init__(self, resilience: ResilienceSettings) -> None:
        self.breaker = Breaker(
            failures=resilience.breaker_failures, open_seconds=resilience.breaker_seconds
        )
        self._free = self._size = resilience.max_concurrent

    @property
    def is_idle(self) -> bool:
        """Whether nothing is under way."""
        return self._free == self._size

    @contextmanager
    def bulkhead(self) -> Iterator[None]:
        """Take one of the places for as long as the block lasts.

        Raises:
            RemoteCheckError: all are taken. At once: a queue would use up the time of all in it.
        """
        if self._free <= 0:
            raise RemoteCheckError("overloaded", RemoteFault.LOCAL)
        self._free -= 1
        try:
            yield
        finally:
            self._free += 1


class ServerTable:
    """All of a worker.

    Guardrails share one if type, address, headers, files and resilience are equal. Not by address
    alone: one tenant's wrong credential must not keep another from the same server.
    """

    def __init__(self, *, limit: int = MAX_SERVERS) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[str, RemoteEndpoint, ResilienceSettings], Server] = (
            OrderedDict()
        )

    def of(self, settings: RemoteSettings) -> Server:
        """Return the server that a guardrail with these settings asks."""
        key = (settings.guardrail_type, settings.endpoint, settings.resilience)
        server = self._known.get(key)
        if server is None:
            self._make_room()
            server = self._known[key] = Server(settings.resilience)
        self._known.move_to_end(key)
        return server

    def _make_room(self) -> None:
        while len(self._known) >= self._limit:
            idle = next((key for key, one in self._known.items() if one.is_idle), None)
            if idle is None:
                return
            del self._known[idle]


def settings_of(guardrail: Guardrail) -> RemoteSettings:
    """Return the settings of a remote guardrail.

    Raises:
        RemoteCheckError: it is a local one.
    """
    if not isinstance(guardrail.settings, RemoteSettings):
        raise RemoteCheckError("not_remote", RemoteFault.LOCAL)
    return guardrail.settings


_SERVERS_FAULT: Final = frozenset({RemoteFault.SERVER, RemoteFault.TRANSIENT})
_TRIAL: Final = ResilienceSettings(retries=0, hedge_after_seconds=None)
"""A server that is tried after a pause is asked once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResilienceOptions:
    """What the resilience layer is told of the world. `clock` is monotonic, `jitter` gives 0 to 1.

    `longest_seconds` ends a check whose own limit is longer than the exchange may take: its
    `on_error` then still decides. `on_breaker` hears of every state a guardrail's server is in.
    """

    clock: Callable[[], float]
    jitter: Callable[[], float]
    longest_seconds: float
    on_breaker: Callable[[str, BreakerState], None]


class ResilientChecks:
    """`RemoteChecks` around others."""

    def __init__(
        self, checks: RemoteChecks, *, cache: VerdictCache, options: ResilienceOptions
    ) -> None:
        self._checks = checks
        self._cache = cache
        self._options = options
        self._servers = ServerTable()

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer, kept or new, within the guardrail's time limit.

        Raises:
            RemoteCheckError: there is none, or nobody may be asked now.
        """
        resilience = settings_of(request.guardrail).resilience
        if not resilience.cache_seconds:
            return await self._ask(request, resilience)
        return await self._cache.answer(
            request, lambda: self._ask(request, resilience), keep_seconds=resilience.cache_seconds
        )

    async def _ask(self, request: RemoteRequest, resilience: ResilienceSettings) -> RemoteAnswer:
        name = request.guardrail.name
        server = self._servers.of(settings_of(request.guardrail))
        with server.bulkhead():
            admission = server.breaker.admit(self._options.clock())
            if admission is None:
                raise RemoteCheckError("breaker_open", RemoteFault.LOCAL)
            try:
                return await self._judged_by(server, admission, (request, resilience))
            finally:
                server.breaker.abandoned(admission)
                self._options.on_breaker(name, server.breaker.state(self._options.clock()))

    async def _judged_by(
        self,
        server: Server,
        admission: BreakerPermit,
        asked: tuple[RemoteRequest, ResilienceSettings],
    ) -> RemoteAnswer:
        """Ask, and tell the breaker how it went; a check that is cancelled tells it nothing."""
        try:
            answer = await self._within_limit(server, admission, asked)
        except RemoteCheckError as error:
            if error.fault in _SERVERS_FAULT:
                server.breaker.failed(admission, self._options.clock())
            elif error.fault is RemoteFault.ANSWER:
                server.breaker.succeeded(admission)
            raise
        server.breaker.succeeded(admission)
        return answer

    async def _within_limit(
        self,
        server: Server,
        admission: BreakerPermit,
        asked: tuple[RemoteRequest, ResilienceSettings],
    ) -> RemoteAnswer:
        request, resilience = asked
        seconds = self._limit_of(request.guardrail)
        attempts = Attempts(
            resilience=_TRIAL if admission.is_trial else resilience,
            until=self._options.clock() + seconds,
            clock=self._options.clock,
            jitter=self._options.jitter,
            note=request.note,
            bulkhead=server.bulkhead,
        )
        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                return await attempts.answer(lambda: self._checks.check(request))
        except TimeoutError:
            if limit.expired():
                raise RemoteTimeoutError from None
            raise

    def _limit_of(self, guardrail: Guardrail) -> float:
        return min(guardrail.timeout_seconds, self._options.longest_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckDispatcher:
    """`RemoteChecks` of every type."""

    webhook: RemoteChecks
    grpc: RemoteChecks
    moderation: RemoteChecks
    presidio: RemoteChecks
    llm_judge: RemoteChecks

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer of the one that knows the type.

        Raises:
            RemoteCheckError: there is none.
        """
        return await self._of(request).check(request)

    def _of(self, request: RemoteRequest) -> RemoteChecks:
        settings = settings_of(request.guardrail)
        match settings:
            case WebhookSettings():
                return self.webhook
            case GrpcSettings():
                return self.grpc
            case ModerationSettings():
                return self.moderation
            case PresidioSettings():
                return self.presidio
            case LlmJudgeSettings():
                return self.llm_judge
            case _:
                assert_never(settings)
