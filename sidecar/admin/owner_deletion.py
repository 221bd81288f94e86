"""Deletes organizations and teams, and counts the objects that go with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

import asyncpg

from sidecar.admin.owners import ChangeRefusedError
from sidecar.storage.pool import Connection


@dataclass(frozen=True, slots=True)
class Dependents:
    """Objects that are deleted with an owner."""

    teams: int
    keys: int
    active_keys: int
    alert_routes: int = 0
    tokens: int = 0

    @property
    def are_none(self) -> bool:
        """Whether the owner has neither teams nor keys, and can be deleted without cascade."""
        return not self.teams and not self.keys


_DEPENDENTS: Final = """
SELECT count(DISTINCT t.id) AS teams, count(k.public_id) AS keys,
       count(k.public_id) FILTER (
           WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now())
       ) AS active_keys
FROM teams AS t LEFT JOIN api_keys AS k ON k.team_id = t.id
WHERE t.organization_id = $1 OR t.id = $1
"""

_TOKENS: Final = """
SELECT count(*) FROM admin_tokens AS a LEFT JOIN teams AS t ON t.id = a.team_id
WHERE $1 IN (a.organization_id, a.team_id, t.organization_id)
"""

TEAM_ID: Final = "team_"
"""Ids of teams begin with it, those of organizations do not: a default of the table."""

_DELETE: Final = (
    "DELETE FROM api_keys USING teams AS t WHERE team_id = t.id AND $1 IN (t.id, organization_id)",
    "DELETE FROM teams WHERE $1 IN (id, organization_id)",
    "DELETE FROM organizations WHERE id = $1",
)


async def dependents(connection: Connection, owner_id: str) -> Dependents:
    """Return the number of objects of an organization or a team, by its id."""
    row = await connection.fetchrow(_DEPENDENTS, owner_id)
    assert row is not None  # noqa: S101 - an aggregate always has a row
    is_team = owner_id.startswith(TEAM_ID)
    return Dependents(
        teams=0 if is_team else row["teams"],
        keys=row["keys"],
        active_keys=row["active_keys"],
        alert_routes=await connection.fetchval(
            "SELECT count(*) FROM alert_routes WHERE organization_id = $1", owner_id
        ),
        tokens=await connection.fetchval(_TOKENS, owner_id),
    )


async def delete_owner(connection: Connection, owner_id: str, *, cascades: bool) -> Dependents:
    """Delete an organization or a team, by its id, and with *cascades* its teams and keys.

    Usage stays, under the ids; its API tokens and alert routes go in any case. Return the number
    of dependent objects that were deleted.

    Raises:
        ChangeRefusedError: objects depend on it, and *cascades* is not set, or some were created
            while it was deleted.
    """
    found = await dependents(connection, owner_id)
    if not found.are_none and not cascades:
        raise ChangeRefusedError(
            f"it still has {described(replace(found, alert_routes=0, tokens=0))}",
            hint="delete them first, or pass --cascade (`cascade=true` in the API)",
        )
    # Without cascade nothing but the owner: a foreign key holds what was made since the count.
    first = 0 if cascades else 1 if owner_id.startswith(TEAM_ID) else 2
    try:
        for statement in _DELETE[first:]:
            await connection.execute(statement, owner_id)
    except asyncpg.ForeignKeyViolationError:
        raise ChangeRefusedError(
            "teams or keys were created in it meanwhile; nothing was deleted",
            hint="look at them, then repeat the deletion",
        ) from None
    return found


def described(found: Dependents) -> str:
    """Return dependents as words, for example `2 teams and 31 keys (4 active)`."""
    counts = {
        "team": (found.teams, ""),
        "key": (found.keys, f" ({found.active_keys} active)"),
        "API token": (found.tokens, ""),
        "alert route": (found.alert_routes, ""),
    }
    words = [
        f"{count} {word}{'s' * (count != 1)}{more}"
        for word, (count, more) in counts.items()
        if count
    ]
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))
