"""Keys as the command line shows them: one, or a page of many."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import asyncpg

from sidecar.storage.administration import ChangeRefusedError, as_tuple, find_team_id
from sidecar.storage.pool import Connection


class KeyState(enum.Enum):
    """Whether a request with the key would be let in now, or why not."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Key:
    """A row of `api_keys` with its owners' names; holds nothing secret.

    Uses are some seconds late; `refused` counts those among the `requests`.
    """

    key_id: str
    name: str
    team: str
    state: KeyState
    not_before: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    allowed_models: tuple[str, ...] | None
    allowed_operations: tuple[str, ...] | None
    allowed_sources: tuple[str, ...] | None
    tags: tuple[str, ...]
    priority: str
    policy: str | None
    created_at: datetime
    last_used_at: datetime | None
    requests: int
    refused: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which keys, and how many; None does not choose.

    `after` is the id of the last key of the page before.
    """

    team: str | None = None
    organization: str | None = None
    state: KeyState | None = None
    tag: str | None = None
    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    """Keys by team, and by name in a team; `has_more` if others follow."""

    keys: tuple[Key, ...]
    has_more: bool


_STATE: Final = """
CASE
    WHEN k.revoked_at IS NOT NULL THEN 'revoked'
    WHEN k.expires_at <= now() THEN 'expired'
    WHEN k.not_before > now() THEN 'not_yet'
    WHEN NOT (k.enabled AND t.enabled AND o.enabled) THEN 'disabled'
    ELSE 'active'
END"""

_KEYS: Final = f"""
SELECT k.public_id, k.name, o.name || '/' || t.name AS team, k.not_before, k.expires_at,
       k.revoked_at, k.replaced_by, k.allowed_models, k.allowed_operations,
       k.allowed_sources::text[] AS allowed_sources, k.tags, k.priority, k.policy_name,
       k.created_at,
       a.last_used_at, COALESCE(a.requests, 0) AS requests, COALESCE(a.refused, 0) AS refused,
       {_STATE} AS state
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id
JOIN organizations AS o ON o.id = t.organization_id
LEFT JOIN key_activity AS a ON a.key_id = k.public_id
"""  # noqa: S608 - made of constants

_ONE: Final = f"{_KEYS} WHERE k.public_id = $1"

_PLACE: Final = "SELECT team_id, name, public_id FROM api_keys WHERE public_id = $1"


async def find_key(connection: Connection, key_id: str) -> Key:
    """Return one key.

    Raises:
        ChangeRefusedError: there is no such key.
    """
    row = await connection.fetchrow(_ONE, key_id)
    if row is None:
        raise ChangeRefusedError(f"there is no key {key_id}", mend="see `egret keys list`")
    return _key(row)


async def list_keys(connection: Connection, listing: Listing) -> Page:
    """Return one page of keys.

    A page goes on after its last key's place, so that it costs the same however far down it is,
    and keys that come or go meanwhile shift nothing.

    Raises:
        ChangeRefusedError: there is no such team, organization or key to go on after.
    """
    team_id = None if listing.team is None else await find_team_id(connection, listing.team)
    if listing.organization is not None:
        await _check_organization(connection, listing.organization)
    after = None if listing.after is None else await _place_of(connection, listing.after)
    statement, arguments = page_statement(listing, team_id=team_id, after=after)
    rows = await connection.fetch(statement, *arguments)
    keys = tuple(_key(row) for row in rows[: listing.limit])
    return Page(keys, has_more=len(rows) > listing.limit)


def page_statement(
    listing: Listing, *, team_id: str | None, after: tuple[str, str, str] | None
) -> tuple[str, list[object]]:
    """Return the statement of a page, which reads one key more, and its arguments.

    What does not choose is left out: a plan for `$1 IS NULL OR …` could use no index.
    """
    arguments: list[object] = []

    def parameter(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    conditions = ["true"]
    if team_id is not None:
        conditions.append(f"k.team_id = {parameter(team_id)}")
    if listing.organization is not None:
        conditions.append(f"o.name = {parameter(listing.organization)}")
    if listing.state is not None:
        conditions.append(f"{_STATE} = {parameter(listing.state.value)}")
    if listing.tag is not None:
        # The second half is what the index was made with.
        conditions.append(f"k.tags @> ARRAY[{parameter(listing.tag)}::text] AND k.tags <> '{{}}'")
    if after is not None:
        place = ", ".join(parameter(part) for part in after)
        conditions.append(f"(k.team_id, k.name, k.public_id) > ({place})")
    statement = (
        f"{_KEYS} WHERE {' AND '.join(conditions)}"
        f" ORDER BY k.team_id, k.name, k.public_id LIMIT {parameter(listing.limit + 1)}"
    )
    return statement, arguments


async def _check_organization(connection: Connection, name: str) -> None:
    if not await connection.fetchval("SELECT count(*) FROM organizations WHERE name = $1", name):
        raise ChangeRefusedError(f"there is no organization {name}", mend="see `egret orgs list`")


async def _place_of(connection: Connection, key_id: str) -> tuple[str, str, str]:
    row = await connection.fetchrow(_PLACE, key_id)
    if row is None:
        raise ChangeRefusedError(
            f"there is no key {key_id} to go on after", mend="begin again without --after"
        )
    return row["team_id"], row["name"], row["public_id"]


def _key(row: asyncpg.Record) -> Key:
    return Key(
        key_id=row["public_id"],
        name=row["name"],
        team=row["team"],
        state=KeyState(row["state"]),
        not_before=row["not_before"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        replaced_by=row["replaced_by"],
        allowed_models=as_tuple(row["allowed_models"]),
        allowed_operations=as_tuple(row["allowed_operations"]),
        allowed_sources=as_tuple(row["allowed_sources"]),
        tags=tuple(row["tags"]),
        priority=row["priority"],
        policy=row["policy_name"],
        created_at=row["created_at"],
        last_used_at=row["last_used_at"],
        requests=row["requests"],
        refused=row["refused"],
    )
