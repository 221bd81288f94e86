"""Organizations, teams and policy bindings in PostgreSQL."""

from __future__ import annotations

import enum
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

import asyncpg

from sidecar.domain.validation import fault_of_models
from sidecar.storage.pool import Connection, as_tuple

_Item = TypeVar("_Item")


class ChangeRefusedError(Exception):
    """The request cannot be carried out; `hint` says how to correct it."""

    def __init__(self, problem: str, *, hint: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.hint = hint


class InvalidValueError(ChangeRefusedError):
    """A value of the request is at fault, whatever else is stored."""


EXISTS: Final = "urn:egret:problem:exists"
"""The type of the problem details of an `ExistsAlreadyError`, for server and command line."""
UNKNOWN_PARAMETER: Final = "is not a known parameter"
"""The fault of a name in a query, by which the command line knows an older server."""


class ExistsAlreadyError(ChangeRefusedError):
    """The name is taken."""


class Unchanged(enum.Enum):
    """Stands where a list could be given."""

    AS_IT_IS = "as it is"


AS_IT_IS: Final = Unchanged.AS_IT_IS


@dataclass(frozen=True, slots=True)
class Organization:
    """A row of `organizations`."""

    id: str
    name: str
    enabled: bool
    allowed_models: tuple[str, ...] | None
    policy: str | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Team:
    """A row of `teams`, with its organization's name."""

    id: str
    organization: str
    name: str
    enabled: bool
    allowed_models: tuple[str, ...] | None
    policy: str | None
    created_at: datetime

    @property
    def path(self) -> str:
        """The unique name of the team."""
        return f"{self.organization}/{self.name}"


_Owner = TypeVar("_Owner", Organization, Team)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Bindings of any level: globs of models, and a policy's name; None binds none."""

    allowed_models: tuple[str, ...] | None = None
    policy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OwnerChange:
    """A new name and new globs of models, of which None allows every model; the rest stays.

    While an owner is not `enabled`, its keys are refused.
    """

    name: str | None = None
    allowed_models: tuple[str, ...] | Unchanged | None = AS_IT_IS
    enabled: bool | None = None

    def arguments(self) -> tuple[str | None, bool, list[str] | None, bool | None]:
        """Return the name, whether the models change, the models, and whether it is enabled."""
        models = self.allowed_models
        if isinstance(models, Unchanged):
            return self.name, False, None, self.enabled
        return self.name, True, models_array(models), self.enabled


_ORGANIZATIONS: Final = """
SELECT id, name, enabled, allowed_models, policy_name AS policy, created_at
FROM organizations
WHERE ($1::text IS NULL OR name = $1) AND ($2::text[] IS NULL OR id = ANY($2))
    AND ($3::text IS NULL OR name COLLATE "C" > $3) AND strpos(name, $4) > 0
ORDER BY name COLLATE "C" LIMIT $5
"""

_CREATE_ORGANIZATION: Final = """
INSERT INTO organizations (name, allowed_models, policy_name) VALUES ($1, $2, $3)
RETURNING id, name, enabled, allowed_models, policy_name AS policy, created_at
"""

_TEAMS: Final = """
SELECT t.id, o.name AS organization, t.name, t.enabled, t.allowed_models,
       t.policy_name AS policy, t.created_at
FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id
WHERE ($1::text IS NULL OR o.name = $1) AND ($2::text IS NULL OR t.id = $2)
    AND ($3::text[] IS NULL OR t.id = ANY($3) OR o.id = ANY($3))
    AND ($5::text IS NULL OR (o.name COLLATE "C", t.name COLLATE "C") > ($5, $6))
ORDER BY o.name COLLATE "C", t.name COLLATE "C" LIMIT $4
"""

_FIRST_TEAMS: Final = """
SELECT t.* FROM organizations AS o CROSS JOIN LATERAL (
    SELECT id, o.name AS organization, name, enabled, allowed_models, policy_name AS policy,
        created_at
    FROM teams WHERE organization_id = o.id
        AND ($2::text[] IS NULL OR id = ANY($2) OR organization_id = ANY($2))
    ORDER BY name COLLATE "C" LIMIT $3
) AS t WHERE o.id = ANY($1) ORDER BY t.organization COLLATE "C", t.name COLLATE "C"
"""

_CREATE_TEAM: Final = """
WITH created AS (
    INSERT INTO teams (organization_id, name, allowed_models, policy_name)
    SELECT id, $2, $3, $4 FROM organizations WHERE name = $1
    RETURNING *
)
SELECT c.id, o.name AS organization, c.name, c.enabled, c.allowed_models,
       c.policy_name AS policy, c.created_at
FROM created AS c JOIN organizations AS o ON o.id = c.organization_id
"""

_FIND_TEAMS: Final = """
SELECT t.id, o.name || '/' || t.name AS path
FROM teams AS t JOIN organizations AS o ON o.id = t.organization_id
WHERE (t.id = $1 OR t.name = $1 OR o.name || '/' || t.name = $1)
    AND ($2::text[] IS NULL OR t.id = ANY($2) OR o.id = ANY($2))
ORDER BY path
"""

_CHANGE_ORGANIZATION: Final = """
UPDATE organizations SET name = COALESCE($2, name),
                         allowed_models = CASE WHEN $3 THEN $4 ELSE allowed_models END,
                         enabled = COALESCE($5, enabled)
WHERE name = $1
RETURNING id, name, enabled, allowed_models, policy_name AS policy, created_at
"""

_CHANGE_TEAM: Final = """
UPDATE teams SET name = COALESCE($2, name),
                 allowed_models = CASE WHEN $3 THEN $4 ELSE allowed_models END,
                 enabled = COALESCE($5, enabled)
WHERE id = $1
"""

_BIND_ORGANIZATION: Final = (
    "UPDATE organizations SET policy_name = $2 WHERE name = $1 RETURNING id"
)

_BIND_TEAM: Final = "UPDATE teams SET policy_name = $2 WHERE id = $1"


async def organizations(
    connection: Connection,
    *,
    name: str | None = None,
    part: str = "",
    within: tuple[str, ...] | None = None,
    after: str | None = None,
    most: int | None = None,
) -> tuple[Organization, ...]:
    """Return every organization by name, or those that have *part* in it.

    *within*, *after* and *most* are as for `teams`, and so is the order.
    """
    rows = await connection.fetch(_ORGANIZATIONS, name, within, after, part, most)
    return tuple(_owner(Organization, row) for row in rows)


async def first_teams(
    connection: Connection, ids: Sequence[str], *, within: tuple[str, ...] | None, most: int
) -> tuple[Team, ...]:
    """Return the *most* first teams of each organization of *ids*; *within* is as for `teams`."""
    rows = await connection.fetch(_FIRST_TEAMS, ids, within, most)
    return tuple(_owner(Team, row) for row in rows)


async def create_organization(connection: Connection, name: str, *, rules: Rules) -> Organization:
    """Create an organization.

    Raises:
        ChangeRefusedError: the name is taken or no name at all, there is no such policy, or a
            glob can be no model's.
    """
    async with refusals(f"organization {name}", policy=rules.policy):
        row = await connection.fetchrow(
            _CREATE_ORGANIZATION, name, models_array(rules.allowed_models), rules.policy
        )
    assert row is not None  # noqa: S101 - RETURNING after an INSERT that did not fail
    return _owner(Organization, row)


async def teams(
    connection: Connection,
    *,
    organization: str | None,
    within: tuple[str, ...] | None = None,
    after: tuple[str, str] | None = None,
    most: int | None = None,
) -> tuple[Team, ...]:
    """Return the teams of one organization or of all, by path.

    With *within*, those with these ids, or of organizations with these ids, alone; with *most*
    that many of them behind *after*, the names of an organization and a team. The order is that of
    bytes in every database, since pages go on by it.

    Raises:
        ChangeRefusedError: there is no such organization.
    """
    rows = await connection.fetch(
        _TEAMS, organization, None, within, most, *(after or (None, None))
    )
    if not rows and organization is not None:
        await find_organization_id(connection, organization)
    return tuple(_owner(Team, row) for row in rows)


async def create_team(
    connection: Connection, name: str, *, organization: str, rules: Rules
) -> Team:
    """Create a team in *organization*.

    Raises:
        ChangeRefusedError: as for an organization, or there is no such organization.
    """
    async with refusals(f"team {organization}/{name}", policy=rules.policy):
        row = await connection.fetchrow(
            _CREATE_TEAM, organization, name, models_array(rules.allowed_models), rules.policy
        )
    if row is None:
        raise _no_organization(organization)
    return _owner(Team, row)


async def change_organization(
    connection: Connection, name: str, change: OwnerChange
) -> Organization:
    """Change an organization's name or models, or enable or disable it.

    Raises:
        ChangeRefusedError: there is no such organization, the new name is taken or no name, or a
            glob can be no model's.
    """
    async with refusals(f"organization {change.name}"):
        row = await connection.fetchrow(_CHANGE_ORGANIZATION, name, *change.arguments())
    if row is None:
        raise _no_organization(name)
    return _owner(Organization, row)


async def change_team(connection: Connection, team: str, change: OwnerChange) -> Team:
    """Change a team's name or models, or enable or disable it.

    Raises:
        ChangeRefusedError: as `find_team_id` does, the new name is taken or no name, or a glob can
            be no model's.
    """
    team_id = await find_team_id(connection, team)
    async with refusals(f"team {change.name}"):
        await connection.execute(_CHANGE_TEAM, team_id, *change.arguments())
    return await team_of(connection, team_id)


async def team_of(connection: Connection, team_id: str) -> Team:
    """Return the team with this id.

    Raises:
        ChangeRefusedError: it is gone.
    """
    row = await connection.fetchrow(_TEAMS, None, team_id, None, None, None, None)
    if row is None:
        raise ChangeRefusedError("the team is gone", hint="see `egret teams list`")
    return _owner(Team, row)


async def find_organization_id(connection: Connection, name: str) -> str:
    """Return the id of the organization with this name.

    Raises:
        ChangeRefusedError: there is no such organization.
    """
    query = "SELECT id FROM organizations WHERE name = $1"
    found: str | None = await connection.fetchval(query, name)
    if found is None:
        raise _no_organization(name)
    return found


async def bind_organization(connection: Connection, name: str, *, policy: str | None) -> str:
    """Bind *policy* to an organization, or none; return the organization's id.

    Raises:
        ChangeRefusedError: there is no such organization or policy.
    """
    async with refusals(f"organization {name}", policy=policy):
        found: str | None = await connection.fetchval(_BIND_ORGANIZATION, name, policy)
    if found is None:
        raise _no_organization(name)
    return found


async def bind_team(connection: Connection, team: str, *, policy: str | None) -> str:
    """Bind *policy* to a team, or none; return the team's id.

    Raises:
        ChangeRefusedError: as `find_team_id` does, or there is no such policy.
    """
    team_id = await find_team_id(connection, team)
    async with refusals(f"team {team}", policy=policy):
        await connection.execute(_BIND_TEAM, team_id, policy)
    return team_id


async def find_team_id(
    connection: Connection, team: str, *, within: tuple[str, ...] | None = None
) -> str:
    """Return the id of the team with this path, id, or name if only one team has it.

    With *within*, only teams with these ids, or of organizations with these ids, are there.

    Raises:
        ChangeRefusedError: no team is meant, or more than one may be.
    """
    rows = await connection.fetch(_FIND_TEAMS, team, within)
    if not rows:
        raise ChangeRefusedError(
            f"there is no team {team}", hint="create it with `egret teams create`"
        )
    if len(rows) > 1:
        paths = ", ".join(row["path"] for row in rows)
        raise ChangeRefusedError(f"several teams are named {team}", hint=f"say which: {paths}")
    found: str = rows[0]["id"]
    return found


@asynccontextmanager
async def refusals(name: str, *, policy: str | None = None) -> AsyncGenerator[None]:
    """Put the database's refusals into words that the command line can show."""
    try:
        yield
    except asyncpg.UniqueViolationError:
        raise ExistsAlreadyError(f"{name} exists already", hint="choose another name") from None
    except asyncpg.ForeignKeyViolationError as error:
        if policy is None or "policy" not in (error.constraint_name or ""):
            problem = f"the team or organization of {name} was deleted meanwhile"
            raise ChangeRefusedError(problem, hint="choose another one") from None
        raise ChangeRefusedError(
            f"there is no policy {policy}", hint="apply it first with `egret policy apply -f FILE`"
        ) from None
    except asyncpg.CheckViolationError:
        raise InvalidValueError(
            f"{name} is not an accepted name",
            hint="lower case letters, digits, dots, dashes and underscores, at most 63",
        ) from None


def as_array(items: Sequence[_Item] | None) -> list[_Item] | None:
    """Return an array as asyncpg takes it."""
    return None if items is None else list(items)


def models_array(globs: Sequence[str] | None) -> list[str] | None:
    """Return globs of models that are to be stored, as asyncpg takes them.

    Raises:
        InvalidValueError: one of them can be no model's.
    """
    if fault := fault_of_models(globs or ()):
        raise InvalidValueError(fault, hint="nothing was changed")
    return as_array(globs)


def _no_organization(name: str) -> ChangeRefusedError:
    hint = "create it with `egret orgs create`"
    return ChangeRefusedError(f"there is no organization {name}", hint=hint)


def _owner(kind: type[_Owner], row: asyncpg.Record) -> _Owner:
    return kind(**dict(row) | {"allowed_models": as_tuple(row["allowed_models"])})
