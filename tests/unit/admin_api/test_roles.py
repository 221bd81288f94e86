from __future__ import annotations

import itertools

import pytest

from sidecar.admin_api.roles import (
    INSTALLATION_WIDE,
    PERMISSIONS,
    Grant,
    Permission,
    Role,
    allows,
    owners_within,
)

OF_TEAM = Grant(Role.TEAM_LEAD, "org_1", "team_1")
OF_ORGANIZATION = Grant(Role.ADMIN, "org_1")
OF_ALL = Grant(Role.VIEWER)


def test_each_role_has_all_permissions_of_the_one_before() -> None:
    """A larger role never loses one."""
    steps = [PERMISSIONS[role] for role in Role]

    assert all(small < large for small, large in itertools.pairwise(steps))
    assert steps[-1] == frozenset(Permission)


@pytest.mark.parametrize("permission", Permission)
def test_a_grant_reaches_no_other_organization_and_no_other_team(permission: Permission) -> None:
    """Whatever the permission is."""
    for grant in (OF_TEAM, OF_ORGANIZATION):
        assert not grant.covers(permission, "org_2", None)
        assert not grant.covers(permission, "org_2", "team_1")
        assert not grant.covers(permission, None, None)
    assert not OF_TEAM.covers(permission, "org_1", None)
    assert not OF_TEAM.covers(permission, "org_1", "team_2")


def test_a_grant_for_an_organization_reaches_all_of_its_teams() -> None:
    """They need no grant of their own."""
    assert OF_ORGANIZATION.covers(Permission.MANAGE_KEYS, "org_1", "team_1")


@pytest.mark.parametrize("permission", [one for one in Permission if one in INSTALLATION_WIDE])
def test_an_organizations_admin_has_nothing_of_the_installation(permission: Permission) -> None:
    """Its own budget, policies of all, files."""
    assert not OF_ORGANIZATION.has(permission)
    assert not OF_ORGANIZATION.covers(permission, "org_1", None)
    assert Grant(Role.ADMIN).covers(permission, "org_1", None)


def test_scopes_narrow_a_role_and_never_widen_it() -> None:
    """A viewer's token with the scope of keys manages none."""
    viewer = Grant(Role.VIEWER, scopes=frozenset({Permission.MANAGE_KEYS, Permission.VIEW}))
    admin = Grant(Role.ADMIN, scopes=frozenset({Permission.VIEW}))

    assert [one for one in Permission if viewer.has(one)] == [Permission.VIEW]
    assert [one for one in Permission if admin.has(one)] == [Permission.VIEW]


def test_owners_within_are_those_that_lists_are_filtered_by() -> None:
    """None is every one; an empty tuple none."""
    assert owners_within([OF_TEAM, OF_ORGANIZATION], Permission.VIEW) == ("team_1", "org_1")
    assert owners_within([OF_TEAM, OF_ALL], Permission.VIEW) is None
    assert owners_within([OF_TEAM], Permission.VIEW_AUDIT) == ()
    assert allows([OF_TEAM], Permission.MANAGE_KEYS, organization_id="org_1", team_id="team_1")
