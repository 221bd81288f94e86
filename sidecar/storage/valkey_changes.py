"""Changes to keys over publish and subscribe, for where nobody can LISTEN in PostgreSQL.

A pooler in transaction mode passes no notifications on. The command line then publishes what it
has changed, after its commit. What changes the database otherwise is not heard of this way.
Whoever can publish can make workers read keys anew, and nothing else.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final, Never

import structlog
from redis.asyncio import RedisCluster

from sidecar.settings import Settings, ValkeySettings
from sidecar.storage.postgres_changes import ChangeCallbacks
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, Client, open_valkey

KEYS_TOPIC: Final = "egret:keys"
"""Messages are as the payloads of `schema.KEYS_CHANNEL`."""
POLICIES_TOPIC: Final = "egret:policies"
HEARTBEAT_SECONDS: Final = 5.0
SUBSCRIBER_SECONDS: Final = 1.0
"""Budget of connecting and of a heartbeat's answer: nobody waits for the subscriber."""
_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0

_log = structlog.get_logger(__name__)


class ValkeyNotPublishedError(Exception):
    """The change is made, but workers were not told; they see it when their caches age."""


async def publish_key_change(settings: Settings, *scopes: str) -> None:
    """Tell workers that keys have changed, if they listen here; call it after the commit.

    A scope is a key's id, `team:<id>`, `organization:<id>` or `*`.

    Raises:
        ValkeyNotPublishedError: the server did not take it.
    """
    if settings.cache.invalidation.subscribes:
        micros = int(time.time() * 1_000_000)
        await _publish(settings.valkey, KEYS_TOPIC, [f"{scope},{micros}" for scope in scopes])


async def publish_policy_change(settings: Settings, *names: str) -> None:
    """Tell workers that policies have changed; otherwise like `publish_key_change`."""
    if settings.cache.invalidation.subscribes:
        await _publish(settings.valkey, POLICIES_TOPIC, list(names))


async def _publish(settings: ValkeySettings, topic: str, messages: list[str]) -> None:
    try:
        async with open_valkey(_patient(settings)) as client:
            for message in messages:
                await client.publish(topic, message)
    except VALKEY_UNAVAILABLE as error:
        raise ValkeyNotPublishedError(type(error).__name__) from error


class ValkeyChangeListener:
    """Subscribes, and again whenever the connection is lost."""

    def __init__(
        self,
        settings: ValkeySettings,
        callbacks: ChangeCallbacks,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = _patient(settings)
        self._callbacks = callbacks
        self._heartbeat_seconds = heartbeat_seconds
        self._wall = wall

    async def run(self) -> Never:
        """Listen until cancelled."""
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            is_listening = False
            try:
                async with open_valkey(self._settings) as client, _subscription(client) as topics:
                    is_listening = True
                    _log.info("changes.subscribed")
                    self._callbacks.on_listening()
                    self._callbacks.on_policies()
                    delay_seconds = _FIRST_DELAY_SECONDS
                    await self._stay(topics)
            except VALKEY_UNAVAILABLE as error:
                _log.warning(
                    "changes.not_subscribed",
                    error_type=type(error).__name__,
                    retry_seconds=delay_seconds,
                )
            finally:
                if is_listening:
                    self._callbacks.on_lost()
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _LONGEST_DELAY_SECONDS)

    async def _stay(self, topics: Any) -> Never:
        is_asked = False
        while True:
            message = await topics.get_message(timeout=self._heartbeat_seconds)
            if message is not None:
                is_asked = False
                self._tell(message)
            elif is_asked:
                raise TimeoutError("the server does not answer")
            else:
                is_asked = True
                await topics.ping()

    def _tell(self, message: dict[str, Any]) -> None:
        if message["type"] != "message":
            return
        if message["channel"] == POLICIES_TOPIC.encode():
            self._callbacks.on_policies()
        else:
            payload = bytes(message["data"]).decode("ascii", "replace")
            self._callbacks.hear(payload, now=self._wall())


@asynccontextmanager
async def _subscription(client: Client) -> AsyncGenerator[Any]:
    """Give a subscription that the server has confirmed."""
    if isinstance(client, RedisCluster):
        await client.initialize()  # a subscription does not do that by itself (redis 8.1)
    topics: Any = client.pubsub()  # typed only in part (redis 8.1)
    try:
        await topics.subscribe(KEYS_TOPIC, POLICIES_TOPIC)
        async with asyncio.timeout(SUBSCRIBER_SECONDS):
            for _ in range(2):
                while await topics.get_message(timeout=SUBSCRIBER_SECONDS) is None:
                    pass
        yield topics
    finally:
        await topics.aclose()


def _patient(settings: ValkeySettings) -> ValkeySettings:
    return settings.model_copy(update={"operation_seconds": SUBSCRIBER_SECONDS})
