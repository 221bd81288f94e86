"""Key records in Valkey or Redis, where all workers find them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, TypeVar

from sidecar.authorization.ports import SharedRecord
from sidecar.storage.shared_record import VERSION, SharedRecordCodec
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, Client
from sidecar.telemetry.key_metrics import SharedOutcome

KEY_PREFIX: Final = f"egret:key:v{VERSION}:"
FAILURES: Final = 3
"""In a row, after which the server is left alone for a while."""

_Answer = TypeVar("_Answer")


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedTimes:
    """In seconds.

    `keep_seconds` is how long the server holds a record, whether one of that age is used or not;
    `pause_seconds` how long a server that fails is left alone.
    """

    keep_seconds: float
    operation_seconds: float
    pause_seconds: float = 2.0


class ValkeyKeys:
    """Implements `SharedKeys`.

    `count` is told what became of every operation.
    """

    def __init__(
        self,
        client: Client,
        codec: SharedRecordCodec,
        *,
        times: SharedTimes,
        count: Callable[[SharedOutcome], None],
    ) -> None:
        self._client = client
        self._codec = codec
        self._keep_ms = max(1, int(times.keep_seconds * 1000))
        self._times = times
        self._count = count
        self._failures = 0
        self._paused_until = 0.0

    async def get(self, key_id: str) -> SharedRecord | None:
        """Return what is kept of *key_id*; None for nothing, or nothing that can be believed."""
        value = await self._run(lambda: self._client.get(KEY_PREFIX + key_id))
        if isinstance(value, SharedOutcome):
            return None
        if not isinstance(value, bytes):
            self._count(SharedOutcome.MISS if value is None else SharedOutcome.UNREADABLE)
            return None
        decoded = self._codec.decode(key_id, value)
        if isinstance(decoded, SharedOutcome):
            self._count(decoded)
            return None
        self._count(SharedOutcome.HIT)
        return decoded

    async def put(self, key_id: str, shared: SharedRecord) -> None:
        """Keep a record in the place of any other."""
        value = self._codec.encode(shared)
        answer = await self._run(
            lambda: self._client.set(KEY_PREFIX + key_id, value, px=self._keep_ms)
        )
        if not isinstance(answer, SharedOutcome):
            self._count(SharedOutcome.WRITTEN)

    async def discard(self, key_id: str) -> None:
        """Forget *key_id*."""
        answer = await self._run(lambda: self._client.unlink(KEY_PREFIX + key_id))
        if not isinstance(answer, SharedOutcome):
            self._count(SharedOutcome.DISCARDED)

    async def _run(self, operation: Callable[[], Awaitable[_Answer]]) -> _Answer | SharedOutcome:
        """Return the answer, or, counted, why there is none."""
        now = time.monotonic()
        if now < self._paused_until:
            self._count(SharedOutcome.SKIPPED)
            return SharedOutcome.SKIPPED
        if self._failures >= FAILURES:
            # One tries; the others would all wait for nothing if the server is still away.
            self._paused_until = now + self._times.pause_seconds
        try:
            async with asyncio.timeout(self._times.operation_seconds):
                answer = await operation()
        except VALKEY_UNAVAILABLE:
            self._failures += 1
            if self._failures >= FAILURES:
                self._paused_until = now + self._times.pause_seconds
            self._count(SharedOutcome.UNAVAILABLE)
            return SharedOutcome.UNAVAILABLE
        self._failures = 0
        self._paused_until = 0.0
        return answer
