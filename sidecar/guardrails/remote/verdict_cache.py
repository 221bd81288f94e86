"""Caches verdicts of remote guardrails, keyed by digest."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Any, Final

from cachetools import TLRUCache

from sidecar.domain.finding import RemoteEvent
from sidecar.domain.guardrail_settings import GrpcSettings, WebhookSettings
from sidecar.domain.policy import Guardrail
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest

MAX_CACHE_BYTES: Final = 16 * 1024 * 1024
_ENTRY_BYTES: Final = 1_000
_FINDING_BYTES: Final = 250
"""Rounded up from what an entry and a finding take in CPython 3.11."""


@dataclass(frozen=True, slots=True)
class _Kept:
    answer: RemoteAnswer
    until: float

    @property
    def size_bytes(self) -> int:
        return _ENTRY_BYTES + _FINDING_BYTES * len(self.answer.findings)


class _Flight:
    """A question under way, given up when nobody waits for its answer any more."""

    def __init__(self, task: asyncio.Task[RemoteAnswer]) -> None:
        self.task = task
        self._waiting = 0

    @property
    def is_open(self) -> bool:
        """Whether it is still to be waited for."""
        return not self.task.done() and not self.task.cancelling()

    async def answer(self) -> RemoteAnswer:
        self._waiting += 1
        try:
            return await asyncio.shield(self.task)
        finally:
            self._waiting -= 1
            if not self._waiting:
                self.task.cancel()


class VerdictCache:
    """A bounded cache of one worker. *secret* keys its digests; the clock is monotonic."""

    def __init__(
        self, *, clock: Callable[[], float], secret: bytes, max_bytes: int = MAX_CACHE_BYTES
    ) -> None:
        self._clock = clock
        self._secret = secret
        self._largest = max_bytes // 16
        self._kept: TLRUCache[bytes, _Kept] = TLRUCache(
            max_bytes,
            ttu=lambda _key, kept, _now: kept.until,
            timer=clock,
            getsizeof=lambda kept: kept.size_bytes,
        )
        self._flights: dict[bytes, _Flight] = {}

    async def answer(
        self,
        request: RemoteRequest,
        ask: Callable[[], Awaitable[RemoteAnswer]],
        *,
        keep_seconds: float,
    ) -> RemoteAnswer:
        """Return the answer that is kept, or is being waited for, or else what *ask* returns."""
        key = request_digest(request, secret=self._secret)
        kept = self._kept.get(key)
        if kept is not None:
            request.note(RemoteEvent.CACHE_HIT)
            return kept.answer
        flight = self._flights.get(key)
        if flight is not None and flight.is_open:
            request.note(RemoteEvent.JOINED)
            return await flight.answer()
        return await self._take_off(key, self._ask(key, ask, keep_seconds)).answer()

    def _take_off(self, key: bytes, asking: Coroutine[Any, Any, RemoteAnswer]) -> _Flight:
        task = asyncio.get_running_loop().create_task(asking)
        self._flights[key] = flight = _Flight(task)

        def landed(_: asyncio.Task[RemoteAnswer]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        task.add_done_callback(landed)
        return flight

    async def _ask(
        self, key: bytes, ask: Callable[[], Awaitable[RemoteAnswer]], keep_seconds: float
    ) -> RemoteAnswer:
        answer = await ask()
        kept = _Kept(answer, self._clock() + keep_seconds)
        if kept.size_bytes <= self._largest:
            self._kept[key] = kept
        return answer


def request_digest(request: RemoteRequest, *, secret: bytes) -> bytes:
    """Return what two questions have in common exactly if their answers must be equal.

    All of the guardrail, the side, every text with its role. Webhooks and gRPC servers are told
    who asks and for which model, and may answer by that: there it is part of the question.
    """
    digest = hashlib.blake2b(key=secret, digest_size=32)
    about = request.about
    told = isinstance(request.guardrail.settings, WebhookSettings | GrpcSettings)
    _add(digest, _guardrail_digest(request.guardrail))
    _add(digest, request.stage.value.encode())
    _add(digest, repr((about.key_id, about.model) if told else ()).encode())
    for part in request.subject.parts:
        _add(digest, part.role.encode())
        _add(digest, part.content)
    return digest.digest()


def _add(digest: hashlib.blake2b, field: bytes) -> None:
    """Add a field with its length before it, so that no two lists of fields read the same."""
    digest.update(len(field).to_bytes(8, "big"))
    digest.update(field)


@lru_cache(maxsize=1_024)
def _guardrail_digest(guardrail: Guardrail) -> bytes:
    kind = guardrail.settings.guardrail_type
    return hashlib.blake2b(repr((kind, astuple(guardrail))).encode(), digest_size=32).digest()
