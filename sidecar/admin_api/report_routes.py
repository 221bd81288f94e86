"""Routes that only read: usage, findings, the audit log, workers."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from typing import Annotated, Final, Literal, Self

from fastapi import APIRouter, Depends, Query, Response

from sidecar.admin import usage_reports
from sidecar.admin.audit_log import AuditEntry, AuditFilter, audit_entries
from sidecar.admin.finding_reports import FindingSum, finding_sums
from sidecar.admin.policy_changes import stored_policy
from sidecar.admin.traffic_reports import LatencyHour, latency_by_hour
from sidecar.admin.usage_reports import By, UsagePoint, UsageSum, usage_csv_text
from sidecar.admin_api.access import Access, ReportRoute, find_owner, requires
from sidecar.admin_api.objects import (
    MAX_ROWS,
    ApiModel,
    Moment,
    Page,
    TeamPath,
    bounded,
    json_answer,
    team_names,
)
from sidecar.admin_api.problems import Problem, not_found
from sidecar.admin_api.roles import Permission
from sidecar.storage.worker_status import reported_workers

router = APIRouter(route_class=ReportRoute, tags=["reports"])

_MONTH: Final = timedelta(days=30)
_MAX_HOURS: Final = timedelta(days=62)

Since = Annotated[Moment | None, Query(description="30 days ago, if not given.")]
Until = Annotated[Moment | None, Query(description="Now, if not given.")]
_View = Annotated[Access, requires(Permission.VIEW, anywhere=True)]
OrganizationName = Annotated[str | None, Query(max_length=63)]


class WorkerState(ApiModel):
    """One worker as it last reported."""

    host: str
    socket: str
    version: str
    policies: dict[str, int]
    silent_seconds: float
    is_live: bool


@dataclass(frozen=True, slots=True)
class ReportScope:
    """The times of a report, and the ids of its owners; None is every one."""

    start: datetime
    end: datetime
    within: tuple[str, ...] | None

    @classmethod
    async def chosen(
        cls,
        access: _View,
        since: Since = None,
        until: Until = None,
        organization: OrganizationName = None,
        team: TeamPath = None,
    ) -> Self:
        """Return the scope that the query of a request chooses."""
        return cls(*period(since, until), await chosen_owners(access, organization, team))

    def check_hours(self) -> None:
        """Check that a row for each hour is not too many.

        Raises:
            Problem: 422.
        """
        if self.end - self.start > _MAX_HOURS:
            raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "hours are for 62 days at most")


_Scope = Annotated[ReportScope, Depends(ReportScope.chosen)]


Largest = Annotated[
    int | None,
    Query(ge=1, le=1000, description="The largest so many; all others as one, `all others`."),
]


@router.get("/usage", response_model=list[UsageSum])
async def sum_usage(
    access: _View, scope: _Scope, by: By = By.TEAM, limit: Largest = None
) -> Response:
    """Sum usage of owners that the caller may view, the dearest first; times are whole hours."""
    sums = await _sums(access, scope, by, limit)
    return await json_answer(list[UsageSum], lambda: sums)


@router.get(
    "/usage.csv",
    response_class=Response,
    responses={200: {"content": {"text/csv": {"schema": {"type": "string"}}}}},
)
async def export_usage(
    access: _View, scope: _Scope, by: By = By.TEAM, limit: Largest = None
) -> Response:
    """Sum usage as `GET /usage` does, as CSV."""
    sums = await _sums(access, scope, by, limit)
    return await csv_answer(sums, heading="name", file=f"usage-by-{by.value}.csv")


@router.get("/usage/points", response_model=list[UsagePoint])
async def list_usage_points(
    access: _View,
    scope: _Scope,
    by: By = By.TEAM,
    unit: Literal["hour", "day"] = "day",
    limit: Largest = None,
) -> Response:
    """Sum usage of every hour or day with any; hours for 62 days at most."""
    if unit == "hour":
        scope.check_hours()
    names = None
    if limit is not None:
        sums = await _sums(access, scope, by, limit)
        names = [one.name for one in sums[:limit]]
    points = await usage_reports.usage_points(
        access.connection, by, since=scope.start, until=scope.end, unit=unit, within=scope.within,
        names=names,
    )  # fmt: skip
    return await json_answer(list[UsagePoint], lambda: points)


async def csv_answer(sums: Sequence[UsageSum], *, heading: str, file: str) -> Response:
    """Return sums as a file of CSV, written beside the loop."""
    return Response(
        await asyncio.to_thread(usage_csv_text, sums, heading=heading),
        media_type="text/csv; charset=utf-8",
        headers={"content-disposition": f'attachment; filename="{file}"'},
    )


async def _sums(
    access: Access, scope: ReportScope, by: By, limit: int | None
) -> Sequence[UsageSum]:
    sums = await usage_reports.usage_sums(
        access.connection, by, since=scope.start, until=scope.end, within=scope.within,
        largest=limit or MAX_ROWS,
    )  # fmt: skip
    return bounded(sums)


@router.get("/findings")
async def sum_findings(
    access: _View,
    scope: _Scope,
    policy: Annotated[str | None, Query(max_length=63)] = None,
    by_team: Annotated[bool, Query(description="A row for each team.")] = False,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[FindingSum]:
    """Sum the findings of guardrails by type and role, the most frequent first; no content.

    Of the owners that the caller may view, or of one of them; times are whole hours.
    """
    sums = await finding_sums(
        access.connection,
        since=scope.start,
        until=scope.end,
        policy=policy,
        limit=limit,
        within=scope.within,
        by_team=by_team,
    )
    if (
        policy is not None
        and not sums
        and access.allows(Permission.VIEW_INSTALLATION)
        and await stored_policy(access.connection, policy) is None
    ):
        # Else an unknown name would read as if its guardrails had found nothing.
        raise not_found("policy")
    return sums


@router.get("/latency")
async def list_latency(access: _View, scope: _Scope) -> list[LatencyHour]:
    """List median and 95th percentile of each hour, for 62 days at most."""
    scope.check_hours()
    return await latency_by_hour(
        access.connection, since=scope.start, until=scope.end, within=scope.within
    )


@router.get("/audit")
async def list_audit_entries(
    access: Annotated[Access, requires(Permission.VIEW_AUDIT, anywhere=True)],
    since: Since = None,
    object_type: Annotated[str | None, Query(max_length=60)] = None,
    object_id: Annotated[str | None, Query(max_length=200)] = None,
    after: Annotated[int | None, Query(ge=1, le=2**62)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> Page[AuditEntry]:
    """List changes of objects whose log the caller may read, the latest first."""
    start, _ = period(since, None)
    wanted = AuditFilter(
        since=start,
        object_type=object_type,
        object_id=object_id,
        before=after,
        within=access.within(Permission.VIEW_AUDIT),
        limit=limit + 1,
    )
    found = list(await audit_entries(access.connection, wanted))
    has_more = len(found) > limit
    return Page(items=found[:limit], next=str(found[limit - 1].id) if has_more else None)


@router.get("/workers")
async def list_workers(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
) -> list[WorkerState]:
    """List the workers that reported within minutes, with the policies that they serve."""
    return [
        WorkerState(
            host=one.host,
            socket=one.socket,
            version=one.version,
            policies=dict(one.policies),
            silent_seconds=round(one.silent_seconds, 1),
            is_live=one.is_live,
        )
        for one in await reported_workers(access.connection)
    ]


def period(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
    """Return the beginning and end of a report.

    Raises:
        Problem: 422, the end is not after the beginning.
    """
    end = until or datetime.now(UTC)
    start = since or end - _MONTH
    if start >= end:
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, "`since` is not before `until`")
    return start, end


async def chosen_owners(
    access: Access, organization: str | None, team: str | None
) -> tuple[str, ...] | None:
    """Return the ids of the owners that a report is about; None is every one.

    Raises:
        Problem: 404, an owner is not there, or the caller may not view it.
    """
    if team is not None:
        await find_owner(access, *team_names(team, organization))
        return (access.team_id or "",)
    if organization is not None:
        await find_owner(access, organization)
        return (access.organization_id or "",)
    return access.within(Permission.VIEW)
