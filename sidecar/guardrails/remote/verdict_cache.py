"""Caches verdicts of remote guardrails, keyed by digest, with single flight.

An entry is found by a keyed digest of the request; neither text nor key id is kept.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import astuple, dataclass
from functools import lru_cache
from typing import Final

from cachetools import TLRUCache

from sidecar.domain.finding import RemoteEvent
from sidecar.domain.guardrail_settings import GrpcSettings, WebhookSettings
from sidecar.domain.policy import Guardrail
from sidecar.guardrails.remote.checks import RemoteAnswer, RemoteRequest

MAX_CACHE_BYTES: Final = 16 * 1024 * 1024
_ENTRY_BYTES: Final = 1_000
_FINDING_BYTES: Final = 250
"""Rounded up from the size of an entry and of a finding in CPython 3.11."""


@dataclass(frozen=True, slots=True)
class _Entry:
    answer: RemoteAnswer
    expires_at: float

    @property
    def size_bytes(self) -> int:
        return _ENTRY_BYTES + _FINDING_BYTES * len(self.answer.findings)


class _Flight:
    """A check under way for one caller or more; cancelled when the last of them is."""

    def __init__(self, task: asyncio.Task[RemoteAnswer]) -> None:
        self.task = task
        self._waiting = 0

    @property
    def is_open(self) -> bool:
        """Whether another caller may join."""
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
        self._max_entry_bytes = max_bytes // 16
        self._entries: TLRUCache[bytes, _Entry] = TLRUCache(
            max_bytes,
            ttu=lambda _key, entry, _now: entry.expires_at,
            timer=clock,
            getsizeof=lambda entry: entry.size_bytes,
        )
        self._flights: dict[bytes, _Flight] = {}

    async def answer(
        self,
        request: RemoteRequest,
        ask: Callable[[], Awaitable[RemoteAnswer]],
        *,
        keep_seconds: float,
    ) -> RemoteAnswer:
        """Return the cached answer, that of an equal check under way, or else that of *ask*."""
        key = request_digest(request, secret=self._secret)
        entry = self._entries.get(key)
        if entry is not None:
            request.note(RemoteEvent.CACHE_HIT)
            return entry.answer
        flight = self._flights.get(key)
        if flight is not None and flight.is_open:
            request.note(RemoteEvent.JOINED)
            return await flight.answer()

        async def ask_and_keep() -> RemoteAnswer:
            answer = await ask()
            made = _Entry(answer, self._clock() + keep_seconds)
            if made.size_bytes <= self._max_entry_bytes:
                self._entries[key] = made
            return answer

        def forget(_: asyncio.Task[RemoteAnswer]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        task = asyncio.get_running_loop().create_task(ask_and_keep())
        self._flights[key] = flight = _Flight(task)
        task.add_done_callback(forget)
        return await flight.answer()


def request_digest(request: RemoteRequest, *, secret: bytes) -> bytes:
    """Return a digest that two requests share exactly if their answers must be equal.

    It covers the guardrail, the side, and every text with its role. Webhooks and gRPC servers
    receive key and model, and may answer by them: for these both are part of the digest.
    """
    digest = hashlib.blake2b(key=secret, digest_size=32)
    about = request.about
    is_named = isinstance(request.guardrail.settings, WebhookSettings | GrpcSettings)
    _add(digest, _guardrail_digest(request.guardrail))
    _add(digest, request.stage.value.encode())
    _add(digest, repr((about.key_id, about.model) if is_named else ()).encode())
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
