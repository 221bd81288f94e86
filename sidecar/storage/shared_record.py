"""How a key record is written into a cache that others may write to.

Value, version 3: one byte 3, an HMAC-SHA256 of 32 bytes, and a MessagePack array (`_Written`).
The HMAC is over a label, the key's public id and the array: what was altered, cut short, copied
from another key or made up by someone without the secret is not believed. It does not show that a
value is recent; `authorization.fences` sees to that.
"""

from __future__ import annotations

import hashlib
import hmac
from ipaddress import ip_network
from typing import Final

import msgspec

from sidecar.authorization.ports import SharedRecord
from sidecar.domain.limits import Level, Limit, Priority
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.limits.written import read_limits, write_limits
from sidecar.telemetry.key_metrics import SharedOutcome

VERSION: Final = 3
_NEWER: Final = tuple(bytes((version,)) for version in range(VERSION + 1, 16))
_TAG_BYTES: Final = hashlib.sha256().digest_size
_LABEL: Final = b"egret shared key record 3\0"
_MAX_BYTES: Final = 16 * 1024
"""Several times what is ever written; more is not worth the time to authenticate it."""


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
                limits=_limit_texts(record.limits),
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
        # The id ends where its length says, so that no other split gives the same bytes.
        name = key_id.encode()
        text = _LABEL + len(name).to_bytes(2, "big") + name + payload
        return hmac.digest(self._secret, text, "sha256")


def _limit_texts(limits: tuple[Limit, ...]) -> tuple[str, str, str]:
    key, team, organization = (
        write_limits(limit for limit in limits if limit.level is level) for level in Level
    )
    return key, team, organization


def _limits(written: _Written) -> tuple[Limit, ...]:
    owners = (written.key_id, written.team_id, written.organization_id)
    return tuple(
        limit
        for level, owner, text in zip(Level, owners, written.limits, strict=True)
        for limit in read_limits(text, level=level, owner=owner)
    )


def _record(written: _Written) -> SharedRecord:
    """Raises ValueError for what is no network, no limit, or no UTF-8."""
    key, team, organization = written.policies
    sources = written.allowed_sources
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
        limits=_limits(written),
        priority=Priority(written.priority),
    )
    return SharedRecord(
        record,
        written.timeline,
        horizon=written.horizon,
        settled=written.settled,
        read_at=written.read_at,
    )
