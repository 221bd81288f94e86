"""How large a record is, so that caches stay as small as they promise."""

from __future__ import annotations

from typing import Final

from sidecar.domain.principal import KeyRecord

MAX_RECORD_BYTES: Final = 2048
"""Of text and digest. A longer list of models belongs into a policy, which is shared."""


def record_bytes(record: KeyRecord) -> int:
    """Return the bytes of everything in *record* whose length is not fixed."""
    owner, policies = record.principal, record.policies
    texts = (
        owner.key_id,
        owner.team_id,
        owner.team_name,
        owner.organization_id,
        owner.organization_name,
        policies.key,
        policies.team,
        policies.organization,
        *(record.allowed_models or ()),
        *(record.allowed_operations or ()),
        *map(str, record.allowed_sources or ()),
        *(limit.id for limit in record.limits),
        *(name for limit in record.limits for name in limit.models or ()),
    )
    return len(record.secret_sha256) + sum(len(text.encode()) for text in texts if text)


def fits(record: KeyRecord) -> bool:
    """Tell whether *record* may be kept in a cache."""
    return record_bytes(record) <= MAX_RECORD_BYTES
