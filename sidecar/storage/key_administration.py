"""Keys, as the command line writes them. A new secret is returned and never stored."""

from __future__ import annotations

import dataclasses
import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from sidecar.authorization.api_key import ApiKey
from sidecar.authorization.scopes import Scopes
from sidecar.domain.principal import Network
from sidecar.storage.administration import (
    ChangeRefusedError,
    Rules,
    as_array,
    find_team_id,
    refusals,
)
from sidecar.storage.key_listing import Key, KeyState, find_key
from sidecar.storage.pool import Connection


class Expiry(enum.Enum):
    """Stands where a time could be given."""

    KEEP = "keep"
    """As it is with the key that is replaced."""


class Unchanged(enum.Enum):
    """Stands where a list could be given."""

    AS_IT_IS = "as it is"


AS_IT_IS: Final = Unchanged.AS_IT_IS


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """What of a key is to be another; None is no bound."""

    allowed_models: tuple[str, ...] | Unchanged | None = AS_IT_IS
    allowed_operations: tuple[str, ...] | Unchanged | None = AS_IT_IS
    allowed_sources: tuple[Network, ...] | Unchanged | None = AS_IT_IS
    tags: tuple[str, ...] | Unchanged = AS_IT_IS
    not_before: datetime | Unchanged | None = AS_IT_IS
    priority: str | Unchanged = AS_IT_IS


_CASTS: Final = {"allowed_sources": "::text[]::cidr[]"}
"""As in `postgres_keys`: asyncpg need not know what a cidr is."""
_ANY_USE: Final = Scopes()

_CREATE_KEY: Final = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, expires_at, allowed_models,
                      policy_name, allowed_operations, allowed_sources, tags, not_before)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text[]::cidr[], $10, $11)
"""

_COPY_KEY: Final = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, enabled, not_before, expires_at,
                      allowed_models, policy_name, allowed_operations, allowed_sources, tags,
                      limits, priority)
SELECT $2, $3, team_id, name, enabled, not_before, $4, allowed_models, policy_name,
       allowed_operations, allowed_sources, tags, limits, priority
FROM api_keys WHERE public_id = $1
"""


async def create_key(  # noqa: PLR0913 - a row of the table
    connection: Connection,
    key: ApiKey,
    *,
    owner: tuple[str, str],
    expires_at: datetime | None,
    rules: Rules,
    scopes: Scopes = _ANY_USE,
) -> Key:
    """Store *key*'s digest for `owner`, a team and the key's name in it.

    Raises:
        ChangeRefusedError: no such team or policy, or the team has a key of that name in use.
    """
    team, name = owner
    team_id = await find_team_id(connection, team)
    async with refusals(f"key {name} of team {team}", policy=rules.policy):
        await connection.execute(
            _CREATE_KEY,
            key.key_id,
            key.secret_sha256,
            team_id,
            name,
            expires_at,
            as_array(rules.allowed_models),
            rules.policy,
            as_array(scopes.operations),
            _texts(scopes.sources),
            as_array(scopes.tags),
            scopes.not_before,
        )
    return await find_key(connection, key.key_id)


async def revoke_key(connection: Connection, key_id: str) -> Key:
    """Revoke a key for good; the first revocation's time stays.

    Raises:
        ChangeRefusedError: there is no such key.
    """
    await connection.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE public_id = $1 AND revoked_at IS NULL",
        key_id,
    )
    return await find_key(connection, key_id)


async def switch_key(connection: Connection, key_id: str, *, enabled: bool) -> Key:
    """Let the key in, or refuse it until it is enabled again.

    Raises:
        ChangeRefusedError: there is no such key, or it is revoked.
    """
    async with connection.transaction():
        await _lock_usable(connection, key_id)
        await connection.execute(
            "UPDATE api_keys SET enabled = $2 WHERE public_id = $1", key_id, enabled
        )
    return await find_key(connection, key_id)


async def change_key(connection: Connection, key_id: str, *, change: KeyChange) -> Key:
    """Change what a key is for.

    Raises:
        ChangeRefusedError: there is no such key, or it is revoked.
    """
    values = {
        field.name: value
        for field in dataclasses.fields(change)
        if not isinstance(value := getattr(change, field.name), Unchanged)
    }
    if "allowed_sources" in values:
        values["allowed_sources"] = _texts(values["allowed_sources"])
    async with connection.transaction():
        await _lock_usable(connection, key_id)
        columns = ", ".join(
            f"{name} = ${place}{_CASTS.get(name, '')}"
            for place, name in enumerate(values, start=2)
        )
        await connection.execute(
            f"UPDATE api_keys SET {columns} WHERE public_id = $1",  # noqa: S608 - our own names
            key_id,
            *values.values(),
        )
    return await find_key(connection, key_id)


async def bind_key(connection: Connection, key_id: str, *, policy: str | None) -> Key:
    """Bind *policy* to a key, or none.

    Raises:
        ChangeRefusedError: there is no such key or policy, or the key is revoked.
    """
    async with connection.transaction(), refusals(f"key {key_id}", policy=policy):
        await _lock_usable(connection, key_id)
        await connection.execute(
            "UPDATE api_keys SET policy_name = $2 WHERE public_id = $1", key_id, policy
        )
    return await find_key(connection, key_id)


async def expire_key(connection: Connection, key_id: str, *, at: datetime | None) -> Key:
    """Set when a key stops being good; None is never.

    Raises:
        ChangeRefusedError: there is no such key, or it is revoked.
    """
    async with connection.transaction():
        await _lock_usable(connection, key_id)
        await connection.execute(
            "UPDATE api_keys SET expires_at = $2 WHERE public_id = $1", key_id, at
        )
    return await find_key(connection, key_id)


async def rotate_key(
    connection: Connection,
    key_id: str,
    *,
    key: ApiKey,
    grace: timedelta,
    expires_at: datetime | Expiry | None,
) -> tuple[Key, Key]:
    """Put *key* in the place of *key_id*, which stays good for *grace* at most.

    The new one takes over all but id, secret and expiry. Returns the new and the old.

    Raises:
        ChangeRefusedError: there is no such key, it is revoked, was rotated before, or is expired
            and nothing says how long the new one lives.
    """
    async with connection.transaction():
        # The name is unique among keys in use: it is free once the old one names its successor,
        # which must be there by the end of the transaction only.
        await connection.execute("SET CONSTRAINTS api_keys_replaced_by_fkey DEFERRED")
        old = await _lock_usable(connection, key_id)
        if old.replaced_by is not None:
            raise ChangeRefusedError(
                f"key {key_id} was rotated before", mend=f"rotate {old.replaced_by} instead"
            )
        if isinstance(expires_at, Expiry):
            if old.state is KeyState.EXPIRED:
                raise ChangeRefusedError(
                    f"key {key_id} is expired",
                    mend="say how long the new one lives: --expires 30d",
                )
            expires_at = old.expires_at
        await connection.execute(
            "UPDATE api_keys SET replaced_by = $2,"
            " expires_at = LEAST(expires_at, now() + $3::interval) WHERE public_id = $1",
            key_id,
            key.key_id,
            grace,
        )
        await connection.execute(_COPY_KEY, key_id, key.key_id, key.secret_sha256, expires_at)
    return await find_key(connection, key.key_id), await find_key(connection, key_id)


async def _lock_usable(connection: Connection, key_id: str) -> Key:
    await connection.execute("SELECT 1 FROM api_keys WHERE public_id = $1 FOR UPDATE", key_id)
    key = await find_key(connection, key_id)
    if key.revoked_at is not None:
        raise ChangeRefusedError(
            f"key {key_id} is revoked", mend="create another with `egret keys create`"
        )
    return key


def _texts(networks: tuple[Network, ...] | None) -> list[str] | None:
    return None if networks is None else [str(network) for network in networks]
