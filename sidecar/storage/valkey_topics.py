"""Publish and subscribe in Valkey: messages that reach whoever listens when they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, Never

import structlog
from redis.asyncio import RedisCluster

from sidecar.settings.stores import ValkeySettings
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, Client, open_valkey

HEARTBEAT_SECONDS: Final = 5.0
SUBSCRIBER_SECONDS: Final = 1.0
"""Budget of connecting and of a heartbeat's answer: nobody waits for the subscriber."""
_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)

Hear = Callable[[bytes], None]


def _nothing() -> None:
    pass


class Subscriber:
    """Subscribes to topics, and again whenever the connection is lost.

    What is called runs in the event loop and must not block or raise.
    """

    def __init__(
        self,
        settings: ValkeySettings,
        topics: Mapping[str, Hear],
        *,
        on_listening: Callable[[], None] = _nothing,
        on_lost: Callable[[], None] = _nothing,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
    ) -> None:
        self._settings = patient(settings)
        self._topics = {name.encode(): hear for name, hear in topics.items()}
        self._names = list(topics)
        self._on_listening = on_listening
        self._on_lost = on_lost
        self._heartbeat_seconds = heartbeat_seconds

    async def run(self) -> Never:
        """Listen until cancelled."""
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            is_listening = False
            try:
                async with (
                    open_valkey(self._settings) as client,
                    _subscription(client, tuple(self._topics)) as topics,
                ):
                    is_listening = True
                    _log.info("topics.subscribed", topics=self._names)
                    self._on_listening()
                    delay_seconds = _FIRST_DELAY_SECONDS
                    await self._stay(topics)
            except VALKEY_UNAVAILABLE as error:
                _log.warning(
                    "topics.not_subscribed",
                    topics=self._names,
                    error_type=type(error).__name__,
                    retry_seconds=delay_seconds,
                )
            finally:
                if is_listening:
                    self._on_lost()
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _LONGEST_DELAY_SECONDS)

    async def _stay(self, topics: Any) -> Never:
        is_asked = False
        while True:
            message = await topics.get_message(timeout=self._heartbeat_seconds)
            if message is not None:
                is_asked = False
                if message["type"] == "message":
                    self._topics[message["channel"]](bytes(message["data"]))
            elif is_asked:
                raise TimeoutError("the server does not answer")
            else:
                is_asked = True
                await topics.ping()


@asynccontextmanager
async def _subscription(client: Client, names: tuple[bytes, ...]) -> AsyncGenerator[Any]:
    """Give a subscription that the server has confirmed."""
    if isinstance(client, RedisCluster):
        await client.initialize()  # a subscription does not do that by itself (redis 8.1)
    topics: Any = client.pubsub()  # typed only in part (redis 8.1)
    try:
        await topics.subscribe(*names)
        async with asyncio.timeout(SUBSCRIBER_SECONDS):
            for _ in names:
                while await topics.get_message(timeout=SUBSCRIBER_SECONDS) is None:
                    pass
        yield topics
    finally:
        await topics.aclose()


def patient(settings: ValkeySettings) -> ValkeySettings:
    """Return settings for calls that no request waits for."""
    return settings.model_copy(update={"operation_seconds": SUBSCRIBER_SECONDS})
