"""Routes of API keys; a secret is in the answer that creates it, and nowhere else."""

from __future__ import annotations

import secrets
from datetime import timedelta
from http import HTTPStatus
from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request, Response
from pydantic import BeforeValidator, Field

from sidecar.admin import keys as administration
from sidecar.admin.keys import CreatedKey, Expiry, Key, KeyChange, KeyState, Listing
from sidecar.admin.owners import AS_IT_IS, Rules
from sidecar.admin_api.access import Access, AccessRoute, find_owner, requires
from sidecar.admin_api.objects import (
    Body,
    Models,
    Moment,
    Name,
    NotNull,
    Page,
    TeamPath,
    check_match,
    check_models,
    tagged,
    team_names,
)
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.domain.limits import Priority
from sidecar.domain.principal import Network
from sidecar.domain.subject import Operation
from sidecar.keys.credentials import ApiKey, generate
from sidecar.keys.scopes import ScopeError, Scopes, parse_sources, parse_tags

router = APIRouter(route_class=AccessRoute, tags=["keys"])

_MAX_GRACE_SECONDS: Final = 366 * 86400
_MAX_NETWORKS: Final = 100


def to_network(value: object) -> Network:
    """Return the network that *value* names, as files and commands read it.

    Raises:
        ValueError: it names none, or is a number, which Python would take for an address.
    """
    try:
        (network,) = parse_sources([value] if isinstance(value, str) else [])
    except ValueError:
        fault = "is no network, write for example 192.0.2.0/24 or 2001:db8::/32"
        raise ValueError(fault) from None
    return network


Operations = Annotated[tuple[Operation, ...], Field(min_length=1)]
Sources = Annotated[
    tuple[Annotated[Network, BeforeValidator(to_network)], ...],
    Field(min_length=1, max_length=_MAX_NETWORKS, examples=[["192.0.2.0/24"]]),
]
Tags = Annotated[list[Annotated[str, Field(max_length=63)]], Field(examples=[["env=prod"]])]


class NewKey(Body):
    """A key to create; null is no bound."""

    name: Name
    expires_at: Moment | None = None
    not_before: Moment | None = None
    allowed_models: Models | None = None
    allowed_operations: Operations | None = None
    allowed_sources: Sources | None = None
    tags: Tags = Field(default_factory=list)
    policy: Name | None = None


class KeyPatch(Body):
    """Fields to change; those that are not sent stay as they are."""

    enabled: Annotated[bool | None, NotNull] = None
    expires_at: Moment | None = None
    not_before: Moment | None = None
    allowed_models: Models | None = None
    allowed_operations: Operations | None = None
    allowed_sources: Sources | None = None
    tags: Annotated[Tags | None, NotNull] = None
    priority: Annotated[Priority | None, NotNull] = None
    policy: Name | None = None


class Rotation(Body):
    """How long the old key stays good, and the expiry of the new one, else that of the old."""

    grace_seconds: Annotated[int, Field(ge=0, le=_MAX_GRACE_SECONDS)] = 86400
    expires_at: Moment | None = None


@router.get("/keys")
async def list_keys(
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    organization: Annotated[str | None, Query(max_length=63)] = None,
    team: TeamPath = None,
    state: KeyState | None = None,
    tag: Annotated[str | None, Query(max_length=63)] = None,
    after: Annotated[str | None, Query(max_length=12)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[Key]:
    """List keys by team and name, revoked and expired ones included."""
    if team is not None:
        organization, name = team_names(team, organization)
        await find_owner(access, organization, name)
    elif organization is not None:
        await find_owner(access, organization)
    listing = Listing(
        within=access.within(Permission.VIEW),
        organization=organization,
        team=team,
        state=state,
        tag=tag,
        after=after,
        limit=limit,
    )
    page = await administration.list_keys(access.connection, listing)
    return Page(items=list(page.keys), next=page.keys[-1].key_id if page.has_more else None)


@router.post("/organizations/{organization}/teams/{team}/keys", status_code=HTTPStatus.CREATED)
async def create_key(
    access: Annotated[Access, requires(Permission.MANAGE_KEYS)],
    organization: str,
    team: str,
    body: NewKey,
) -> CreatedKey:
    """Create a key; its text is in this answer alone."""
    if body.policy is not None:
        access.check(Permission.BIND_POLICIES)
    await check_models(access, body.allowed_models)
    key = generate(secrets.token_bytes)
    created = await administration.create_key(
        access.connection,
        key,
        owner=(f"{organization}/{team}", body.name),
        expires_at=body.expires_at,
        rules=Rules(allowed_models=body.allowed_models, policy=body.policy),
        scopes=Scopes(
            operations=_operations(body.allowed_operations),
            sources=body.allowed_sources,
            not_before=body.not_before,
            tags=_tags(body.tags),
        ),
    )
    access.changed(keys=[created.key_id])
    return _shown(access, key, created)


@router.get("/keys/{key_id}")
async def show_key(
    access: Annotated[Access, requires(Permission.VIEW)], key_id: str, response: Response
) -> Key:
    """Show a key and how it was used, without its secret."""
    found = await administration.find_key(access.connection, key_id)
    tagged(response, _settled(found))
    return found


@router.patch("/keys/{key_id}")
async def change_key(
    access: Annotated[Access, requires(Permission.MANAGE_KEYS)],
    key_id: str,
    body: KeyPatch,
    request: Request,
    response: Response,
) -> Key:
    """Change the bounds of a key, switch it off or on, or bind a policy."""
    connection = access.connection
    before = await administration.find_key(connection, key_id)
    check_match(request, _settled(before))
    if body.given("policy"):
        access.check(Permission.BIND_POLICIES)
        await administration.bind_key(connection, key_id, policy=body.policy)
    if body.priority is not None:
        access.check(Permission.MANAGE_LIMITS)  # higher ones take from others' share of a limit
    if body.enabled is not None:
        await administration.switch_key(connection, key_id, enabled=body.enabled)
    change = _change(body)
    if change != KeyChange():
        await check_models(
            access, change.allowed_models, before.allowed_models, policy=before.policy
        )
        await administration.change_key(connection, key_id, change=change)
    access.changed(keys=[key_id])
    found = await administration.find_key(connection, key_id)
    tagged(response, _settled(found))
    return found


@router.post("/keys/{key_id}/revoke")
async def revoke_key(
    access: Annotated[Access, requires(Permission.MANAGE_KEYS)], key_id: str, request: Request
) -> Key:
    """Revoke a key for good; repeat it as you like."""
    check_match(request, _settled(await administration.find_key(access.connection, key_id)))
    revoked = await administration.revoke_key(access.connection, key_id)
    access.changed(keys=[key_id])
    return revoked


@router.post("/keys/{key_id}/rotate", status_code=HTTPStatus.CREATED)
async def rotate_key(
    access: Annotated[Access, requires(Permission.MANAGE_KEYS)],
    key_id: str,
    body: Rotation,
    request: Request,
) -> CreatedKey:
    """Make a new key in the place of an old one, which stays good for the grace."""
    check_match(request, _settled(await administration.find_key(access.connection, key_id)))
    key = generate(secrets.token_bytes)
    new, old = await administration.rotate_key(
        access.connection,
        key_id,
        key=key,
        grace=timedelta(seconds=body.grace_seconds),
        expires_at=body.expires_at if body.given("expires_at") else Expiry.KEEP,
    )
    access.changed(keys=[new.key_id, old.key_id])
    return _shown(access, key, new, replaces=old)


def _shown(access: Access, key: ApiKey, created: Key, replaces: Key | None = None) -> CreatedKey:
    access.shows_secret = True
    return CreatedKey(key=key.reveal(), details=created, replaces=replaces)


def _settled(key: Key) -> tuple[Any, ...]:
    """Return the parts of a key that people set, for its entity tag: uses change all the time."""
    return (
        key.name, key.team, key.state, key.not_before, key.expires_at, key.revoked_at,
        key.replaced_by, key.policy, key.allowed_models, key.allowed_operations,
        key.allowed_sources, key.tags, key.priority,
    )  # fmt: skip


def _change(body: KeyPatch) -> KeyChange:
    return KeyChange(
        allowed_models=body.allowed_models if body.given("allowed_models") else AS_IT_IS,
        allowed_operations=(
            _operations(body.allowed_operations) if body.given("allowed_operations") else AS_IT_IS
        ),
        allowed_sources=body.allowed_sources if body.given("allowed_sources") else AS_IT_IS,
        tags=AS_IT_IS if body.tags is None else _tags(body.tags),
        not_before=body.not_before if body.given("not_before") else AS_IT_IS,
        expires_at=body.expires_at if body.given("expires_at") else AS_IT_IS,
        priority=AS_IT_IS if body.priority is None else body.priority.value,
    )


def _operations(items: tuple[Operation, ...] | None) -> tuple[str, ...] | None:
    return None if items is None else tuple(sorted({one.value for one in items}))


def _tags(texts: list[str]) -> tuple[str, ...]:
    try:
        return parse_tags(texts)
    except ScopeError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"tags: {error}") from None
