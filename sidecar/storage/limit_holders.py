"""Who holds limits: those of a key with its team's and its organization's, and all budgets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, assert_never

from sidecar.domain.limits import Level, Limit, Measure
from sidecar.limits.written import LimitError, read_limits
from sidecar.storage.administration import find_team_id
from sidecar.storage.limit_administration import Owner, no_such, unreadable
from sidecar.storage.pool import Connection

# Limits of revoked keys hold for nobody; of one that is asked for they are shown all the same.
_BUDGETS: Final = """
SELECT * FROM (
    SELECT 1 AS place, 'organization' AS level, o.id, o.name, o.limits,
        o.id AS organization_id, NULL AS team_id, NULL AS key_id
    FROM organizations AS o
    UNION ALL
    SELECT 2, 'team', t.id, o.name || '/' || t.name, t.limits, o.id, t.id, NULL
    FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id
    UNION ALL
    SELECT 3, 'key', k.public_id, o.name || '/' || t.name || '/' || k.name, k.limits, o.id, t.id,
        k.public_id
    FROM api_keys AS k
    JOIN teams AS t ON t.id = k.team_id JOIN organizations AS o ON o.id = t.organization_id
    WHERE k.revoked_at IS NULL OR k.public_id = $3
) AS holders
WHERE limits @> '[{"measure": "cost"}]'
    AND ($1::text IS NULL OR organization_id = $1)
    AND ($2::text IS NULL OR team_id = $2)
    AND ($3::text IS NULL OR key_id = $3)
ORDER BY name, place, id
"""
# A key's own first, as it is judged; of a revoked key as well.
_OF_KEY: Final = """
SELECT k.public_id AS key_id, o.name || '/' || t.name || '/' || k.name AS key_name,
    k.limits AS key_limits,
    t.id AS team_id, o.name || '/' || t.name AS team_name, t.limits AS team_limits,
    o.id AS organization_id, o.name AS organization_name, o.limits AS organization_limits
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id JOIN organizations AS o ON o.id = t.organization_id
WHERE k.public_id = $1
"""
_OF_TEAM: Final = """
SELECT t.id AS team_id, o.name || '/' || t.name AS team_name, t.limits AS team_limits,
    o.id AS organization_id, o.name AS organization_name, o.limits AS organization_limits
FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id
WHERE t.id = $1
"""
_OF_ORGANIZATION: Final = """
SELECT id AS organization_id, name AS organization_name, limits AS organization_limits
FROM organizations WHERE name = $1
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """One key, team or organization with its limits; `name` as people call it."""

    level: Level
    id: str
    name: str
    organization_id: str
    limits: tuple[Limit, ...]


async def holders_for(connection: Connection, owner: Owner) -> tuple[Holder, ...]:
    """Return whose limits hold for *owner*: its own and those of the levels above it.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    match owner.level:
        case Level.KEY:
            row = await connection.fetchrow(_OF_KEY, owner.name)
        case Level.TEAM:
            row = await connection.fetchrow(_OF_TEAM, await find_team_id(connection, owner.name))
        case Level.ORGANIZATION:
            row = await connection.fetchrow(_OF_ORGANIZATION, owner.name)
        case _:
            assert_never(owner.level)
    if row is None:
        raise no_such(owner)
    levels = list(Level)
    return tuple(_of_level(row, level) for level in levels[levels.index(owner.level) :])


async def holders_of_budgets(connection: Connection, owner: Owner | None) -> tuple[Holder, ...]:
    """Return all who have a budget; of *owner* and whom it holds, where one is named.

    Raises:
        ChangeRefusedError: there is no such owner.
    """
    ids: dict[Level, str] = {}
    if owner is not None:
        ids[owner.level] = (await holders_for(connection, owner))[0].id
    rows = await connection.fetch(
        _BUDGETS, ids.get(Level.ORGANIZATION), ids.get(Level.TEAM), ids.get(Level.KEY)
    )
    return tuple(_with_budgets(row) for row in rows)


def _of_level(row: Any, level: Level) -> Holder:
    name = level.value
    owner_id: str = row[f"{name}_id"]
    limits = _read(row[f"{name}_limits"], level=level, owner=owner_id)
    return Holder(level, owner_id, row[f"{name}_name"], row["organization_id"], limits)


def _with_budgets(row: Any) -> Holder:
    level = Level(row["level"])
    limits = _read(row["limits"], level=level, owner=row["id"])
    budgets = tuple(one for one in limits if one.measure is Measure.COST)
    return Holder(level, row["id"], row["name"], row["organization_id"], budgets)


def _read(text: str, *, level: Level, owner: str) -> tuple[Limit, ...]:
    try:
        return read_limits(text, level=level, owner=owner)
    except LimitError as error:
        raise unreadable(level, owner, str(error)) from None
