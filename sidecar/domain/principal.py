"""The owner of a key, and the stored record of the key."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import NamedTuple

from sidecar.domain.limits import Limit, Priority

Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True)
class Principal:
    """The owner of an accepted key. Every field may be logged; none is secret."""

    key_id: str
    team_id: str
    team_name: str
    organization_id: str
    organization_name: str


class PolicyBinding(NamedTuple):
    """Names of the policies bound at each level; None if a level binds none.

    A tuple, which is hashed in C: each request looks its policy up by it.
    """

    key: str | None = None
    team: str | None = None
    organization: str | None = None


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """One key with all that authorization needs, as a single statement returns it.

    Times are seconds since the epoch. `secret_sha256` is the digest of the secret, never the
    secret. `allowed_models` holds glob patterns already resolved key → team → organization;
    None if no level sets any. `allowed_operations`, by the names of `Operation`, and
    `allowed_sources` are the key's own; None allows every operation, or every address. `limits`
    are those of key, team and organization together.
    """

    principal: Principal
    secret_sha256: bytes
    enabled: bool
    team_enabled: bool
    organization_enabled: bool
    not_before: float | None
    expires_at: float | None
    revoked_at: float | None
    allowed_models: tuple[str, ...] | None
    policies: PolicyBinding
    allowed_operations: tuple[str, ...] | None = None
    allowed_sources: tuple[Network, ...] | None = None
    limits: tuple[Limit, ...] = ()
    priority: Priority = Priority.STANDARD
