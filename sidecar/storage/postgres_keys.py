"""Key records out of PostgreSQL: one statement each."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Final

import asyncpg

from sidecar.authorization.ports import Fence, KeyStoreUnavailableError, Reading
from sidecar.domain.limits import Level, Limit, Priority
from sidecar.domain.principal import KeyRecord, Network, PolicyBinding, Principal
from sidecar.limits.written import read_limits
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.administration import as_tuple
from sidecar.storage.pool import UNAVAILABLE, Pool, fetch

_LOAD_KEY: Final = """
SELECT k.public_id,
       k.secret_sha256,
       k.enabled,
       t.enabled AS team_enabled,
       o.enabled AS organization_enabled,
       extract(epoch FROM k.not_before)::float8 AS not_before,
       extract(epoch FROM k.expires_at)::float8 AS expires_at,
       extract(epoch FROM k.revoked_at)::float8 AS revoked_at,
       COALESCE(k.allowed_models, t.allowed_models, o.allowed_models) AS allowed_models,
       k.policy_name AS key_policy,
       t.policy_name AS team_policy,
       o.policy_name AS organization_policy,
       t.id AS team_id,
       t.name AS team_name,
       o.id AS organization_id,
       o.name AS organization_name,
       k.allowed_operations,
       k.allowed_sources::text[] AS allowed_sources,
       k.limits AS key_limits,
       t.limits AS team_limits,
       o.limits AS organization_limits,
       k.priority,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS horizon,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id
JOIN organizations AS o ON o.id = t.organization_id
WHERE k.public_id = $1
"""
# As text: asyncpg would ask the server what an array of cidr is, once a connection.
# The end of the statement's own snapshot: it sees all that ended before that id was allocated; and
# its beginning: it sees all that has a lower id.

_FENCE: Final = """
SELECT pg_current_xact_id()::text::bigint AS transaction,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint
           AS timeline,
       egret_last_change() AS last_change
"""
# Allocating an id is what makes it a fence: snapshots from before have their horizon below it. The
# first eight hexadecimal digits of a WAL file's name are its timeline (PostgreSQL 18, 28.6).


class PostgresKeyStore:
    """Implements `KeySource`."""

    def __init__(self, pool: Pool, settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings

    async def load(self, key_id: str) -> KeyRecord | None:
        """Return the record of *key_id* alone; otherwise like `read`."""
        return (await self.read(key_id)).record

    async def read(self, key_id: str) -> Reading:
        """Return the record of *key_id* as it is committed now.

        Raises:
            KeyStoreUnavailableError: no connection, no answer in time, or no such schema yet.
        """
        rows = await self._fetch(_LOAD_KEY, key_id)
        if not rows:
            return Reading(None, horizon=0, settled=0)
        (row,) = rows
        try:
            record = _record(row)
        except ValueError as error:  # written by a newer Egret, or by hand
            raise KeyStoreUnavailableError("a key has limits that cannot be read") from error
        return Reading(record, horizon=row["horizon"], settled=row["settled"])

    async def fence(self) -> Fence:
        """Return a fence behind everything that is committed now.

        Raises:
            KeyStoreUnavailableError: no connection, no answer in time, or a standby server.
        """
        (row,) = await self._fetch(_FENCE)
        return Fence(row["timeline"], row["transaction"], last_change=row["last_change"])

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        try:
            return await fetch(self._pool, statement, *arguments, settings=self._settings)
        except UNAVAILABLE as error:
            raise KeyStoreUnavailableError(
                f"PostgreSQL gave no answer about keys: {type(error).__name__}"
            ) from error


def _record(row: asyncpg.Record) -> KeyRecord:
    return KeyRecord(
        principal=Principal(
            key_id=row["public_id"],
            team_id=row["team_id"],
            team_name=row["team_name"],
            organization_id=row["organization_id"],
            organization_name=row["organization_name"],
        ),
        secret_sha256=row["secret_sha256"],
        enabled=row["enabled"],
        team_enabled=row["team_enabled"],
        organization_enabled=row["organization_enabled"],
        not_before=row["not_before"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        allowed_models=as_tuple(row["allowed_models"]),
        policies=PolicyBinding(
            key=row["key_policy"],
            team=row["team_policy"],
            organization=row["organization_policy"],
        ),
        allowed_operations=as_tuple(row["allowed_operations"]),
        allowed_sources=_networks(row["allowed_sources"]),
        limits=_limits(row),
        priority=Priority(row["priority"]),
    )


def _limits(row: asyncpg.Record) -> tuple[Limit, ...]:
    owners = (
        (Level.KEY, row["public_id"], row["key_limits"]),
        (Level.TEAM, row["team_id"], row["team_limits"]),
        (Level.ORGANIZATION, row["organization_id"], row["organization_limits"]),
    )
    return tuple(
        limit
        for level, owner, text in owners
        for limit in read_limits(text, level=level, owner=owner)
    )


def _networks(texts: list[str] | None) -> tuple[Network, ...] | None:
    return None if texts is None else tuple(map(ip_network, texts))
