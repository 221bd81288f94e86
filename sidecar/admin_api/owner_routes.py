"""Routes of organizations and teams."""

from __future__ import annotations

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from sidecar.admin import owners as administration
from sidecar.admin.owner_deletion import Dependents, delete_owner, dependents
from sidecar.admin.owners import (
    AS_IT_IS,
    ChangeRefusedError,
    Organization,
    OwnerChange,
    Rules,
    Team,
)
from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.objects import (
    Body,
    Models,
    Name,
    NotNull,
    Page,
    check_match,
    check_models,
    tagged,
)
from sidecar.admin_api.problems import not_found
from sidecar.admin_api.roles import Permission

router = APIRouter(route_class=AccessRoute, tags=["organizations and teams"])


class NewOwner(Body):
    """An organization or team to create; null models are every model of the level above."""

    name: Name
    allowed_models: Models | None = None
    policy: Name | None = None


class OwnerPatch(Body):
    """Fields to change; those that are not sent stay as they are."""

    name: Annotated[Name | None, NotNull] = None
    allowed_models: Models | None = None
    policy: Name | None = None
    enabled: Annotated[bool | None, NotNull] = None


@router.get("/organizations")
async def list_organizations(
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    after: Annotated[str | None, Query(max_length=63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Organization]:
    """List the organizations that the caller may view, by name."""
    found = await administration.organizations(
        access.connection, within=access.within(Permission.VIEW), after=after, most=limit + 1
    )
    return Page(
        items=list(found[:limit]), next=found[limit - 1].name if len(found) > limit else None
    )


@router.post("/organizations", status_code=HTTPStatus.CREATED)
async def create_organization(
    access: Annotated[Access, requires(Permission.MANAGE_ORGANIZATIONS)], body: NewOwner
) -> Organization:
    """Create an organization."""
    return await administration.create_organization(
        access.connection,
        body.name,
        rules=Rules(allowed_models=body.allowed_models, policy=body.policy),
    )


@router.get("/organizations/{organization}")
async def show_organization(
    access: Annotated[Access, requires(Permission.VIEW)], organization: str, response: Response
) -> Organization:
    """Show an organization."""
    return tagged(response, await _organization(access, organization))


@router.patch("/organizations/{organization}")
async def change_organization(
    access: Annotated[Access, requires(Permission.MANAGE_ORGANIZATIONS)],
    organization: str,
    body: OwnerPatch,
    request: Request,
    response: Response,
) -> Organization:
    """Change an organization's name, models, policy, or whether its keys are let in."""
    check_match(request, await _organization(access, organization))
    connection, name = access.connection, organization
    if body.given("policy"):
        await administration.bind_organization(connection, name, policy=body.policy)
    change = _change(body)
    if change != OwnerChange():
        name = (await administration.change_organization(connection, name, change)).name
    access.changed(keys=[f"organization:{access.organization_id}"])
    return tagged(response, await _organization(access, name))


@router.delete("/organizations/{organization}")
async def delete_organization(
    access: Annotated[Access, requires(Permission.MANAGE_ORGANIZATIONS)],
    organization: str,
    request: Request,
    cascade: bool = False,
) -> Dependents:
    """Delete an organization, with `cascade` its teams and keys too; return their number.

    Its API tokens and alert routes go in any case, and are counted.
    """
    found = await _organization(access, organization)
    check_match(request, found)
    deleted = await delete_owner(access.connection, found.id, cascades=cascade)
    access.changed(keys=[f"organization:{found.id}"])
    return deleted


@router.get("/organizations/{organization}/dependents")
async def show_dependents(
    access: Annotated[Access, requires(Permission.VIEW)],
    organization: str,  # noqa: ARG001 - in the path, for `requires`
) -> Dependents:
    """Count the teams, keys, API tokens and alert routes that go with an organization."""
    assert access.organization_id is not None  # noqa: S101 - of the path
    return await dependents(access.connection, access.organization_id)


@router.get("/organizations/{organization}/teams/{team}/dependents")
async def show_dependents_of_team(
    access: Annotated[Access, requires(Permission.VIEW)],
    organization: str,  # noqa: ARG001 - in the path, for `requires`
    team: str,  # noqa: ARG001
) -> Dependents:
    """Count the keys and API tokens that go with a team."""
    assert access.team_id is not None  # noqa: S101 - of the path
    return await dependents(access.connection, access.team_id)


@router.get("/teams")
async def list_teams(
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    organization: Annotated[str | None, Query(max_length=63)] = None,
    after: Annotated[str | None, Query(max_length=127)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Team]:
    """List the teams that the caller may view, by organization and name."""
    of_organization, _, name = (after or "").partition("/")
    try:
        found = await administration.teams(
            access.connection,
            organization=organization,
            within=access.within(Permission.VIEW),
            after=None if after is None else (of_organization, name),
            most=limit + 1,
        )
    except ChangeRefusedError:  # an unknown organization has no teams
        found = ()
    return Page(
        items=list(found[:limit]), next=found[limit - 1].path if len(found) > limit else None
    )


@router.post("/organizations/{organization}/teams", status_code=HTTPStatus.CREATED)
async def create_team(
    access: Annotated[Access, requires(Permission.MANAGE_TEAMS)],
    organization: str,
    body: NewOwner,
) -> Team:
    """Create a team."""
    if body.policy is not None:
        access.check(Permission.BIND_POLICIES)
    await check_models(access, body.allowed_models)
    return await administration.create_team(
        access.connection,
        body.name,
        organization=organization,
        rules=Rules(allowed_models=body.allowed_models, policy=body.policy),
    )


@router.get("/organizations/{organization}/teams/{team}")
async def show_team(
    access: Annotated[Access, requires(Permission.VIEW)],
    organization: str,  # noqa: ARG001 - in the path, for `requires`
    team: str,  # noqa: ARG001
    response: Response,
) -> Team:
    """Show a team."""
    return tagged(response, await _team(access))


@router.patch("/organizations/{organization}/teams/{team}")
async def change_team(
    access: Annotated[Access, requires(Permission.MANAGE_TEAMS)],
    organization: str,
    team: str,
    body: OwnerPatch,
    request: Request,
    response: Response,
) -> Team:
    """Change a team's name, models, policy, or whether its keys are let in."""
    before = await _team(access)
    check_match(request, before)
    connection, path = access.connection, f"{organization}/{team}"
    if body.given("policy"):
        access.check(Permission.BIND_POLICIES)
        await administration.bind_team(connection, path, policy=body.policy)
    change = _change(body)
    if change != OwnerChange():
        await check_models(access, change.allowed_models, before.allowed_models)
        await administration.change_team(connection, path, change)
    access.changed(keys=[f"team:{access.team_id}"])
    return tagged(response, await _team(access))


@router.delete("/organizations/{organization}/teams/{team}")
async def delete_team(
    access: Annotated[Access, requires(Permission.MANAGE_TEAMS)],
    organization: str,  # noqa: ARG001 - in the path, for `requires`
    team: str,  # noqa: ARG001
    request: Request,
    cascade: bool = False,
) -> Dependents:
    """Delete a team, with `cascade` its keys too; return their number.

    Its API tokens go in any case, and are counted.
    """
    found = await _team(access)
    check_match(request, found)
    deleted = await delete_owner(access.connection, found.id, cascades=cascade)
    access.changed(keys=[f"team:{found.id}"])
    return deleted


def _change(body: OwnerPatch) -> OwnerChange:
    models = body.allowed_models if body.given("allowed_models") else AS_IT_IS
    return OwnerChange(name=body.name, allowed_models=models, enabled=body.enabled)


async def _organization(access: Access, name: str) -> Organization:
    for one in await administration.organizations(access.connection, name=name):
        return one
    raise not_found("organization")


async def _team(access: Access) -> Team:
    assert access.team_id is not None  # noqa: S101 - of the path
    return await administration.team_of(access.connection, access.team_id)
