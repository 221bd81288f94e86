"""Policies in PostgreSQL: one version of each in force, every version kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import asyncpg

from sidecar.settings import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, Pool, fetch

_LOAD_POLICIES: Final = """
SELECT p.name, p.version, v.document
FROM policies AS p
JOIN policy_versions AS v ON v.policy_name = p.name AND v.version = p.version
ORDER BY p.name
"""


class PolicyStoreUnavailableError(Exception):
    """The policies could not be read."""


class PolicyChangedError(Exception):
    """Another version came into force since the one that this change was planned against."""

    def __init__(self, name: str, *, expected_version: int, version: int) -> None:
        super().__init__(
            f"policy {name} is at version {version} now, planned against {expected_version}"
        )


@dataclass(frozen=True, slots=True)
class StoredPolicy:
    """A policy as it was applied; `document` is its YAML."""

    name: str
    version: int
    document: str


class PostgresPolicyStore:
    """Reads the policies in force."""

    def __init__(self, pool: Pool, settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings

    async def load_policies(self) -> tuple[StoredPolicy, ...]:
        """Return the version in force of every policy, by name.

        Raises:
            PolicyStoreUnavailableError: no connection, no answer in time, or no such schema yet.
        """
        try:
            rows = await fetch(self._pool, _LOAD_POLICIES, settings=self._settings)
        except UNAVAILABLE as error:
            raise PolicyStoreUnavailableError(
                f"PostgreSQL gave no policies: {type(error).__name__}"
            ) from error
        return _policies(rows)


async def load_policies(connection: Connection) -> tuple[StoredPolicy, ...]:
    """Return the version in force of every policy, by name. Raises one of `UNAVAILABLE`."""
    return _policies(await connection.fetch(_LOAD_POLICIES))


def _policies(rows: list[asyncpg.Record]) -> tuple[StoredPolicy, ...]:
    return tuple(StoredPolicy(row["name"], row["version"], row["document"]) for row in rows)


async def apply_policy(
    connection: Connection, name: str, *, document: str, expected_version: int
) -> StoredPolicy:
    """Bring *document* into force as the next version of *name*.

    `expected_version` is the version that the caller saw, 0 where there was none.

    Raises:
        PolicyChangedError: someone else was faster; nothing was changed.
    """
    async with connection.transaction():
        version = await _lock_version(connection, name)
        if version != expected_version:
            raise PolicyChangedError(name, expected_version=expected_version, version=version)
        version += 1
        await connection.execute(
            "INSERT INTO policies (name, version) VALUES ($1, $2)"
            " ON CONFLICT (name) DO UPDATE SET version = $2",
            name,
            version,
        )
        await connection.execute(
            "INSERT INTO policy_versions (policy_name, version, document) VALUES ($1, $2, $3)",
            name,
            version,
            document,
        )
    return StoredPolicy(name, version, document)


async def _lock_version(connection: Connection, name: str) -> int:
    # A lock by name: there is no row to lock before the first version.
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended('egret_policies:' || $1::text, 0))", name
    )
    return await connection.fetchval("SELECT version FROM policies WHERE name = $1", name) or 0
