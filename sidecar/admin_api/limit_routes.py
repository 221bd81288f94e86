"""Routes of limits and budgets: those set at one level, and how they stand."""

from __future__ import annotations

import time
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from http import HTTPStatus
from itertools import accumulate, chain
from typing import Annotated, Any, Generic, Self, TypeVar

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from sidecar.admin import limits as administration
from sidecar.admin.limits import Holder, LiveLimit, OwnedLimits, Owner, SpentBudget
from sidecar.admin_api.access import Access, AccessRoute, find_key_owner, find_owner, requires
from sidecar.admin_api.objects import (
    ApiModel,
    Body,
    ChosenPage,
    Models,
    Page,
    Paging,
    TeamPath,
    bounded,
    check_match,
    json_answer,
    tagged,
    team_names,
)
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.limits.limit_syntax import LimitWordsError, Selectors, parse_limit, shown, written
from sidecar.limits.serialization import MAX_AMOUNT, MAX_LIMITS
from sidecar.telemetry.logs import get_logger

router = APIRouter(route_class=AccessRoute, tags=["limits and budgets"])


class LimitWords(Body):
    """A limit in the words of `egret limits set`, with its scope; null is every one."""

    limit: Annotated[str, Field(max_length=100, examples=["requests/minute=600"])]
    burst: Annotated[int, Field(ge=1, le=MAX_AMOUNT)] | None = None
    models: Models | None = None
    operations: (
        Annotated[tuple[Annotated[str, Field(max_length=60)], ...], Field(min_length=1)] | None
    ) = None
    time_zone: Annotated[str, Field(max_length=100)] = "UTC"


class LimitSet(Body):
    """All limits of one owner: those that are not among them are removed."""

    limits: Annotated[tuple[LimitWords, ...], Field(max_length=MAX_LIMITS)]


class LimitState(ApiModel):
    """One limit, and its use as the workers count it; nulls while nothing is known."""

    id: str
    level: Level
    owner: str
    limit: str
    measure: Measure
    window: Window
    amount: int
    burst: int | None
    models: tuple[str, ...] | None
    operations: tuple[str, ...] | None
    time_zone: str
    room: int | None = None
    used: int | None = None
    remaining: int | None = None
    resets_at: datetime | None = None
    source: administration.Source | None = None

    @classmethod
    def of(cls, holder: Holder, limit: Limit, live: LiveLimit | None = None) -> Self:
        """Return a limit, with its use if it is known."""
        use: dict[str, Any] = {}
        if live is not None:
            use = {name: getattr(live, name) for name in ("room", "used", "remaining", "source")}
            use["resets_at"] = live.resets_at and datetime.fromtimestamp(live.resets_at, UTC)
        return cls(owner=holder.name, limit=shown(limit), **asdict(limit), **use)


class LimitStates(ApiModel):
    """Limits that hold for one owner; `away` says why the shared counts are not known, if so."""

    limits: list[LimitState]
    away: str | None


class BudgetState(ApiModel):
    """A budget in its present period, in US dollars; no `projected` in its first hour."""

    id: str
    level: Level
    owner: str
    owner_id: str
    limit: str
    window: Window
    models: tuple[str, ...] | None
    operations: tuple[str, ...] | None
    time_zone: str
    starts_at: datetime
    resets_at: datetime
    amount_usd: str
    spent_usd: str
    projected_usd: str | None
    runs_out_at: datetime | None
    thresholds_passed: tuple[int, ...]

    @classmethod
    def of(cls, one: SpentBudget) -> Self:
        """Return the state of a budget with the spend of its period."""
        holder = one.holder
        return cls(id=one.limit.id, owner=holder.name, owner_id=holder.id, **one.exact())


class UnreadableLimits(ApiModel):
    """An owner whose stored limits this version cannot read; no worker lets its keys in."""

    level: Level
    owner: str
    owner_id: str
    problem: str
    hint: str


_State = TypeVar("_State", LimitState, BudgetState)


class OwnersPage(Page[_State], Generic[_State]):
    """A page of whole owners; `unreadable` are those on it whose limits cannot be read."""

    unreadable: list[UnreadableLimits]


_View = Annotated[Access, requires(Permission.VIEW)]
_ManageLimits = Annotated[Access, requires(Permission.MANAGE_LIMITS)]


@router.get("/organizations/{organization}/limits")
async def show_organization_limits(
    access: _View, organization: str, response: Response
) -> LimitSet:
    """Show the limits that are set for an organization itself."""
    return await _set_at(access, Owner(Level.ORGANIZATION, organization), response)


@router.put("/organizations/{organization}/limits")
async def set_organization_limits(
    access: Annotated[Access, requires(Permission.MANAGE_ORGANIZATIONS)],
    organization: str,
    body: LimitSet,
    request: Request,
    response: Response,
) -> LimitSet:
    """Replace the limits of an organization."""
    return await _replace(access, Owner(Level.ORGANIZATION, organization), body, request, response)


@router.get("/organizations/{organization}/teams/{team}/limits")
async def show_team_limits(
    access: _View, organization: str, team: str, response: Response
) -> LimitSet:
    """Show the limits that are set for a team itself."""
    return await _set_at(access, Owner(Level.TEAM, f"{organization}/{team}"), response)


@router.put("/organizations/{organization}/teams/{team}/limits")
async def set_team_limits(
    access: _ManageLimits,
    organization: str,
    team: str,
    body: LimitSet,
    request: Request,
    response: Response,
) -> LimitSet:
    """Replace the limits of a team."""
    return await _replace(
        access, Owner(Level.TEAM, f"{organization}/{team}"), body, request, response
    )


@router.get("/keys/{key_id}/limits")
async def show_key_limits(access: _View, key_id: str, response: Response) -> LimitSet:
    """Show the limits that are set for a key itself."""
    return await _set_at(access, Owner(Level.KEY, key_id), response)


@router.put("/keys/{key_id}/limits")
async def set_key_limits(
    access: _ManageLimits, key_id: str, body: LimitSet, request: Request, response: Response
) -> LimitSet:
    """Replace the limits of a key."""
    return await _replace(access, Owner(Level.KEY, key_id), body, request, response)


@router.get("/keys/{key_id}/limits/state")
async def show_key_limit_state(access: _View, key_id: str) -> LimitStates:
    """Show how the limits of a key, its team and its organization stand now."""
    return await _state(access, Owner(Level.KEY, key_id))


@router.get("/organizations/{organization}/teams/{team}/limits/state")
async def show_team_limit_state(access: _View, organization: str, team: str) -> LimitStates:
    """Show how the limits of a team and its organization stand now."""
    return await _state(access, Owner(Level.TEAM, f"{organization}/{team}"))


@router.get("/organizations/{organization}/limits/state")
async def show_organization_limit_state(access: _View, organization: str) -> LimitStates:
    """Show how the limits of an organization stand now."""
    return await _state(access, Owner(Level.ORGANIZATION, organization))


@router.get("/limits", response_model=list[LimitState] | OwnersPage[LimitState])
async def list_limits(
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    paging: ChosenPage,
    organization: Annotated[str | None, Query(max_length=63)] = None,
) -> Response:
    """List the limits of all owners that the caller may view, or of one organization's.

    All limits of one owner are on one page. A page names the owners whose limits this version
    cannot read; they are logged, and only a request for that very owner is refused.
    """
    owner = await _chosen(access, organization)
    found = await administration.holders_of_limits(
        access.connection,
        owner,
        within=access.within(Permission.VIEW),
        after=paging.place(owner_place),
        most=paging.rows,
    )
    _log_unreadable(found)

    def listed() -> list[LimitState] | OwnersPage[LimitState]:
        states = [[LimitState.of(holder, limit) for limit in holder.limits] for holder in found]
        return _by_owner(paging, found, states)

    return await json_answer(Any, listed)


@router.get("/budgets", response_model=list[BudgetState] | OwnersPage[BudgetState])
async def list_budgets(
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    paging: ChosenPage,
    organization: Annotated[str | None, Query(max_length=63)] = None,
    team: TeamPath = None,
    key: Annotated[str | None, Query(max_length=12)] = None,
) -> Response:
    """List the budgets of the present period, by the records of usage, with a forecast.

    Of all owners that the caller may view, or of one and those that it holds. All budgets of one
    owner are on one page. A page names the owners whose limits this version cannot read; they are
    logged, and only a request for that very owner is refused.
    """
    owner = await _chosen(access, organization, team, key)
    holders = await administration.holders_of_limits(
        access.connection,
        owner,
        measure=Measure.COST,
        within=access.within(Permission.VIEW),
        after=paging.place(owner_place),
        most=paging.rows,
    )
    _log_unreadable(holders)
    found = await administration.budgets_of(access.connection, holders, now=time.time())

    def listed() -> list[BudgetState] | OwnersPage[BudgetState]:
        states: dict[str, list[BudgetState]] = {one.id: [] for one in holders}
        for one in found:
            states[one.holder.id].append(BudgetState.of(one))
        return _by_owner(paging, holders, list(states.values()))

    return await json_answer(Any, listed)


def owner_place(after: str) -> tuple[str, str]:
    """Return the name and the id of the owner at the end of a page."""
    name, owner_id = after.split(" ")
    return name, owner_id


def _log_unreadable(holders: Sequence[Holder]) -> None:
    for one in holders:
        if one.unreadable is not None:
            get_logger().warning("admin.limits_unreadable", reason=one.unreadable.problem)


def _by_owner(
    paging: Paging, holders: Sequence[Holder], states: Sequence[list[_State]]
) -> list[_State] | OwnersPage[_State]:
    """Return the *states* of each of *holders*, or as many whole owners as a page has room for."""
    if paging.limit is None:
        return list(bounded(list(chain.from_iterable(states))))
    ends = list(accumulate(map(len, states)))
    shown = max(1, bisect_right(ends, paging.limit))
    # Owners without readable limits fill no page, so that all that were read may be on it.
    has_more = shown < len(holders) or len(holders) == paging.rows
    last = holders[shown - 1] if has_more else None
    return OwnersPage(
        items=list(chain.from_iterable(states[:shown])),
        next=None if last is None else f"{last.name} {last.id}",
        unreadable=[
            UnreadableLimits(
                level=one.level, owner=one.name, owner_id=one.id,
                problem=one.unreadable.problem, hint=one.unreadable.hint,
            )
            for one in holders[:shown]
            if one.unreadable is not None
        ],
    )  # fmt: skip


async def _chosen(
    access: Access, organization: str | None, team: str | None = None, key_id: str | None = None
) -> Owner | None:
    """Return the owner that a request names, if it does and its own limits can be read."""
    owner = await _named(access, organization, team, key_id)
    if owner is not None:
        await administration.owned_limits(access.connection, owner)
    return owner


async def _named(
    access: Access, organization: str | None, team: str | None, key_id: str | None
) -> Owner | None:
    if key_id is not None:
        if organization is not None or team is not None:
            problem = "`key` goes without `organization` and `team`"
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, problem)
        await find_key_owner(access, key_id)
        return Owner(Level.KEY, key_id)
    if team is not None:
        await find_owner(access, *team_names(team, organization))
        return Owner(Level.TEAM, team)
    if organization is not None:
        await find_owner(access, organization)
        return Owner(Level.ORGANIZATION, organization)
    return None


async def _set_at(access: Access, owner: Owner, response: Response) -> LimitSet:
    found = await administration.owned_limits(access.connection, owner, locks=False)
    return tagged(response, _words(found))


async def _replace(
    access: Access, owner: Owner, body: LimitSet, request: Request, response: Response
) -> LimitSet:
    def change(before: OwnedLimits) -> tuple[Limit, ...]:
        check_match(request, _words(before))
        return tuple(
            parse_limit(
                one.limit,
                level=owner.level,
                owner=before.owner_id,
                selectors=Selectors(**one.model_dump(exclude={"limit"})),
            )
            for one in body.limits
        )

    try:
        found = await administration.change_limits(access.connection, owner, change)
    except LimitWordsError as error:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, f"limits: {error}") from None
    prefix = "" if owner.level is Level.KEY else f"{owner.level.value}:"
    access.changed(keys=[f"{prefix}{found.owner_id}"])
    return tagged(response, _words(found))


def _words(found: OwnedLimits) -> LimitSet:
    return LimitSet.model_construct(
        limits=tuple(LimitWords.model_construct(**written(one)) for one in found.limits)
    )


async def _state(access: Access, owner: Owner) -> LimitStates:
    """Return the states of *owner*'s limits and of those above that the caller may view."""
    connection = access.connection
    holders = [
        one
        for one in await administration.readable_holders_for(connection, owner)
        if access.allows(Permission.VIEW, one.organization_id, one.team_id)
    ]
    found = await administration.live_limits(
        connection, access.settings.valkey, holders, now=time.time()
    )
    return LimitStates(
        limits=[LimitState.of(one.holder, one.limit, one) for one in found.limits], away=found.away
    )
