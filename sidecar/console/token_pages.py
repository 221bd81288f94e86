"""The page of API tokens: create one, whose text is shown once, and revoke one."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin_api import token_routes
from sidecar.admin_api.access import Access, AccessRoute, read_form, requires
from sidecar.admin_api.objects import Paging
from sidecar.admin_api.roles import Permission, Role
from sidecar.admin_api.token_routes import NewToken
from sidecar.console.forms import ChangeRefusal, attempt, chosen, read_fields, valid
from sidecar.console.rendering import render

PAGE_SIZE: Final = 100
LIVES: Final = {"30 days": 30, "90 days": 90, "365 days": 365, "no end": None}

router = APIRouter(route_class=AccessRoute, include_in_schema=False)
_Manage = Annotated[Access, requires(Permission.MANAGE_TOKENS, anywhere=True)]


@router.get("/tokens")
async def listed(request: Request, access: _Manage, after: str = "") -> HTMLResponse:
    """Show the tokens of the owners whose tokens the person manages, and the form of a new one."""
    return await _page(request, access, after=after or None)


@router.post("/tokens")
async def create(request: Request, access: _Manage) -> HTMLResponse:
    """Create a token with at most the person's permissions; it is shown in this answer alone."""
    form = await read_form(request)
    fields = await read_fields(request)
    organization, _, team = fields.get("owner", "").partition("/")
    wanted = valid(
        NewToken,
        {
            "name": fields.get("name"),
            "role": fields.get("role"),
            "organization": organization or None,
            "team": team or None,
            "scopes": form.getlist("scope") or None,
            "expires_in_days": chosen(fields, "life", LIVES, "90 days"),
        },
    )
    made = (
        wanted
        if isinstance(wanted, ChangeRefusal)
        else await attempt(access, lambda: token_routes.create_token(access, wanted))
    )
    if isinstance(made, ChangeRefusal):
        return await _page(request, access, fields=fields, refusal=made)
    return render(request, access, "token_secret.html", token=made.details, secret=made.token)


@router.post("/tokens/{token_id}/revoke")
async def revoke(access: _Manage, token_id: str) -> Response:
    """Revoke a token for good."""
    await token_routes.revoke_token(access, token_id)
    return RedirectResponse("/tokens", status_code=303)


async def _page(
    request: Request,
    access: Access,
    *,
    fields: Mapping[str, str] | None = None,
    refusal: ChangeRefusal | None = None,
    after: str | None = None,
) -> HTMLResponse:
    page = await token_routes.list_tokens(access, Paging(after, PAGE_SIZE))
    return render(
        request,
        access,
        "tokens.html",
        page=page,
        roles=[(one.value, one.value.replace("_", " ")) for one in Role],
        scopes=[one.value for one in Permission],
        lives=[(one, one) for one in LIVES],
        fields=fields or {},
        refusal=refusal,
    )
