"""Any number of keys out of the database, by COPY."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any, Final, assert_never

from sidecar.storage.administration import find_team_id
from sidecar.storage.key_files import FileFormat
from sidecar.storage.pool import Connection, affected_rows

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


async def count_keys(connection: Connection, *, team: str | None) -> int:
    """Return how many keys an export would hold.

    Raises:
        ChangeRefusedError: there is no such team.
    """
    team_id = None if team is None else await find_team_id(connection, team)
    count: int = await connection.fetchval(
        "SELECT count(*) FROM api_keys WHERE $1::text IS NULL OR team_id = $1", team_id
    )
    return count


async def count_limited_keys(connection: Connection, *, team: str | None) -> int:
    """Return how many keys an export would hold without the limits that they have.

    Raises:
        ChangeRefusedError: there is no such team.
    """
    team_id = None if team is None else await find_team_id(connection, team)
    count: int = await connection.fetchval(
        "SELECT count(*) FROM api_keys"
        " WHERE ($1::text IS NULL OR team_id = $1) AND limits <> '[]'",
        team_id,
    )
    return count


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
