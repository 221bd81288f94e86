"""The care around every remote check: cache, bulkhead, breaker, then hedge and retry.

In this order, from outside in. What is kept costs the server nothing and needs no place; what
finds no place says nothing about the server; a server that is let alone is not asked again;
and attempts of one check count as one, for the place and for the breaker.
docs/decisions/0012 says why.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sidecar.domain.policy import Guardrail
from sidecar.domain.remote_guardrails import RemoteCare
from sidecar.guardrails.remote import (
    RemoteAnswer,
    RemoteCheckError,
    RemoteChecks,
    RemoteFault,
    RemoteRequest,
    RemoteTimeoutError,
)
from sidecar.guardrails.remote_checks.answer_cache import AnswerCache
from sidecar.guardrails.remote_checks.attempts import Attempts
from sidecar.guardrails.remote_checks.breaker import Admission, BreakerState
from sidecar.guardrails.remote_checks.servers import Server, Servers, settings_of

_SERVERS_FAULT: Final = frozenset({RemoteFault.SERVER, RemoteFault.TRANSIENT})
_TRIAL: Final = RemoteCare(retries=0, hedge_after_seconds=None)
"""A server that is tried after a pause is asked once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What the care is told of the world. `clock` is monotonic, `jitter` gives 0 to 1.

    `longest_seconds` ends a check whose own limit is longer than the exchange may take: its
    `on_error` then still decides. `on_breaker` hears of every state a guardrail's server is in.
    """

    clock: Callable[[], float]
    jitter: Callable[[], float]
    longest_seconds: float
    on_breaker: Callable[[str, BreakerState], None]


class CarefulChecks:
    """`RemoteChecks` around others."""

    def __init__(
        self, checks: RemoteChecks, *, cache: AnswerCache, surroundings: Surroundings
    ) -> None:
        self._checks = checks
        self._cache = cache
        self._around = surroundings
        self._servers = Servers()

    async def check(self, request: RemoteRequest) -> RemoteAnswer:
        """Return the answer, kept or new, within the guardrail's time limit.

        Raises:
            RemoteCheckError: there is none, or nobody may be asked now.
        """
        care = settings_of(request.guardrail).care
        if not care.cache_seconds:
            return await self._ask(request, care)
        return await self._cache.answer(
            request, lambda: self._ask(request, care), keep_seconds=care.cache_seconds
        )

    async def _ask(self, request: RemoteRequest, care: RemoteCare) -> RemoteAnswer:
        name = request.guardrail.name
        server = self._servers.of(settings_of(request.guardrail))
        with server.place():
            admission = server.breaker.admit(self._around.clock())
            if admission is None:
                raise RemoteCheckError("breaker_open", RemoteFault.LOCAL)
            try:
                return await self._judged_by(server, admission, (request, care))
            finally:
                server.breaker.abandoned(admission)
                self._around.on_breaker(name, server.breaker.state(self._around.clock()))

    async def _judged_by(
        self, server: Server, admission: Admission, asked: tuple[RemoteRequest, RemoteCare]
    ) -> RemoteAnswer:
        """Ask, and tell the breaker how it went; a check that is cancelled tells it nothing."""
        try:
            answer = await self._within_limit(server, admission, asked)
        except RemoteCheckError as error:
            if error.fault in _SERVERS_FAULT:
                server.breaker.failed(admission, self._around.clock())
            elif error.fault is RemoteFault.ANSWER:
                server.breaker.succeeded(admission)
            raise
        server.breaker.succeeded(admission)
        return answer

    async def _within_limit(
        self, server: Server, admission: Admission, asked: tuple[RemoteRequest, RemoteCare]
    ) -> RemoteAnswer:
        request, care = asked
        seconds = self._limit_of(request.guardrail)
        attempts = Attempts(
            care=_TRIAL if admission.is_trial else care,
            until=self._around.clock() + seconds,
            clock=self._around.clock,
            jitter=self._around.jitter,
            note=request.note,
            place=server.place,
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
        return min(guardrail.timeout_seconds, self._around.longest_seconds)
