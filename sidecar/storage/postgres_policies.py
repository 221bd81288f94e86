"""Loads and stores policies in PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from operator import attrgetter
from typing import Final

import asyncpg

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Connection, Pool, fetch

_CHANGED_POLICIES: Final = """
SELECT COALESCE(p.name, known.name) AS name, p.version, v.document, v.xmin::text AS written_by
FROM policies AS p
JOIN policy_versions AS v ON v.policy_name = p.name AND v.version = p.version
FULL JOIN unnest($1::text[], $2::integer[], $3::text[]) AS known (name, version, written_by)
    ON known.name = p.name
WHERE (p.version, v.xmin::text) IS DISTINCT FROM (known.version, known.written_by)
"""
"""The policies that differ from those known; one without a version is gone.

The transaction that wrote a row (`xmin`) tells apart two documents of one name and version: of a
policy that was changed by hand.
"""

_LIST_POLICIES: Final = """
SELECT p.name, p.version, v.created_at AS applied_at,
       (SELECT count(*) FROM organizations AS o WHERE o.policy_name = p.name) AS organizations,
       (SELECT count(*) FROM teams AS t WHERE t.policy_name = p.name) AS teams,
       (SELECT count(*) FROM api_keys AS k WHERE k.policy_name = p.name
            AND k.revoked_at IS NULL) AS keys
FROM policies AS p
JOIN policy_versions AS v ON v.policy_name = p.name AND v.version = p.version
WHERE $1::text IS NULL OR p.name > $1
ORDER BY p.name LIMIT $2
"""

_VERSIONS: Final = """
SELECT v.version, v.created_at AS applied_at, v.author, v.database_role, v.note,
       v.version = p.version AS in_force
FROM policy_versions AS v
JOIN policies AS p ON p.name = v.policy_name
WHERE v.policy_name = $1 AND ($2::integer IS NULL OR v.version < $2)
ORDER BY v.version DESC LIMIT $3
"""

_ONE_VERSION: Final = """
SELECT v.policy_name AS name, v.version, v.document
FROM policy_versions AS v
JOIN policies AS p ON p.name = v.policy_name
WHERE v.policy_name = $1 AND v.version = COALESCE($2, p.version)
"""


# A deletion is an entry of its own, whatever else the statement deletes.
_DELETED: Final = """
SELECT object_id AS name, max((before ->> 'version')::integer) AS version FROM audit_log
WHERE object_id = ANY($1::text[]) AND object_type = 'policies' AND action = 'delete'
GROUP BY object_id
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


@dataclass(frozen=True, slots=True)
class PolicyUse:
    """A policy in force, and how many organizations, teams and unrevoked keys bind it."""

    name: str
    version: int
    applied_at: datetime
    organizations: int
    teams: int
    keys: int


@dataclass(frozen=True, slots=True)
class PolicyVersion:
    """One version of a policy: its first time in force, its author and the reason.

    `author` was given to the command or is the user of the operating system, `database_role`
    the login; both are None for versions older than the audit log.
    """

    version: int
    applied_at: datetime
    author: str | None
    database_role: str | None
    note: str | None
    in_force: bool


class PostgresPolicyStore:
    """Reads the policies in force, and of those that it has read before only what has changed."""

    def __init__(self, pool: Pool, settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings
        self._known: dict[str, tuple[StoredPolicy, str]] = {}
        """The policies with the transaction that wrote each, by name."""
        self._in_order: tuple[StoredPolicy, ...] = ()

    async def load_policies(self) -> tuple[StoredPolicy, ...]:
        """Return the version in force of every policy, by name; the same object for the same set.

        Raises:
            PolicyStoreUnavailableError: no connection, no answer in time, or no such schema yet.
        """
        known = self._known
        try:
            changed = await fetch(
                self._pool,
                _CHANGED_POLICIES,
                list(known),
                [policy.version for policy, _ in known.values()],
                [written_by for _, written_by in known.values()],
                settings=self._settings,
            )
        except UNAVAILABLE as error:
            raise PolicyStoreUnavailableError(
                f"PostgreSQL gave no policies: {type(error).__name__}"
            ) from error
        for name, version, document, written_by in changed:
            if version is None:
                del known[name]
            else:
                known[name] = StoredPolicy(name, version, document), written_by
        if changed:
            self._in_order = tuple([known[name][0] for name in sorted(known)])
        return self._in_order


async def load_policies(connection: Connection) -> tuple[StoredPolicy, ...]:
    """Return the version in force of every policy, by name. Raises one of `UNAVAILABLE`."""
    stored = _policies(await connection.fetch(_CHANGED_POLICIES, [], [], []))
    return tuple(sorted(stored, key=attrgetter("name")))


async def load_policy(
    connection: Connection, name: str, *, version: int | None = None
) -> StoredPolicy | None:
    """Return one version of a policy, by default the one in force."""
    rows = _policies(await connection.fetch(_ONE_VERSION, name, version))
    return rows[0] if rows else None


async def deleted_versions(connection: Connection, names: Iterable[str]) -> dict[str, int]:
    """Return the last version of each policy of these *names* that was deleted before.

    A policy that is applied anew continues behind it: one name and version is one document, for
    workers that report it and for clients that hold its tag.
    """
    rows = await connection.fetch(_DELETED, list(names))
    return {row["name"]: row["version"] for row in rows}


async def policy_names(connection: Connection) -> tuple[str, ...]:
    """Return the names of all policies, in their order."""
    rows = await connection.fetch("SELECT name FROM policies ORDER BY name")
    return tuple(row["name"] for row in rows)


async def policy_uses(
    connection: Connection, *, after: str | None = None, most: int | None = None
) -> tuple[PolicyUse, ...]:
    """Return each policy with the number of its bindings by name, or the *most* behind *after*."""
    rows = await connection.fetch(_LIST_POLICIES, after, most)
    return tuple(PolicyUse(**dict(row)) for row in rows)


async def policy_versions(
    connection: Connection, name: str, *, before: int | None = None, most: int | None = None
) -> tuple[PolicyVersion, ...]:
    """Return the versions of a policy, the latest first, or the *most* of them from *before* on.

    There are none without such a policy.
    """
    rows = await connection.fetch(_VERSIONS, name, before, most)
    return tuple(PolicyVersion(**dict(row)) for row in rows)


def _policies(rows: list[asyncpg.Record]) -> tuple[StoredPolicy, ...]:
    return tuple(StoredPolicy(row["name"], row["version"], row["document"]) for row in rows)


async def apply_policy(
    connection: Connection,
    name: str,
    *,
    document: str,
    expected_version: int,
    note: str | None = None,
) -> StoredPolicy:
    """Bring *document* into force as the next version of *name*, with the author's *note*.

    `expected_version` is the version that the caller saw, 0 without one. The author is
    the actor of the transaction.

    Raises:
        PolicyChangedError: another change was faster; nothing was changed.
    """
    async with connection.transaction():
        # A lock by name: there is no row to lock before the first version.
        await connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended('egret_policies:' || $1::text, 0))",
            name,
        )
        found = await connection.fetchval("SELECT version FROM policies WHERE name = $1", name)
        version: int = found or 0
        if version != expected_version:
            raise PolicyChangedError(name, expected_version=expected_version, version=version)
        deleted = await deleted_versions(connection, [name])
        version = max(version, deleted.get(name, 0)) + 1
        await connection.execute(
            "INSERT INTO policies (name, version) VALUES ($1, $2)"
            " ON CONFLICT (name) DO UPDATE SET version = $2",
            name,
            version,
        )
        await connection.execute(
            "INSERT INTO policy_versions (policy_name, version, document, note)"
            " VALUES ($1, $2, $3, $4)",
            name,
            version,
            document,
            note,
        )
    return StoredPolicy(name, version, document)
