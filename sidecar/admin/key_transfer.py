"""Imports and exports keys."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final, assert_never

import asyncpg

from sidecar.admin.key_files import FIELDS, Faults, FileFormat, KeyRow
from sidecar.admin.owners import ChangeRefusedError, find_team_id
from sidecar.storage.pool import Connection, affected_rows

_CHUNK_LINES: Final = 100_000
"""Lines for each INSERT: one notification, one entry in the audit log, one step of progress."""

_STAGE: Final = """
CREATE TEMPORARY TABLE import_keys (
    line bigint, key_id text COLLATE "C", secret_sha256 bytea, team text COLLATE "C",
    name text COLLATE "C", enabled boolean, not_before timestamptz, expires_at timestamptz,
    revoked_at timestamptz, replaced_by text COLLATE "C", policy text, allowed_models text[],
    created_at timestamptz, allowed_operations text[], allowed_sources text[], tags text[],
    priority text
) ON COMMIT DROP
"""

_STAGE_TEAMS: Final = """
CREATE TEMPORARY TABLE import_teams ON COMMIT DROP AS
SELECT t.id, o.name || '/' || t.name AS path
FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id
"""

# Each returns lines, their faults, and the number of faulty lines in all.
_CHECKS: Final = (
    """
    SELECT line, 'key ' || key_id || ' is in line ' || first || ' already' AS problem,
           count(*) OVER () AS count
    FROM import_keys JOIN (SELECT key_id, min(line) AS first FROM import_keys
                           GROUP BY key_id HAVING count(*) > 1) AS repeated USING (key_id)
    WHERE line > first
    ORDER BY line LIMIT 10000
    """,
    """
    SELECT i.line, 'key ' || i.key_id || ' exists already' AS problem, count(*) OVER () AS count
    FROM import_keys AS i JOIN api_keys AS k ON k.public_id = i.key_id
    ORDER BY line LIMIT 10000
    """,
    """
    SELECT line, 'there is no team ' || team AS problem, count(*) OVER () AS count
    FROM import_keys AS i LEFT JOIN import_teams AS p ON p.path = i.team
    WHERE p.id IS NULL
    ORDER BY line LIMIT 10000
    """,
    """
    SELECT line, 'there is no policy ' || policy AS problem, count(*) OVER () AS count
    FROM import_keys AS i
    WHERE policy IS NOT NULL AND NOT EXISTS (SELECT FROM policies AS p WHERE p.name = i.policy)
    ORDER BY line LIMIT 10000
    """,
    """
    SELECT line, 'there is no key ' || replaced_by || ' that could have replaced it' AS problem,
           count(*) OVER () AS count
    FROM import_keys AS i
    WHERE replaced_by IS NOT NULL
      AND NOT EXISTS (SELECT FROM import_keys AS other WHERE other.key_id = i.replaced_by)
      AND NOT EXISTS (SELECT FROM api_keys AS k WHERE k.public_id = i.replaced_by)
    ORDER BY line LIMIT 10000
    """,
    """
    SELECT line, 'team ' || team || ' has a key named ' || name || ' in line ' || first AS problem,
           count(*) OVER () AS count
    FROM import_keys AS i JOIN (SELECT team, name, min(line) AS first FROM import_keys
                           WHERE revoked_at IS NULL AND replaced_by IS NULL
                           GROUP BY team, name HAVING count(DISTINCT key_id) > 1) AS repeated
        USING (team, name)
    WHERE line > first AND revoked_at IS NULL AND replaced_by IS NULL
      AND NOT EXISTS (SELECT FROM import_keys AS same
                      WHERE same.key_id = i.key_id AND same.line < i.line)
    ORDER BY line LIMIT 10000
    """,
    """
    SELECT line, 'team ' || team || ' has a key named ' || i.name || ' already: '
                 || k.public_id AS problem, count(*) OVER () AS count
    FROM import_keys AS i JOIN import_teams AS p ON p.path = i.team
    JOIN api_keys AS k ON k.team_id = p.id AND k.name = i.name AND k.public_id <> i.key_id
    WHERE i.revoked_at IS NULL AND i.replaced_by IS NULL
      AND k.revoked_at IS NULL AND k.replaced_by IS NULL
    ORDER BY line LIMIT 10000
    """,
)

_SKIP_EXISTING: Final = """
DELETE FROM import_keys AS i USING api_keys AS k WHERE k.public_id = i.key_id
"""

_CREATE_OWNERS: Final = (
    """
    INSERT INTO organizations (name)
    SELECT DISTINCT split_part(team, '/', 1) FROM import_keys ORDER BY 1 ON CONFLICT DO NOTHING
    """,
    """
    INSERT INTO teams (organization_id, name)
    SELECT o.id, split_part(path, '/', 2)
    FROM (SELECT DISTINCT team AS path FROM import_keys) AS i
    JOIN organizations AS o ON o.name = split_part(path, '/', 1)
    ORDER BY path ON CONFLICT DO NOTHING
    """,
)

_INSERT: Final = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, enabled, not_before, expires_at,
                      revoked_at, replaced_by, policy_name, allowed_models, created_at,
                      allowed_operations, allowed_sources, tags, priority)
SELECT i.key_id, i.secret_sha256, p.id, i.name, i.enabled, i.not_before, i.expires_at,
       i.revoked_at, i.replaced_by, i.policy, i.allowed_models, COALESCE(i.created_at, now()),
       i.allowed_operations, i.allowed_sources::cidr[], COALESCE(i.tags, '{}'),
       COALESCE(i.priority, 'standard')
FROM import_keys AS i JOIN import_teams AS p ON p.path = i.team
WHERE i.line > $1 AND i.line <= $2
ORDER BY i.key_id
"""


_EXTENT: Final = "SELECT COALESCE(min(line), 1), COALESCE(max(line), 0) FROM import_keys"


class Existing(enum.Enum):
    """The treatment of a key that is in the database already."""

    REFUSE = "refuse"
    SKIP = "skip"
    """It stays as it is in the database, whatever the file says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportOptions:
    """Options of an import. Without `commits` it is a dry run."""

    existing: Existing = Existing.REFUSE
    creates_owners: bool = False
    commits: bool = True


@dataclass(frozen=True, slots=True)
class Imported:
    """The result of an import: keys made, and lines skipped since their keys existed."""

    keys: int
    skipped: int


class ImportRefusedError(Exception):
    """The file is wrong, so nothing was written."""

    def __init__(self, faults: Faults) -> None:
        super().__init__(f"{faults.count} lines are wrong")
        self.faults = faults


async def import_keys(
    connection: Connection,
    rows: Iterable[KeyRow],
    *,
    faults: Faults,
    options: ImportOptions,
    on_written: Callable[[int], None],
) -> Imported:
    """Make keys of all *rows*, or of none. `on_written` receives the number of lines done.

    *faults* receives the faults found while the rows are read.

    Raises:
        ImportRefusedError: a line is wrong.
        ChangeRefusedError: one of the keys was made meanwhile.
    """
    try:
        async with _transaction(connection, commits=options.commits):
            return await _import(
                connection, rows, faults=faults, options=options, on_written=on_written
            )
    except (asyncpg.UniqueViolationError, asyncpg.ForeignKeyViolationError):
        raise ChangeRefusedError(
            "keys, teams or policies were changed meanwhile; nothing was written",
            hint="run it again",
        ) from None


@asynccontextmanager
async def _transaction(connection: Connection, *, commits: bool) -> AsyncGenerator[None]:
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    except BaseException:
        await transaction.rollback()
        raise
    if commits:
        await transaction.commit()  # deferred constraints are checked here
    else:
        await transaction.rollback()


async def _import(
    connection: Connection,
    rows: Iterable[KeyRow],
    *,
    faults: Faults,
    options: ImportOptions,
    on_written: Callable[[int], None],
) -> Imported:
    await connection.execute(_STAGE)
    await connection.copy_records_to_table(
        "import_keys", records=rows, columns=("line", *FIELDS), schema_name="pg_temp"
    )
    await connection.execute("ANALYZE import_keys")
    skipped = 0
    if options.existing is Existing.SKIP:
        skipped = affected_rows(await connection.execute(_SKIP_EXISTING))
    if options.creates_owners:
        for statement in _CREATE_OWNERS:
            await connection.execute(statement)
    await connection.execute(_STAGE_TEAMS)
    for check in _CHECKS:
        faulty = await connection.fetch(check)
        for row in faulty:
            faults.add(row["line"], row["problem"])
        if faulty:
            faults.count += faulty[0]["count"] - len(faulty)
    if faults.count:
        faults.kept.sort(key=lambda fault: fault.line)
        raise ImportRefusedError(faults)
    # A key may name a successor that comes further down.
    await connection.execute("SET CONSTRAINTS api_keys_replaced_by_fkey DEFERRED")
    first, last = await connection.fetchrow(_EXTENT) or (0, 0)
    made = 0
    for start in range(first - 1, last, _CHUNK_LINES):
        end = min(start + _CHUNK_LINES, last)
        made += affected_rows(await connection.execute(_INSERT, start, end))
        on_written(end)
    return Imported(keys=made, skipped=skipped)


_UTC: Final = """'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'"""
_EXPORT: Final = f"""
SELECT public_id AS key_id, encode(secret_sha256, 'hex') AS secret_sha256,
       o.name || '/' || t.name AS team, k.name, to_json(k.enabled) AS enabled,
       to_char(k.not_before AT TIME ZONE 'UTC', {_UTC}) AS not_before,
       to_char(k.expires_at AT TIME ZONE 'UTC', {_UTC}) AS expires_at,
       to_char(k.revoked_at AT TIME ZONE 'UTC', {_UTC}) AS revoked_at,
       k.replaced_by, k.policy_name AS policy, to_json(k.allowed_models) AS allowed_models,
       to_char(k.created_at AT TIME ZONE 'UTC', {_UTC}) AS created_at,
       to_json(k.allowed_operations) AS allowed_operations,
       to_json(k.allowed_sources) AS allowed_sources, to_json(nullif(k.tags, '{{}}')) AS tags,
       nullif(k.priority, 'standard') AS priority
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id
JOIN organizations AS o ON o.id = t.organization_id
WHERE ($1::text IS NULL OR k.team_id = $1)
"""  # noqa: S608 - made of constants

# JSON holds no control characters, so with these as quote and delimiter nothing is ever quoted,
# and every line is the JSON itself.
_AS_JSON: Final = f"SELECT json_strip_nulls(row_to_json(keys)) FROM ({_EXPORT}) AS keys"  # noqa: S608 - made of constants


async def count_keys(connection: Connection, *, team: str | None) -> tuple[int, int]:
    """Return how many keys an export would hold, and how many have limits, which it does not.

    Raises:
        ChangeRefusedError: there is no such team.
    """
    team_id = None if team is None else await find_team_id(connection, team)
    row = await connection.fetchrow(
        "SELECT count(*), count(*) FILTER (WHERE limits <> '[]') FROM api_keys"
        " WHERE $1::text IS NULL OR team_id = $1",
        team_id,
    )
    assert row is not None  # noqa: S101 - an aggregate always has a row
    return row[0], row[1]


async def export_keys(
    connection: Connection,
    write: Callable[[bytes], Coroutine[Any, Any, None]],
    *,
    team: str | None,
    file_format: FileFormat,
) -> int:
    """Write the keys of one team or of all as they were at one moment; return how many.

    Raises:
        ChangeRefusedError: there is no such team.
    """
    team_id = None if team is None else await find_team_id(connection, team)
    match file_format:
        case FileFormat.CSV:
            status = await connection.copy_from_query(
                _EXPORT, team_id, output=write, format="csv", header=True
            )
        case FileFormat.JSONL:
            status = await connection.copy_from_query(
                _AS_JSON, team_id, output=write, format="csv", quote="\x01", delimiter="\x02"
            )
        case _:
            assert_never(file_format)
    return affected_rows(status)
