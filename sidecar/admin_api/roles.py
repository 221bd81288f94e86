"""Roles, the permissions of each, and the owners for which they are granted."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sidecar.admin.owners import ChangeRefusedError, find_organization_id, find_team_id
from sidecar.storage.pool import Connection


class Permission(enum.Enum):
    """The right to read or change one kind of object."""

    VIEW = "view"
    VIEW_AUDIT = "view_audit"
    VIEW_INSTALLATION = "view_installation"
    """Policies, workers and findings, which belong to no organization."""
    MANAGE_KEYS = "manage_keys"
    MANAGE_TEAMS = "manage_teams"
    MANAGE_LIMITS = "manage_limits"
    """Of teams and keys; and the priority of a key, which takes from others at a shared limit."""
    BIND_POLICIES = "bind_policies"
    """To teams and keys."""
    MANAGE_TOKENS = "manage_tokens"
    MANAGE_ORGANIZATIONS = "manage_organizations"
    """With their limits, models and policies: an organization does not raise its own budget."""
    MANAGE_POLICIES = "manage_policies"
    MANAGE_INSTALLATION = "manage_installation"
    """Prices, files of objects, and alert routes."""


INSTALLATION_WIDE: Final = frozenset(
    {
        Permission.VIEW_INSTALLATION,
        Permission.MANAGE_ORGANIZATIONS,
        Permission.MANAGE_POLICIES,
        Permission.MANAGE_INSTALLATION,
    }
)
"""A grant for an organization or a team has none of these."""


class Role(enum.Enum):
    """A set of permissions; the order is that of their number."""

    VIEWER = "viewer"
    TEAM_LEAD = "team_lead"
    OPERATOR = "operator"
    ADMIN = "admin"


_VIEWER: Final = frozenset({Permission.VIEW, Permission.VIEW_INSTALLATION})
_TEAM_LEAD: Final = _VIEWER | {Permission.MANAGE_KEYS}
_OPERATOR: Final = _TEAM_LEAD | {
    Permission.VIEW_AUDIT,
    Permission.MANAGE_TEAMS,
    Permission.MANAGE_LIMITS,
}

PERMISSIONS: Final[Mapping[Role, frozenset[Permission]]] = MappingProxyType(
    {
        Role.VIEWER: _VIEWER,
        Role.TEAM_LEAD: _TEAM_LEAD,
        Role.OPERATOR: _OPERATOR,
        Role.ADMIN: frozenset(Permission),
    }
)

OF_TEAMS: Final = frozenset({Role.VIEWER, Role.TEAM_LEAD})
"""The roles that can be granted for one team: the others would raise the team's own limits."""


@dataclass(frozen=True, slots=True)
class Grant:
    """Permissions for an organization, one of its teams, or without ids the installation."""

    role: Role
    organization_id: str | None = None
    team_id: str | None = None
    scopes: frozenset[Permission] | None = None
    """Narrows the role's permissions, for API tokens; None is all of them."""

    def covers(
        self, permission: Permission, organization_id: str | None, team_id: str | None
    ) -> bool:
        """Return whether the grant has *permission* on this owner; no ids: the installation."""
        return self.has(permission) and (
            self.organization_id is None
            or (
                self.organization_id == organization_id
                and (self.team_id is None or self.team_id == team_id)
            )
        )

    def has(self, permission: Permission) -> bool:
        """Return whether the grant has *permission* on its own owner."""
        return (
            permission in PERMISSIONS[self.role]
            and (self.scopes is None or permission in self.scopes)
            and (self.organization_id is None or permission not in INSTALLATION_WIDE)
        )


def allows(
    grants: Iterable[Grant],
    permission: Permission,
    *,
    organization_id: str | None,
    team_id: str | None,
) -> bool:
    """Return whether any of *grants* has *permission* on this owner."""
    return any(grant.covers(permission, organization_id, team_id) for grant in grants)


def owners_within(grants: Iterable[Grant], permission: Permission) -> tuple[str, ...] | None:
    """Return ids of the organizations and teams with *permission*; None is every one."""
    found: dict[str, None] = {}
    for grant in grants:
        if grant.has(permission):
            if grant.organization_id is None:
                return None
            found[grant.team_id or grant.organization_id] = None
    return tuple(found)


class GrantError(ValueError):
    """The text is no grant; the message has an example."""


def parse_grant(text: str) -> tuple[Role, str]:
    """Return the role of `ROLE`, `ROLE:ORGANIZATION` or `ROLE:ORGANIZATION/TEAM`, and its owner.

    Raises:
        GrantError: there is no such role, or not for a team.
    """
    name, colon, owner = text.partition(":")
    try:
        role = Role(name)
    except ValueError:
        roles = ", ".join(role.value for role in Role)
        raise GrantError(f"there is no role {name!r}; there are {roles}") from None
    if colon and not owner:
        raise GrantError(f"{text!r} names no organization: write operator:acme")
    organization, slash, _ = owner.partition("/")
    if slash and role not in OF_TEAMS:
        raise GrantError(
            f"role {role.value} is for organizations: write {role.value}:{organization}"
        )
    return role, owner


async def find_grant(connection: Connection, text: str) -> Grant:
    """Read a grant, with the names of its owner as they are now.

    Raises:
        GrantError: it is none, or there is no such organization or team.
    """
    role, owner = parse_grant(text)
    if not owner:
        return Grant(role)
    organization, slash, _ = owner.partition("/")
    try:
        organization_id = await find_organization_id(connection, organization)
        team_id = await find_team_id(connection, owner) if slash else None
    except ChangeRefusedError as error:
        raise GrantError(error.problem) from None
    return Grant(role, organization_id, team_id)
