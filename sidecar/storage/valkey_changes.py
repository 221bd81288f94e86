"""Changes to keys over publish and subscribe, for where nobody can LISTEN in PostgreSQL.

A pooler in transaction mode passes no notifications on. The command line then publishes what it
has changed, after its commit. What changes the database otherwise is not heard of this way.
Whoever can publish can make workers read keys anew, and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Never

from sidecar.settings.process import Settings
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.postgres_changes import ChangeCallbacks
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, open_valkey
from sidecar.storage.valkey_topics import HEARTBEAT_SECONDS, Subscriber, patient

KEYS_TOPIC: Final = "egret:keys"
"""Messages are as the payloads of `schema.KEYS_CHANNEL`."""
POLICIES_TOPIC: Final = "egret:policies"


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
        async with open_valkey(patient(settings)) as client:
            for message in messages:
                await client.publish(topic, message)
    except VALKEY_UNAVAILABLE as error:
        raise ValkeyNotPublishedError(type(error).__name__) from error


class ValkeyChangeListener:
    """Hears of changes, those before it listened included."""

    def __init__(
        self,
        settings: ValkeySettings,
        callbacks: ChangeCallbacks,
        *,
        heartbeat_seconds: float = HEARTBEAT_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._callbacks = callbacks
        self._wall = wall
        self._subscriber = Subscriber(
            settings,
            {KEYS_TOPIC: self._hear_key, POLICIES_TOPIC: lambda _: callbacks.on_policies()},
            on_listening=self._begin,
            on_lost=callbacks.on_lost,
            heartbeat_seconds=heartbeat_seconds,
        )

    async def run(self) -> Never:
        """Listen until cancelled."""
        await self._subscriber.run()

    def _begin(self) -> None:
        self._callbacks.on_listening()
        self._callbacks.on_policies()

    def _hear_key(self, payload: bytes) -> None:
        self._callbacks.hear(payload.decode("ascii", "replace"), now=self._wall())
