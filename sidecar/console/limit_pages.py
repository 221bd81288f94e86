"""Pages of limits and budgets: all of them as bars with a forecast, and the forms to set them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin.limits import (
    Holder,
    OwnedLimits,
    Owner,
    change_limits,
    has_prices,
    holders_of_limits,
)
from sidecar.admin.owners import organizations
from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.limit_routes import owner_place
from sidecar.admin_api.objects import Paging
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.console.forms import MOST_OFFERED, ChangeRefusal, attempt, read_fields, words
from sidecar.console.limit_bars import bars_of
from sidecar.console.rendering import render
from sidecar.domain.limits import Level, Limit
from sidecar.limits.limit_syntax import LimitWordsError, Selectors, parse_limit

MOST_ORGANIZATIONS: Final = 20
"""Of a page: the counts of each are read from Valkey in a call of their own."""
MOST_OWNERS: Final = 200
"""Of a page, with all of their limits."""

router = APIRouter(route_class=AccessRoute, include_in_schema=False)


@router.get("/limits")
async def listed(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    organization: str = "",
    after: str = "",
) -> HTMLResponse:
    """Show the limits of every owner that the person may see, by organization."""
    connection, within = access.connection, access.within(Permission.VIEW)
    is_known = organization and await organizations(connection, name=organization, within=within)
    owner = Owner(Level.ORGANIZATION, organization) if is_known else None
    paging = Paging(after or None, MOST_OWNERS)
    found = await holders_of_limits(
        connection, owner, within=within, after=paging.place(owner_place), most=paging.rows
    )
    by_organization: dict[str, list[Holder]] = {}
    last: Holder | None = None
    for holder in found[:MOST_OWNERS]:
        # By its name, as the person may view no more of it than a team.
        name = holder.name.partition("/")[0]
        if name not in by_organization and len(by_organization) == MOST_ORGANIZATIONS:
            break
        by_organization.setdefault(name, []).append(holder)
        last = holder
    return render(
        request,
        access,
        "limits.html",
        found={
            name: await bars_of(connection, access.settings, holders)
            for name, holders in by_organization.items()
        },
        organization=organization,
        organizations=[
            one.name for one in await organizations(connection, within=within, most=MOST_OFFERED)
        ],
        next=None if last is None or last is found[-1] else f"{last.name} {last.id}",
        has_prices=await has_prices(connection),
    )


@router.post("/organizations/{organization}/limits")
async def of_organization(
    request: Request,
    access: Annotated[Access, requires(Permission.MANAGE_ORGANIZATIONS)],
    organization: str,
) -> Response:
    """Set or remove a limit of an organization."""
    owner = Owner(Level.ORGANIZATION, organization)
    return await _change(request, access, owner, page=f"/organizations/{organization}")


@router.post("/organizations/{organization}/teams/{team}/limits")
async def of_team(
    request: Request,
    access: Annotated[Access, requires(Permission.MANAGE_LIMITS)],
    organization: str,
    team: str,
) -> Response:
    """Set or remove a limit of a team."""
    owner = Owner(Level.TEAM, f"{organization}/{team}")
    return await _change(
        request, access, owner, page=f"/organizations/{organization}/teams/{team}"
    )


@router.post("/keys/{key_id}/limits")
async def of_key(
    request: Request,
    access: Annotated[Access, requires(Permission.MANAGE_LIMITS)],
    key_id: str,
) -> Response:
    """Set or remove a limit of a key."""
    return await _change(request, access, Owner(Level.KEY, key_id), page=f"/keys/{key_id}")


async def _change(request: Request, access: Access, owner: Owner, *, page: str) -> Response:
    fields = await read_fields(request)

    def change(before: OwnedLimits) -> tuple[Limit, ...]:
        if removed := fields.get("remove"):
            left = tuple(one for one in before.limits if one.id != removed)
            if left == before.limits:
                raise LimitWordsError("there is no such limit to remove")
            return left
        added = limit_of_fields(
            fields["kind"], fields["amount"], owner=owner, owner_id=before.owner_id, fields=fields
        )
        return (*(one for one in before.limits if one.id != added.id), added)

    try:
        changed = await attempt(access, lambda: change_limits(access.connection, owner, change))
    except KeyError as error:
        raise Problem(422, f"the form has no field {error}") from None
    if isinstance(changed, ChangeRefusal):
        raise Problem(409, changed.problem, hint=changed.hint)
    prefix = "" if owner.level is Level.KEY else f"{owner.level.value}:"
    access.changed(keys=[f"{prefix}{changed.owner_id}"])
    return RedirectResponse(f"{page}#limits", status_code=303)


def limit_of_fields(
    kind: str, amount: str, *, owner: Owner, owner_id: str, fields: Mapping[str, str]
) -> Limit:
    """Return the limit that the fields of a form describe.

    Raises:
        LimitWordsError: the measure, window or amount is not one.
    """
    selectors = Selectors(
        models=words(fields.get("models", "")), time_zone=fields.get("time_zone") or "UTC"
    )
    return parse_limit(
        f"{kind}={amount.lstrip('$')}", level=owner.level, owner=owner_id, selectors=selectors
    )
