"""Key records for tests that care about little of them."""

from __future__ import annotations

from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal


def record_of(key_id: str, *, revoked_at: float | None = None, digest: bytes = b"") -> KeyRecord:
    """A record of a key that is good, unless it says otherwise."""
    return KeyRecord(
        principal=Principal(
            key_id=key_id,
            team_id="team_1",
            team_name="search",
            organization_id="org_1",
            organization_name="acme",
        ),
        secret_sha256=digest,
        enabled=True,
        team_enabled=True,
        organization_enabled=True,
        not_before=None,
        expires_at=None,
        revoked_at=revoked_at,
        allowed_models=None,
        policies=PolicyBinding(),
    )
