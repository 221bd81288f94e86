"""Pages of keys: list, create with the secret shown once, rotate, revoke, change."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin.audit_log import AuditFilter, audit_entries
from sidecar.admin.keys import (
    Expiry,
    Key,
    KeyChange,
    KeyState,
    Listing,
    bind_key,
    change_key,
    create_key,
    expire_key,
    find_key,
    list_keys,
    revoke_key,
    rotate_key,
    switch_key,
)
from sidecar.admin.limits import Owner
from sidecar.admin.owners import AS_IT_IS, Rules, find_team_id, organizations, teams
from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.objects import check_models
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.console.changes import see_change, watch_query, watched_change
from sidecar.console.forms import (
    MOST_OFFERED,
    ChangeRefusal,
    attempt,
    check_seen,
    chosen,
    policy_choices,
    read_fields,
    words,
)
from sidecar.console.limit_bars import limit_bars
from sidecar.console.rendering import render
from sidecar.domain.limits import Level, Priority
from sidecar.domain.subject import Operation
from sidecar.keys.credentials import KEY_ID_LENGTH, PREFIX, generate, parse
from sidecar.keys.scopes import Scopes, parse_operations, parse_sources, parse_tags

PAGE_SIZE: Final = 100
NEVER: Final = "never"
EXPIRIES: Final = {
    NEVER: None,
    "7 days": timedelta(days=7),
    "30 days": timedelta(days=30),
    "90 days": timedelta(days=90),
    "1 year": timedelta(days=365),
}
KEEP: Final = "as the old one"
GRACES: Final = {
    "none": timedelta(),
    "1 hour": timedelta(hours=1),
    "24 hours": timedelta(hours=24),
    "7 days": timedelta(days=7),
}
"""How long the old key of a rotation stays good."""

PRIORITIES: Final = [one.value for one in Priority]

router = APIRouter(route_class=AccessRoute, include_in_schema=False)
_Anywhere = Annotated[Access, requires(Permission.VIEW, anywhere=True)]
_View = Annotated[Access, requires(Permission.VIEW)]
_Manage = Annotated[Access, requires(Permission.MANAGE_KEYS)]


@router.get("/keys")
async def listed(
    request: Request,
    access: _Anywhere,
    organization: str = "",
    team: str = "",
    state: str = "",
    tag: str = "",
    after: str = "",
) -> HTMLResponse:
    """List keys page by page."""
    fields = {"organization": organization, "team": team, "state": state, "tag": tag}
    listing = Listing(
        organization=organization or None,
        team=team or None,
        state=chosen(fields, "state", {"": None, **{one.value: one for one in KeyState}}),
        tag=tag or None,
        after=after or None,
        limit=PAGE_SIZE,
        within=access.within(Permission.VIEW),
    )
    page = await attempt(access, lambda: list_keys(access.connection, listing))
    refusal = page if isinstance(page, ChangeRefusal) else None
    return render(
        request,
        access,
        "keys.html",
        keys=() if isinstance(page, ChangeRefusal) else page.keys,
        has_more=not isinstance(page, ChangeRefusal) and page.has_more,
        refusal=refusal,
        chosen=fields,
        states=[
            ("", "any state"),
            *((one.value, one.value.replace("_", " ")) for one in KeyState),
        ],
        organizations=[
            one.name
            for one in await organizations(
                access.connection, within=access.within(Permission.VIEW), most=MOST_OFFERED
            )
        ],
    )


@router.post("/keys/find")
async def found(request: Request, _: _Anywhere) -> Response:
    """Go to the page of a key by its id or the key itself, whose secret is dropped at once.

    A form of POST, so that a pasted key is in no address and no log.
    """
    text = (await read_fields(request)).get("key", "")
    key = parse(text)
    key_id = text.removeprefix(PREFIX) if key is None else key.key_id
    if not (len(key_id) == KEY_ID_LENGTH and key_id.isascii() and key_id.isalnum()):
        raise Problem(
            404, "that is not the id of a key, nor a whole key", hint="an id has 12 characters"
        )
    return RedirectResponse(f"/keys/{key_id}", status_code=303)


@router.get("/keys/new")
async def choose_team(
    request: Request,
    access: Annotated[Access, requires(Permission.MANAGE_KEYS, anywhere=True)],
    team: str = "",
) -> Response:
    """Ask for the team of a new key."""
    organization, slash, name = team.partition("/")
    if slash and organization and name and "/" not in name:
        return RedirectResponse(
            str(request.url_for("new_key", organization=organization, team=name).path),
            status_code=303,
        )
    within = access.within(Permission.MANAGE_KEYS)
    found = await teams(access.connection, organization=None, within=within, most=MOST_OFFERED)
    return render(request, access, "key_team.html", teams=[one.path for one in found])


@router.get("/organizations/{organization}/teams/{team}/keys/new", name="new_key")
async def new_key(request: Request, access: _Manage, organization: str, team: str) -> HTMLResponse:
    """Show the form of a new key."""
    return await _form(request, access, f"{organization}/{team}", fields={})


@router.post("/organizations/{organization}/teams/{team}/keys/new")
async def create(request: Request, access: _Manage, organization: str, team: str) -> HTMLResponse:
    """Create a key and show it in the answer, the only time."""
    path, fields = f"{organization}/{team}", await read_fields(request)
    if fields.get("policy"):
        access.check(Permission.BIND_POLICIES)
    key, lifetime = generate(secrets.token_bytes), chosen(fields, "expires", EXPIRIES, NEVER)
    models = words(fields.get("models", ""))
    await check_models(access, models)

    async def change() -> Key:
        rules = Rules(allowed_models=models, policy=fields.get("policy") or None)
        return await create_key(
            access.connection,
            key,
            owner=(path, fields.get("name", "")),
            expires_at=None if lifetime is None else datetime.now(UTC) + lifetime,
            rules=rules,
            scopes=_scopes(fields),
        )

    created = await attempt(access, change)
    if isinstance(created, ChangeRefusal):
        return await _form(request, access, path, fields=fields, refusal=created)
    access.shows_secret = True
    access.changed(keys=[created.key_id])
    return render(
        request, access, "key_secret.html", key=created, secret=key.reveal(), old=None, watched=""
    )


@router.get("/keys/{key_id}")
async def shown(request: Request, access: _View, key_id: str) -> HTMLResponse:
    """Show one key: its rules, use, limits and history."""
    return await _page(request, access, key_id)


@router.post("/keys/{key_id}/revoke")
async def revoke(request: Request, access: _Manage, key_id: str) -> Response:
    """Revoke a key for good."""
    return await _change(request, access, key_id, lambda: revoke_key(access.connection, key_id))


@router.post("/keys/{key_id}/switch")
async def switch(request: Request, access: _Manage, key_id: str) -> Response:
    """Disable a key, or enable it again."""
    enabled = (await read_fields(request)).get("enabled") == "yes"
    return await _change(
        request, access, key_id, lambda: switch_key(access.connection, key_id, enabled=enabled)
    )


@router.post("/keys/{key_id}/expire")
async def expire(request: Request, access: _Manage, key_id: str) -> Response:
    """Set how long a key stays good from now."""
    lifetime = chosen(await read_fields(request), "expires", EXPIRIES)
    at = None if lifetime is None else datetime.now(UTC) + lifetime
    return await _change(
        request, access, key_id, lambda: expire_key(access.connection, key_id, at=at)
    )


@router.post("/keys/{key_id}/change")
async def change(request: Request, access: _Manage, key_id: str) -> Response:
    """Replace the models, operations, networks, tags and priority of a key."""
    fields = await read_fields(request)
    priority = chosen(fields, "priority", {"": AS_IT_IS, **{one: one for one in PRIORITIES}})
    if priority is not AS_IT_IS:
        access.check(Permission.MANAGE_LIMITS)
    models, before = words(fields.get("models", "")), await find_key(access.connection, key_id)
    await check_models(access, models, before.allowed_models, policy=before.policy)

    async def work() -> Key:
        check_seen(
            fields, before.allowed_models, before.allowed_operations, before.allowed_sources,
            before.tags, before.priority,
        )  # fmt: skip
        scopes = _scopes(fields)
        wanted = KeyChange(
            allowed_models=models,
            allowed_operations=scopes.operations,
            allowed_sources=scopes.sources,
            tags=scopes.tags,
            priority=priority,
        )
        return await change_key(access.connection, key_id, change=wanted)

    return await _change(request, access, key_id, work)


@router.post("/keys/{key_id}/policy")
async def bind(
    request: Request,
    access: Annotated[Access, requires(Permission.BIND_POLICIES)],
    key_id: str,
) -> Response:
    """Bind a policy to a key, or none."""
    policy = (await read_fields(request)).get("policy") or None
    return await _change(
        request, access, key_id, lambda: bind_key(access.connection, key_id, policy=policy)
    )


@router.post("/keys/{key_id}/rotate")
async def rotate(request: Request, access: _Manage, key_id: str) -> Response:
    """Put a new key in the place of one, which stays good for a while; show the new one once."""
    fields = await read_fields(request)
    key, grace = generate(secrets.token_bytes), chosen(fields, "grace", GRACES, "24 hours")
    expires_at: datetime | Expiry | None = Expiry.KEEP
    if fields.get("expires", KEEP) != KEEP:
        lifetime = chosen(fields, "expires", EXPIRIES)
        expires_at = None if lifetime is None else datetime.now(UTC) + lifetime
    rotated = await attempt(
        access,
        lambda: rotate_key(
            access.connection,
            key_id,
            key=key,
            grace=grace,
            expires_at=expires_at,
        ),
    )
    if isinstance(rotated, ChangeRefusal):
        return await _page(request, access, key_id, refusal=rotated)
    new, old = rotated
    access.shows_secret = True
    barrier = access.changed(keys=[new.key_id, old.key_id])
    return render(
        request,
        access,
        "key_secret.html",
        key=new,
        secret=key.reveal(),
        old=old,
        watched=watch_query(barrier),
    )


async def _change(
    request: Request, access: Access, key_id: str, work: Callable[[], Awaitable[Key]]
) -> Response:
    """Change a key and go back to its page, which watches the workers or shows the refusal."""
    changed = await attempt(access, work)
    if isinstance(changed, ChangeRefusal):
        return await _page(request, access, key_id, refusal=changed)
    return see_change(f"/keys/{key_id}", access.changed(keys=[key_id]))


async def _page(
    request: Request,
    access: Access,
    key_id: str,
    *,
    refusal: ChangeRefusal | None = None,
) -> HTMLResponse:
    connection = access.connection
    key = await find_key(connection, key_id)
    organization, _, team = key.team.partition("/")
    may_audit = access.allows(Permission.VIEW_AUDIT, access.organization_id, access.team_id)
    changes = (
        await audit_entries(connection, AuditFilter(object_id=key_id, limit=10))
        if may_audit
        else None
    )
    return render(
        request,
        access,
        "key.html",
        status=200 if refusal is None else 409,
        key=key,
        organization=organization,
        team=team,
        bars=await limit_bars(access, Owner(Level.KEY, key_id)),
        changes=changes,
        refusal=refusal,
        watched=watched_change(request),
        policies=await policy_choices(access.connection),
        expiries=[(one, one) for one in EXPIRIES],
        renewed_expiries=[(one, one) for one in (KEEP, *EXPIRIES)],
        graces=[(one, one) for one in GRACES],
        operations=[one.value for one in Operation],
        priorities=[(one, one) for one in PRIORITIES],
        may_manage=access.allows(Permission.MANAGE_KEYS, access.organization_id, access.team_id),
        may_bind=access.allows(Permission.BIND_POLICIES, access.organization_id, access.team_id),
        may_limit=access.allows(Permission.MANAGE_LIMITS, access.organization_id, access.team_id),
    )


async def _form(
    request: Request,
    access: Access,
    path: str,
    *,
    fields: Mapping[str, str],
    refusal: ChangeRefusal | None = None,
) -> HTMLResponse:
    await find_team_id(access.connection, path)
    organization, _, team = path.partition("/")
    return render(
        request,
        access,
        "key_new.html",
        status=200 if refusal is None else 409,
        organization=organization,
        team=team,
        fields=fields,
        refusal=refusal,
        policies=await policy_choices(access.connection),
        expiries=[(one, one) for one in EXPIRIES],
        operations=[one.value for one in Operation],
        may_bind=access.allows(Permission.BIND_POLICIES, access.organization_id, access.team_id),
    )


def _scopes(fields: Mapping[str, str]) -> Scopes:
    operations, sources = (words(fields.get(name, "")) for name in ("operations", "sources"))
    return Scopes(
        operations=None if operations is None else parse_operations(operations),
        sources=None if sources is None else parse_sources(sources),
        tags=parse_tags(words(fields.get("tags", "")) or ()),
    )
