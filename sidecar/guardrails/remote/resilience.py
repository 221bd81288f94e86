"""Retries, hedging, circuit breaker and bulkhead of remote checks.

The layers from the outside in: a verdict from the cache; a place in the server's bulkhead; the
breaker's permit; the time limit; and within it the attempts.
"""

from __future__ import annotations

import asyncio
import enum
from collections import Counter, OrderedDict
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, assert_never

from sidecar.domain.finding import RemoteEvent
from sidecar.domain.guardrail_settings import (
    RemoteEndpoint,
    RemoteScope,
    RemoteSettings,
    ResilienceSettings,
)
from sidecar.guardrails.remote.checks import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteChecks,
    RemoteFault,
    RemoteRequest,
    RemoteTimeoutError,
    remote_settings,
)
from sidecar.guardrails.remote.verdict_cache import VerdictCache

FIRST_PAUSE_SECONDS: Final = 0.025
LONGEST_PAUSE_SECONDS: Final = 0.25


class BreakerState(enum.IntEnum):
    """State of a server's circuit breaker; the number is the metric's value."""

    CLOSED = 0
    """Requests pass."""
    HALF_OPEN = 1
    """One request at a time probes the server."""
    OPEN = 2
    """No requests pass."""


class BreakerScope(enum.StrEnum):
    """The checks that an open breaker refuses; the metric's label."""

    ALL = "all"
    ORGANIZATION = "organization"
    """Those of one organization."""


@dataclass(frozen=True, slots=True)
class BreakerPermit:
    """Permission for one request of an organization, to be returned once with its result.

    `is_probe`: the only request under way that may close the breaker, or open it again.
    """

    organization: str
    period: int
    is_probe: bool


class Breaker:
    """The circuit breaker of one server, for all organizations and for one. `now` is in seconds.

    Failures in a row, or a failed probe, of one organization open it for that one alone. It opens
    for all if the row has failures of two, or if it is open for another organization already. So
    it is open for one organization at most beside that for all, and its size is bounded.
    """

    def __init__(self, *, failures: int, open_seconds: float) -> None:
        self._limit = failures
        self._open_seconds = open_seconds
        # The organization of each failure since the last answer, shorter than the limit.
        self._failures: list[str] = []
        # By organization, None for all: the end of the pause, kept until a probe succeeds.
        self._open_until: dict[str | None, float] = {}
        self._probe: BreakerPermit | None = None
        # Ends each time it opens: results of earlier requests say nothing about it.
        self._period = 0

    def state(self, now: float, scope: BreakerScope) -> BreakerState:
        """Return the state at *now* for all organizations, or for the one that failed last."""
        is_for_all = scope is BreakerScope.ALL
        for organization, until in self._open_until.items():
            if (organization is None) is is_for_all:
                return BreakerState.OPEN if now < until else BreakerState.HALF_OPEN
        return BreakerState.CLOSED

    def admit(self, organization: str, now: float) -> BreakerPermit | None:
        """Return a permit, or None if no request of *organization* may pass now."""
        pauses = [self._open_until[key] for key in (None, organization) if key in self._open_until]
        if not pauses:
            return BreakerPermit(organization, self._period, is_probe=False)
        if now < max(pauses) or self._probe is not None:
            return None
        self._probe = BreakerPermit(organization, self._period, is_probe=True)
        return self._probe

    def succeeded(self, permit: BreakerPermit) -> None:
        """Record that the server answered."""
        if permit.period != self._period:
            return
        self._failures.clear()
        if permit.is_probe:
            self._probe = None
            for key in (None, permit.organization):
                self._open_until.pop(key, None)

    def failed(self, permit: BreakerPermit, now: float) -> None:
        """Record that the server did not answer, or failed."""
        if permit.period != self._period:
            return
        failing = {permit.organization}
        if not permit.is_probe:
            self._failures.append(permit.organization)
            if len(self._failures) < self._limit:
                return
            failing.update(self._failures)
            self._failures.clear()
        failing.update(
            key for key, until in self._open_until.items() if key is not None and now < until
        )
        self._open_until = {key: end for key, end in self._open_until.items() if key is None}
        scope = None if len(failing) > 1 else permit.organization
        self._open_until[scope] = now + self._open_seconds
        self._probe = None
        self._period += 1

    def abandoned(self, permit: BreakerPermit) -> None:
        """Record that the request was cancelled before its result; another may probe."""
        if permit == self._probe:
            self._probe = None


MAX_SERVERS: Final = 1_000
"""Far more than policies name; idle ones are dropped first, the least recently used of them."""


class Server:
    """Bulkhead and breaker of one server, for one type of guardrail.

    Once a second organization has asked, organizations share the places by a dynamic threshold, as
    `OverloadGuard` shares bytes: the places of each may be a fixed multiple of the free ones. One
    alone leaves an eighth free, at least one place. An organization with no more than that is
    refused only if all are taken.
    """

    def __init__(self, resilience: ResilienceSettings) -> None:
        self.breaker = Breaker(
            failures=resilience.breaker_failures, open_seconds=resilience.breaker_seconds
        )
        self._free = self._size = resilience.max_concurrent
        self._reserve = min(max(self._size // 8, 1), self._size - 1)
        self._taken: Counter[str] = Counter()
        self._first_organization: str | None = None
        self._is_shared = False

    @property
    def is_idle(self) -> bool:
        """Whether no request is under way."""
        return self._free == self._size

    @contextmanager
    def bulkhead(self, organization: str) -> Iterator[None]:
        """Occupy one of `max_concurrent` places within the block.

        Raises:
            RemoteCheckError: all are taken, or the share of *organization*. At once: a queue would
                use up the time of all in it.
        """
        if self._first_organization is None:
            self._first_organization = organization
        self._is_shared = self._is_shared or organization != self._first_organization
        free, own, reserve = self._free - 1, self._taken[organization] + 1, self._reserve
        is_beyond_share = own > reserve and own * reserve > (self._size - reserve) * free
        if free < 0 or (self._is_shared and is_beyond_share):
            raise RemoteCheckError("overloaded", RemoteFault.LOCAL)
        self._free -= 1
        self._taken[organization] += 1
        try:
            yield
        finally:
            self._free += 1
            self._taken[organization] -= 1
            if not self._taken[organization]:
                del self._taken[organization]


class ServerTable:
    """The servers of a worker, least recently used first.

    Guardrails share one if type, address, headers, files and resilience are equal. Not by address
    alone: one tenant's wrong credential must not keep another from the same server.
    """

    def __init__(self, *, limit: int = MAX_SERVERS) -> None:
        self._limit = limit
        self._known: OrderedDict[tuple[str, RemoteEndpoint, ResilienceSettings], Server] = (
            OrderedDict()
        )

    def of(self, settings: RemoteSettings) -> Server:
        """Return the server for a guardrail with these settings."""
        key = (settings.guardrail_type, settings.endpoint, settings.resilience)
        server = self._known.get(key)
        if server is None:
            while len(self._known) >= self._limit:
                idle = next((key for key, one in self._known.items() if one.is_idle), None)
                if idle is None:
                    break
                del self._known[idle]
            server = self._known[key] = Server(settings.resilience)
        self._known.move_to_end(key)
        return server


_PROBE: Final = ResilienceSettings(retries=0, hedge_after_seconds=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class ResilienceOptions:
    """A worker's own side of resilience. `clock` is monotonic, `jitter` returns 0 to 1.

    `longest_seconds` ends a check whose own limit is longer than the exchange may take: its
    `on_error` then still decides. `on_breaker` receives the states of a guardrail's server after
    each check.
    """

    clock: Callable[[], float]
    jitter: Callable[[], float]
    longest_seconds: float
    on_breaker: Callable[[str, BreakerScope, BreakerState], None]


class ResilientChecks:
    """Wraps `RemoteChecks` in cache, bulkhead, breaker, time limit, retries and hedging."""

    def __init__(
        self, checks: RemoteChecks, *, cache: VerdictCache, options: ResilienceOptions
    ) -> None:
        self._checks = checks
        self._cache = cache
        self._options = options
        self._servers = ServerTable()

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer, cached or new, within the guardrail's time limit.

        Raises:
            RemoteCheckError: there is none, or the server may not be asked now.
        """
        settings = remote_settings(request.guardrail)
        keep_seconds = settings.resilience.cache_seconds
        if not keep_seconds:
            return await self._ask(request, settings)
        if settings.resilience.scope is RemoteScope.MESSAGE:
            return await self._cache.answer_by_message(
                request, lambda one: self._ask(one, settings), keep_seconds=keep_seconds
            )
        return await self._cache.answer(
            request, lambda: self._ask(request, settings), keep_seconds=keep_seconds
        )

    async def _ask(self, request: RemoteRequest, settings: RemoteSettings) -> RemoteAnswer:
        """Ask the server; a check that is cancelled leaves the breaker's count as it is."""
        clock = self._options.clock
        server = self._servers.of(settings)
        breaker, organization = server.breaker, request.about.organization_id
        with server.bulkhead(organization):
            permit = breaker.admit(organization, clock())
            if permit is None:
                raise RemoteCheckError("breaker_open", RemoteFault.LOCAL)
            resilience = _PROBE if permit.is_probe else settings.resilience
            try:
                answer = await self._within_limit(request, server, resilience)
            except RemoteCheckError as error:
                match error.fault:
                    case RemoteFault.SERVER | RemoteFault.TRANSIENT:
                        breaker.failed(permit, clock())
                    case RemoteFault.ANSWER | RemoteFault.CONTENT:
                        breaker.succeeded(permit)
                    case RemoteFault.LOCAL:
                        pass
                    case _:
                        assert_never(error.fault)
                raise
            else:
                breaker.succeeded(permit)
                return answer
            finally:
                breaker.abandoned(permit)
                for scope in BreakerScope:
                    state = breaker.state(clock(), scope)
                    self._options.on_breaker(request.guardrail.name, scope, state)

    async def _within_limit(
        self, request: RemoteRequest, server: Server, resilience: ResilienceSettings
    ) -> RemoteAnswer:
        """Return the first answer of retries and hedge.

        Raises:
            RemoteCheckError: the last failure of the retries, or the time is over.
        """
        options = self._options
        seconds = min(request.guardrail.timeout_seconds, options.longest_seconds)
        until = options.clock() + seconds

        async def with_retries() -> RemoteAnswer:
            for attempt in range(resilience.retries):
                try:
                    return await self._checks.check(request)
                except RemoteCheckError as error:
                    longest = min(FIRST_PAUSE_SECONDS * 2**attempt, LONGEST_PAUSE_SECONDS)
                    pause = options.jitter() * longest
                    is_over = options.clock() + pause >= until
                    if error.fault is not RemoteFault.TRANSIENT or is_over:
                        raise
                request.note(RemoteEvent.RETRY)
                await asyncio.sleep(pause)
            return await self._checks.check(request)

        async def once_more() -> RemoteAnswer:
            with server.bulkhead(request.about.organization_id):
                request.note(RemoteEvent.HEDGE)
                return await self._checks.check(request)

        limit = asyncio.timeout(seconds)
        try:
            async with limit:
                if resilience.hedge_after_seconds is None:
                    return await with_retries()
                return await _hedged(
                    with_retries,
                    once_more,
                    after_seconds=resilience.hedge_after_seconds,
                    on_won=lambda: request.note(RemoteEvent.HEDGE_WON),
                )
        except TimeoutError:
            if limit.expired():
                raise RemoteTimeoutError from None
            raise


Ask = Callable[[], Coroutine[Any, Any, RemoteAnswer]]


async def _hedged(
    ask: Ask, hedge: Ask, *, after_seconds: float, on_won: Callable[[], None]
) -> RemoteAnswer:
    """Return the first answer of *ask* and, if that takes *after_seconds*, of *hedge*.

    A failure that the content causes is an answer too: the other attempt would end alike.

    Raises:
        RemoteCheckError: such a failure, or that of *ask* if both fail.
    """
    loop = asyncio.get_running_loop()
    first = loop.create_task(ask())
    tasks = [first]
    try:
        await asyncio.wait(tasks, timeout=after_seconds)
        if not first.done():
            tasks.append(loop.create_task(hedge()))
        pending = set(tasks)
        while pending:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                error = task.exception()
                if isinstance(error, RemoteCheckError) and error.fault is RemoteFault.CONTENT:
                    raise error
                if error is None:
                    if task is not first and not first.done():
                        on_won()
                    return task.result()
        return first.result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
