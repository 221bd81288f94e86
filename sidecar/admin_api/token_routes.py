"""Routes of API tokens; a token has no permission that its creator lacks."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter
from pydantic import Field

from sidecar.admin_api import sign_in
from sidecar.admin_api.access import Access, AccessRoute, find_owner, requires
from sidecar.admin_api.objects import Body, ChosenPage, Name, Page
from sidecar.admin_api.problems import Problem, not_found
from sidecar.admin_api.roles import OF_TEAMS, Grant, Permission, Role
from sidecar.admin_api.sign_in import CreatedToken, Token
from sidecar.keys.credentials import generate

router = APIRouter(route_class=AccessRoute, tags=["tokens"])


class NewToken(Body):
    """A token to create; without an organization it is for the installation."""

    name: Name
    role: Role
    organization: Name | None = None
    team: Name | None = None
    scopes: Annotated[list[Permission], Field(min_length=1)] | None = None
    expires_in_days: Annotated[int, Field(ge=1, le=3650)] | None = 90


@router.get("/tokens")
async def list_tokens(
    access: Annotated[Access, requires(Permission.MANAGE_TOKENS, anywhere=True)],
    paging: ChosenPage,
) -> list[Token] | Page[Token]:
    """List the tokens of the owners whose tokens the caller manages, revoked ones last."""
    found = await sign_in.list_tokens(
        access.connection,
        within=access.within(Permission.MANAGE_TOKENS),
        after=paging.place(_place),
        most=paging.rows,
    )
    return paging.answer(
        found, lambda one: f"{int(one.revoked_at is not None)} {one.name} {one.id}"
    )


def _place(after: str) -> tuple[bool, str, str]:
    is_revoked, name, token_id = after.split(" ")
    return bool(int(is_revoked)), name, token_id


@router.post("/tokens", status_code=HTTPStatus.CREATED)
async def create_token(
    access: Annotated[Access, requires(Permission.MANAGE_TOKENS, anywhere=True)], body: NewToken
) -> CreatedToken:
    """Create a token with at most the caller's permissions; its text is in this answer alone.

    A token makes none that outlives it.
    """
    if body.team is not None and body.organization is None:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "a team needs its organization")
    if body.team is not None and body.role not in OF_TEAMS:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"{body.role.value} is no role of a team")
    if body.organization is not None:
        await find_owner(access, body.organization, body.team)
    grant = Grant(
        body.role,
        access.organization_id,
        access.team_id,
        None if body.scopes is None else frozenset(body.scopes),
    )
    access.check(Permission.MANAGE_TOKENS)
    for permission in Permission:
        if grant.has(permission):
            access.check(permission)
    key, days, end = (
        generate(secrets.token_bytes),
        body.expires_in_days,
        access.identity.expires_at,
    )
    if end and (days is None or datetime.now(UTC) + timedelta(days=days) > end):
        raise Problem(
            HTTPStatus.FORBIDDEN,
            f"it would outlive the token that makes it, which expires at {end:%Y-%m-%d %H:%M}Z",
            hint="let it expire in fewer days",
        )
    created = await sign_in.create_token(
        access.connection,
        key,
        name=body.name,
        grant=grant,
        created_by=access.person,
        life=None if days is None else timedelta(days=days),
    )
    access.shows_secret = True
    return CreatedToken(token=sign_in.reveal_token(key), details=created)


@router.post("/tokens/{token_id}/revoke")
async def revoke_token(
    access: Annotated[Access, requires(Permission.MANAGE_TOKENS, anywhere=True)], token_id: str
) -> Token:
    """Revoke a token for good, at once; repeat it as you like."""
    within = access.within(Permission.MANAGE_TOKENS)
    if not await sign_in.may_reach(access.connection, token_id, within=within):
        raise not_found("token")
    return await sign_in.revoke_token(access.connection, token_id)
