"""Pages of organizations and teams: list, create with a policy and a budget, switch, bind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin.audit_log import AuditFilter, audit_entries
from sidecar.admin.keys import Listing, list_keys
from sidecar.admin.limits import OwnedLimits, Owner, change_limits
from sidecar.admin.owner_deletion import delete_owner, dependents, described
from sidecar.admin.owners import (
    Organization,
    OwnerChange,
    Rules,
    Team,
    bind_organization,
    bind_team,
    change_organization,
    change_team,
    create_organization,
    create_team,
    first_teams,
    organizations,
    team_of,
    teams,
)
from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.objects import check_models
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.console.changes import see_change, watched_change
from sidecar.console.forms import (
    ChangeRefusal,
    attempt,
    check_seen,
    policy_choices,
    read_fields,
    words,
)
from sidecar.console.limit_bars import limit_bars
from sidecar.console.limit_pages import limit_of_fields
from sidecar.console.rendering import render
from sidecar.domain.limits import Level
from sidecar.storage.pool import Connection

MOST_KEYS: Final = 10
PAGE_SIZE: Final = 200
MOST_TEAMS: Final = 20
"""Of an organization in the list; its page has all."""
BUDGET: Final = "cost/month"

router = APIRouter(route_class=AccessRoute, include_in_schema=False)
_ManageOrganizations = Annotated[Access, requires(Permission.MANAGE_ORGANIZATIONS)]
_ManageTeams = Annotated[Access, requires(Permission.MANAGE_TEAMS)]


@router.get("/organizations")
async def listed(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    filter: str = "",  # noqa: A002 - the word of the address
    after: str = "",
) -> HTMLResponse:
    """List organizations with their teams; with *filter*, those that have it in their names."""
    return await _list(request, access, fields={}, name=filter, after=after)


@router.post("/organizations")
async def create(request: Request, access: _ManageOrganizations) -> Response:
    """Create an organization."""
    fields = await read_fields(request)
    name = fields.get("name", "")
    rules = Rules(policy=fields.get("policy") or None)
    created = await attempt(
        access, lambda: create_organization(access.connection, name, rules=rules)
    )
    if isinstance(created, ChangeRefusal):
        return await _list(request, access, fields=fields, refusal=created)
    return RedirectResponse(f"/organizations/{created.name}", status_code=303)


@router.get("/organizations/{organization}")
async def shown(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW)],
    organization: str,
    after: str = "",
) -> HTMLResponse:
    """Show an organization: its teams, policy and limits."""
    return await _organization_page(request, access, organization, after=after)


@router.post("/organizations/{organization}/teams")
async def add_team(request: Request, access: _ManageTeams, organization: str) -> Response:
    """Create a team, and at once its policy and monthly budget if they are given."""
    fields = await read_fields(request)
    name, path = fields.get("name", ""), f"{organization}/{fields.get('name', '')}"
    owner = Owner(Level.TEAM, path)

    async def change() -> str:
        rules = Rules(policy=fields.get("policy") or None)
        team = await create_team(access.connection, name, organization=organization, rules=rules)
        if budget := fields.get("budget"):

            def limit(before: OwnedLimits) -> Any:
                owner_id = before.owner_id
                return (
                    limit_of_fields(BUDGET, budget, owner=owner, owner_id=owner_id, fields={}),
                )

            await change_limits(access.connection, owner, limit)
        return team.name

    for field, permission in (
        ("policy", Permission.BIND_POLICIES),
        ("budget", Permission.MANAGE_LIMITS),
    ):
        if fields.get(field) and not access.allows(permission, access.organization_id):
            raise Problem(403, f"a {field} needs the permission {permission.value}")
    created = await attempt(access, change)
    if isinstance(created, ChangeRefusal):
        return await _organization_page(
            request, access, organization, fields=fields, refusal=created
        )
    return RedirectResponse(f"/organizations/{organization}/teams/{created}", status_code=303)


@router.post("/organizations/{organization}/change")
async def change_one(
    request: Request, access: _ManageOrganizations, organization: str
) -> Response:
    """Enable or disable an organization, or change its policy and models."""
    connection, fields = access.connection, await read_fields(request)
    (before,) = await organizations(connection, name=organization)

    refusal = await attempt(
        access, lambda: _change(connection, before, fields, bind_organization, change_organization)
    )
    if refusal is not None:
        return await _organization_page(request, access, organization, refusal=refusal)
    barrier = access.changed(keys=[f"organization:{access.organization_id}"])
    return see_change(f"/organizations/{organization}", barrier)


@router.post("/organizations/{organization}/delete")
async def delete_organization(
    request: Request, access: _ManageOrganizations, organization: str
) -> Response:
    """Delete an organization that has neither teams nor keys."""
    return await _delete(
        access,
        access.organization_id,
        lambda refusal: _organization_page(request, access, organization, refusal=refusal),
        then="/organizations",
    )


@router.get("/organizations/{organization}/teams/{team}")
async def team_shown(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW)],
    organization: str,
    team: str,
) -> HTMLResponse:
    """Show a team: its keys, policy and limits."""
    return await _team_page(request, access, organization, team)


@router.post("/organizations/{organization}/teams/{team}/change")
async def change_team_of(
    request: Request, access: _ManageTeams, organization: str, team: str
) -> Response:
    """Enable or disable a team, or change its policy and models."""
    connection, fields = access.connection, await read_fields(request)
    if "policy" in fields and not access.allows(
        Permission.BIND_POLICIES, access.organization_id, access.team_id
    ):
        raise Problem(403, f"this needs the permission {Permission.BIND_POLICIES.value}")
    assert access.team_id is not None  # noqa: S101 - the path names it
    before = await team_of(connection, access.team_id)
    if models := words(fields.get("models", "")):
        await check_models(access, models, before.allowed_models)

    refusal = await attempt(
        access, lambda: _change(connection, before, fields, bind_team, change_team)
    )
    if refusal is not None:
        return await _team_page(request, access, organization, team, refusal=refusal)
    barrier = access.changed(keys=[f"team:{access.team_id}"])
    return see_change(f"/organizations/{organization}/teams/{team}", barrier)


@router.post("/organizations/{organization}/teams/{team}/delete")
async def delete_team(
    request: Request, access: _ManageTeams, organization: str, team: str
) -> Response:
    """Delete a team that has no keys."""
    return await _delete(
        access,
        access.team_id,
        lambda refusal: _team_page(request, access, organization, team, refusal=refusal),
        then=f"/organizations/{organization}",
    )


async def _change(
    connection: Connection,
    before: Organization | Team,
    fields: Mapping[str, str],
    bind: Callable[..., Awaitable[object]],
    change: Callable[[Connection, str, OwnerChange], Awaitable[object]],
) -> None:
    """Change the owner *before* by those *fields* that the form has."""
    name = before.path if isinstance(before, Team) else before.name
    if "policy" in fields:
        await bind(connection, name, policy=fields["policy"] or None)
    if "enabled" in fields:
        await change(connection, name, OwnerChange(enabled=fields["enabled"] == "yes"))
    if "models" in fields:
        check_seen(fields, before.allowed_models)
        await change(connection, name, OwnerChange(allowed_models=words(fields["models"])))


async def _delete(
    access: Access,
    owner_id: str | None,
    page: Callable[[ChangeRefusal], Awaitable[Response]],
    *,
    then: str,
) -> Response:
    assert owner_id is not None  # noqa: S101 - the path names it
    deleted = await attempt(
        access, lambda: delete_owner(access.connection, owner_id, cascades=False)
    )
    if isinstance(deleted, ChangeRefusal):
        hint = "revoke and delete them first, or use `--cascade` on the command line"
        return await page(ChangeRefusal(deleted.problem, hint))
    return RedirectResponse(then, status_code=303)


async def _list(
    request: Request,
    access: Access,
    *,
    fields: Mapping[str, str],
    refusal: ChangeRefusal | None = None,
    name: str = "",
    after: str = "",
) -> HTMLResponse:
    connection, within = access.connection, access.within(Permission.VIEW)
    found = await organizations(
        connection, part=name, within=within, after=after or None, most=PAGE_SIZE + 1
    )
    ids = [one.id for one in found[:PAGE_SIZE]]
    by_organization: dict[str, list[Any]] = {}
    for team in await first_teams(connection, ids, within=within, most=MOST_TEAMS + 1):
        by_organization.setdefault(team.organization, []).append(team)
    return render(
        request,
        access,
        "organizations.html",
        status=200 if refusal is None else 409,
        organizations=found[:PAGE_SIZE],
        name=name,
        has_more=len(found) > PAGE_SIZE,
        teams=by_organization,
        most_teams=MOST_TEAMS,
        policies=await policy_choices(connection),
        fields=fields,
        refusal=refusal,
        may_create=access.allows(Permission.MANAGE_ORGANIZATIONS),
    )


async def _organization_page(
    request: Request,
    access: Access,
    name: str,
    *,
    fields: Mapping[str, str] | None = None,
    refusal: ChangeRefusal | None = None,
    after: str = "",
) -> HTMLResponse:
    connection, within = access.connection, access.within(Permission.VIEW)
    organization_id = access.organization_id
    (found,) = await organizations(connection, name=name)
    shown_teams = await teams(
        connection, organization=name, within=within, after=(name, after) if after else None,
        most=PAGE_SIZE + 1,
    )  # fmt: skip
    return render(
        request,
        access,
        "organization.html",
        status=200 if refusal is None else 409,
        organization=found,
        goes=described(await dependents(connection, found.id)),
        teams=shown_teams[:PAGE_SIZE],
        has_more=len(shown_teams) > PAGE_SIZE,
        bars=await limit_bars(access, Owner(Level.ORGANIZATION, name)),
        policies=await policy_choices(connection),
        fields=fields or {},
        refusal=refusal,
        watched=watched_change(request),
        changes=await _changes_of(access, organization_id, None),
        may_manage=access.allows(Permission.MANAGE_ORGANIZATIONS),
        may_add=access.allows(Permission.MANAGE_TEAMS, organization_id),
        may_bind=access.allows(Permission.BIND_POLICIES, organization_id),
        may_limit=access.allows(Permission.MANAGE_LIMITS, organization_id),
    )


async def _team_page(
    request: Request,
    access: Access,
    organization: str,
    name: str,
    *,
    refusal: ChangeRefusal | None = None,
) -> HTMLResponse:
    connection, path = access.connection, f"{organization}/{name}"
    owner = access.organization_id, access.team_id
    assert access.team_id is not None  # noqa: S101 - the path names it
    return render(
        request,
        access,
        "team.html",
        status=200 if refusal is None else 409,
        team=await team_of(connection, access.team_id),
        goes=described(await dependents(connection, access.team_id)),
        keys=await list_keys(connection, Listing(team=path, limit=MOST_KEYS)),
        bars=await limit_bars(access, Owner(Level.TEAM, path)),
        policies=await policy_choices(connection),
        refusal=refusal,
        watched=watched_change(request),
        changes=await _changes_of(access, *owner),
        may_manage=access.allows(Permission.MANAGE_TEAMS, *owner),
        may_bind=access.allows(Permission.BIND_POLICIES, *owner),
        may_limit=access.allows(Permission.MANAGE_LIMITS, *owner),
        may_create=access.allows(Permission.MANAGE_KEYS, *owner),
    )


async def _changes_of(access: Access, organization_id: str | None, team_id: str | None) -> Any:
    if not access.allows(Permission.VIEW_AUDIT, organization_id, team_id):
        return None
    wanted = AuditFilter(object_id=team_id or organization_id, limit=MOST_KEYS)
    return await audit_entries(access.connection, wanted)
