"""Unnamed ends of requests, told to the other workers over publish and subscribe in Valkey.

Envoy's access log goes to any worker; only the one that gave a verdict knows whose it was. What is
told while nobody listens is lost: then the request keeps what it took, as if nobody had told.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, Never

import msgspec
import structlog

from sidecar.domain.usage import UnnamedEnd
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, open_valkey
from sidecar.storage.valkey_topics import Subscriber, patient

ENDS_TOPIC: Final = "egret:ends"
MAX_WAITING: Final = 10_000
"""Beyond, the oldest are not told."""
MAX_MESSAGE: Final = 256
RETRY_SECONDS: Final = 0.25

_log = structlog.get_logger(__name__)


class ValkeyEnds:
    """Implements `OtherWorkers`; `run_telling` and `run_hearing` run beside it."""

    def __init__(self, settings: ValkeySettings) -> None:
        self._settings = settings
        self._waiting: list[UnnamedEnd] = []
        self._is_there_any = asyncio.Event()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(tuple[UnnamedEnd, ...])

    def tell(self, ends: Sequence[UnnamedEnd]) -> None:
        """Tell the other workers, soon."""
        self._waiting.extend(ends)
        del self._waiting[:-MAX_WAITING]
        self._is_there_any.set()

    async def run_telling(self) -> Never:
        """Publish what there is until cancelled; what cannot be published waits."""
        async with open_valkey(patient(self._settings)) as client:
            while True:
                await self._is_there_any.wait()
                some = self._waiting[:MAX_MESSAGE]
                try:
                    await client.publish(ENDS_TOPIC, self._encoder.encode(some))
                except VALKEY_UNAVAILABLE:
                    await asyncio.sleep(RETRY_SECONDS)
                    continue
                # By name: the oldest may have gone meanwhile.
                told = {end.stream for end in some}
                self._waiting = [end for end in self._waiting if end.stream not in told]
                if not self._waiting:
                    self._is_there_any.clear()

    async def run_hearing(self, hear: Callable[[Sequence[UnnamedEnd]], None]) -> Never:
        """Hear what others tell, and ourselves, until cancelled."""

        def decode(message: bytes) -> None:
            try:
                ends = self._decoder.decode(message)
            except msgspec.DecodeError:
                _log.warning("ends.unreadable", bytes=len(message))
                return
            hear(ends)

        await Subscriber(self._settings, {ENDS_TOPIC: decode}).run()
