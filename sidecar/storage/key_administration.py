"""Keys, as the command line reads and writes them. A new secret is returned and never stored."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import asyncpg

from sidecar.authorization.api_key import ApiKey
from sidecar.storage.administration import (
    ChangeRefusedError,
    Rules,
    as_array,
    as_tuple,
    find_team_id,
    refusals,
)
from sidecar.storage.pool import Connection


class KeyState(enum.Enum):
    """Whether a request with the key would be let in now, or why not."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    DISABLED = "disabled"


class Expiry(enum.Enum):
    """Stands where a time could be given."""

    KEEP = "keep"
    """As it is with the key that is replaced."""


@dataclass(frozen=True, slots=True)
class Key:
    """A row of `api_keys` with its owners' names; holds nothing secret.

    Uses are some seconds late; `refused` counts those among the `requests`.
    """

    key_id: str
    name: str
    team: str
    state: KeyState
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    allowed_models: tuple[str, ...] | None
    policy: str | None
    created_at: datetime
    last_used_at: datetime | None
    requests: int
    refused: int


_KEYS: Final = """
SELECT k.public_id, k.name, o.name || '/' || t.name AS team, k.not_before, k.expires_at,
       k.revoked_at, k.replaced_by, k.allowed_models, k.policy_name, k.created_at,
       a.last_used_at, COALESCE(a.requests, 0) AS requests, COALESCE(a.refused, 0) AS refused,
       CASE
           WHEN k.revoked_at IS NOT NULL THEN 'revoked'
           WHEN k.expires_at <= now() THEN 'expired'
           WHEN k.not_before > now() THEN 'not_yet'
           WHEN NOT (k.enabled AND t.enabled AND o.enabled) THEN 'disabled'
           ELSE 'active'
       END AS state
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id
JOIN organizations AS o ON o.id = t.organization_id
LEFT JOIN key_activity AS a ON a.key_id = k.public_id
WHERE ($1::text IS NULL OR k.team_id = $1) AND ($2::text IS NULL OR k.public_id = $2)
ORDER BY team, k.name, k.created_at
"""

_CREATE_KEY: Final = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, expires_at, allowed_models,
                      policy_name)
VALUES ($1, $2, $3, $4, $5, $6, $7)
"""

_COPY_KEY: Final = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, enabled, expires_at,
                      allowed_models, policy_name)
SELECT $2, $3, team_id, name, enabled, $4, allowed_models, policy_name
FROM api_keys WHERE public_id = $1
"""


async def keys(connection: Connection, *, team: str | None) -> tuple[Key, ...]:
    """Return the keys of one team or of all, by team and name.

    Raises:
        ChangeRefusedError: there is no such team.
    """
    team_id = None if team is None else await find_team_id(connection, team)
    return tuple(_key(row) for row in await connection.fetch(_KEYS, team_id, None))


async def find_key(connection: Connection, key_id: str) -> Key:
    """Return one key.

    Raises:
        ChangeRefusedError: there is no such key.
    """
    row = await connection.fetchrow(_KEYS, None, key_id)
    if row is None:
        raise ChangeRefusedError(f"there is no key {key_id}", mend="see `egret keys list`")
    return _key(row)


async def create_key(
    connection: Connection,
    key: ApiKey,
    *,
    owner: tuple[str, str],
    expires_at: datetime | None,
    rules: Rules,
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

    The new one takes over team, name, models and policy. Returns the new and the old.

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


def _key(row: asyncpg.Record) -> Key:
    return Key(
        key_id=row["public_id"],
        name=row["name"],
        team=row["team"],
        state=KeyState(row["state"]),
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        replaced_by=row["replaced_by"],
        allowed_models=as_tuple(row["allowed_models"]),
        policy=row["policy_name"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        requests=row["requests"],
        refused=row["refused"],
    )
