"""Key records and key changes in Valkey."""

from __future__ import annotations

import hashlib
import hmac
import time
from collections.abc import Callable
from ipaddress import ip_network
from typing import Final, Never

import msgspec

from sidecar.domain.limits import Level, Priority
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.keys.ports import SharedRecord
from sidecar.limits.serialization import read_limits, write_limits
from sidecar.settings.process import Settings
from sidecar.settings.stores import ValkeySettings
from sidecar.storage.postgres_keys import ChangeCallbacks
from sidecar.storage.valkey import (
    VALKEY_UNAVAILABLE,
    Client,
    SharedTimes,
    Subscriber,
    ValkeyCalls,
    open_valkey,
    patient,
)
from sidecar.telemetry.key_metrics import SharedOutcome

KEYS_TOPIC: Final = "egret:keys"
"""Messages are as the payloads of `schema.KEYS_CHANNEL`."""
POLICIES_TOPIC: Final = "egret:policies"
BARRIERS_TOPIC: Final = "egret:barriers"


class ValkeyNotPublishedError(Exception):
    """The change is made, but not published; workers see it when their caches age."""


async def publish_key_change(settings: Settings, *scopes: str) -> None:
    """Publish that keys have changed, if workers subscribe here; call it after the commit.

    A scope is a key's id, `team:<id>`, `organization:<id>` or `*`.

    Raises:
        ValkeyNotPublishedError: the server did not take it.
    """
    if settings.cache.invalidation.subscribes:
        micros = int(time.time() * 1_000_000)
        await _publish(settings.valkey, KEYS_TOPIC, [f"{scope},{micros}" for scope in scopes])


async def publish_policy_change(settings: Settings, *names: str) -> None:
    """Publish that policies have changed; otherwise like `publish_key_change`."""
    if settings.cache.invalidation.subscribes:
        await _publish(settings.valkey, POLICIES_TOPIC, list(names))


async def publish_barrier(settings: Settings, token: str) -> None:
    """Publish a token that workers acknowledge; otherwise like `publish_key_change`."""
    if settings.cache.invalidation.subscribes:
        await _publish(settings.valkey, BARRIERS_TOPIC, [token])


async def _publish(settings: ValkeySettings, topic: str, messages: list[str]) -> None:
    try:
        async with open_valkey(patient(settings)) as client:
            for message in messages:
                await client.publish(topic, message)
    except VALKEY_UNAVAILABLE as error:
        raise ValkeyNotPublishedError(type(error).__name__) from error


class ValkeyChangeListener:
    """Receives changes; on each new subscription, earlier ones count as missed."""

    def __init__(self, settings: ValkeySettings, callbacks: ChangeCallbacks) -> None:
        def on_key(payload: bytes) -> None:
            callbacks.receive(payload.decode("ascii", "replace"), now=time.time())

        def on_listening() -> None:
            callbacks.on_listening()
            callbacks.on_policies()

        self._subscriber = Subscriber(
            settings,
            {
                KEYS_TOPIC: on_key,
                POLICIES_TOPIC: lambda _: callbacks.on_policies(),
                BARRIERS_TOPIC: lambda token: callbacks.on_barrier(
                    token.decode("ascii", "replace")
                ),
            },
            on_listening=on_listening,
            on_lost=callbacks.on_lost,
        )

    async def run(self) -> Never:
        """Listen until cancelled."""
        await self._subscriber.run()


VERSION: Final = 3
_NEWER: Final = tuple(bytes((version,)) for version in range(VERSION + 1, 16))
_TAG_BYTES: Final = hashlib.sha256().digest_size
_LABEL: Final = b"egret shared key record 3\0"
_MAX_BYTES: Final = 16 * 1024
"""Several times the longest record; more is not worth the time to authenticate it."""


class _Written(msgspec.Struct, array_like=True, frozen=True, forbid_unknown_fields=True):
    """Order and types are the format: a change of either is a new version."""

    timeline: int
    horizon: int
    settled: int
    read_at: float
    key_id: str
    team_id: str
    team_name: str
    organization_id: str
    organization_name: str
    secret_sha256: bytes
    enabled: bool
    team_enabled: bool
    organization_enabled: bool
    not_before: float | None
    expires_at: float | None
    revoked_at: float | None
    allowed_models: tuple[str, ...] | None
    policies: tuple[str | None, str | None, str | None]
    allowed_operations: tuple[str, ...] | None
    allowed_sources: tuple[str, ...] | None
    limits: tuple[str, str, str]
    priority: str


_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final = msgspec.msgpack.Decoder(_Written)


class SharedRecordCodec:
    """Writes and reads with one secret, shared by all workers."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()

    def encode(self, shared: SharedRecord) -> bytes:
        """Return the value to keep for the record's key."""
        record = shared.record
        owner, policies, sources = record.principal, record.policies, record.allowed_sources
        of_key, of_team, of_organization = (
            write_limits(limit for limit in record.limits if limit.level is level)
            for level in Level
        )
        payload = _encoder.encode(
            _Written(
                timeline=shared.timeline,
                horizon=shared.horizon,
                settled=shared.settled,
                read_at=shared.read_at,
                key_id=owner.key_id,
                team_id=owner.team_id,
                team_name=owner.team_name,
                organization_id=owner.organization_id,
                organization_name=owner.organization_name,
                secret_sha256=record.secret_sha256,
                enabled=record.enabled,
                team_enabled=record.team_enabled,
                organization_enabled=record.organization_enabled,
                not_before=record.not_before,
                expires_at=record.expires_at,
                revoked_at=record.revoked_at,
                allowed_models=record.allowed_models,
                policies=(policies.key, policies.team, policies.organization),
                allowed_operations=record.allowed_operations,
                allowed_sources=None if sources is None else tuple(map(str, sources)),
                limits=(of_key, of_team, of_organization),
                priority=record.priority.value,
            )
        )
        return bytes((VERSION,)) + self._tag(owner.key_id, payload) + payload

    def decode(self, key_id: str, value: bytes) -> SharedRecord | SharedOutcome:
        """Return the record of *key_id* in *value*, or why there is none. Raises for no input."""
        if value[:1] in _NEWER:
            return SharedOutcome.NEWER
        tag, payload = value[1 : 1 + _TAG_BYTES], value[1 + _TAG_BYTES :]
        is_whole = value[:1] == bytes((VERSION,)) and len(value) <= _MAX_BYTES
        if not is_whole or not hmac.compare_digest(tag, self._tag(key_id, payload)):
            return SharedOutcome.UNAUTHENTIC
        try:
            shared = _record(_decoder.decode(payload))
        except (msgspec.DecodeError, ValueError, RecursionError):
            return SharedOutcome.UNREADABLE
        is_for_it = shared.record.principal.key_id == key_id
        return shared if is_for_it else SharedOutcome.UNREADABLE

    def _tag(self, key_id: str, payload: bytes) -> bytes:
        # With its length before it, the id and the payload split in one way only.
        name = key_id.encode()
        text = _LABEL + len(name).to_bytes(2, "big") + name + payload
        return hmac.digest(self._secret, text, "sha256")


def _record(written: _Written) -> SharedRecord:
    """Return the record. Raises ValueError for an invalid network, limit or text."""
    key, team, organization = written.policies
    sources = written.allowed_sources
    owners = (written.key_id, written.team_id, written.organization_id)
    record = KeyRecord(
        principal=Principal(
            key_id=written.key_id,
            team_id=written.team_id,
            team_name=written.team_name,
            organization_id=written.organization_id,
            organization_name=written.organization_name,
        ),
        secret_sha256=written.secret_sha256,
        enabled=written.enabled,
        team_enabled=written.team_enabled,
        organization_enabled=written.organization_enabled,
        not_before=written.not_before,
        expires_at=written.expires_at,
        revoked_at=written.revoked_at,
        allowed_models=written.allowed_models,
        policies=PolicyBinding(key=key, team=team, organization=organization),
        allowed_operations=written.allowed_operations,
        allowed_sources=None if sources is None else tuple(map(ip_network, sources)),
        limits=tuple(
            limit
            for level, owner, text in zip(Level, owners, written.limits, strict=True)
            for limit in read_limits(text, level=level, owner=owner)
        ),
        priority=Priority(written.priority),
    )
    return SharedRecord(
        record,
        written.timeline,
        horizon=written.horizon,
        settled=written.settled,
        read_at=written.read_at,
    )


KEY_PREFIX: Final = f"egret:key:v{VERSION}:"


class ValkeyKeys:
    """Implements `SharedKeys`.

    `count` receives the outcome of every operation.
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
        self._count = count
        self._calls = ValkeyCalls(times, count)

    async def get(self, key_id: str) -> SharedRecord | None:
        """Return the record of *key_id*, None if there is none or it is not authentic."""
        value = await self._calls.run(lambda: self._client.get(KEY_PREFIX + key_id))
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
        """Keep a record; it replaces an older one."""
        value = self._codec.encode(shared)
        answer = await self._calls.run(
            lambda: self._client.set(KEY_PREFIX + key_id, value, px=self._keep_ms)
        )
        if not isinstance(answer, SharedOutcome):
            self._count(SharedOutcome.WRITTEN)

    async def discard(self, key_id: str) -> None:
        """Forget *key_id*."""
        answer = await self._calls.run(lambda: self._client.unlink(KEY_PREFIX + key_id))
        if not isinstance(answer, SharedOutcome):
            self._count(SharedOutcome.DISCARDED)
