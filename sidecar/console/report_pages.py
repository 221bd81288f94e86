"""Pages that only read: usage with its CSV, findings, the audit log, and the doctor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, Response

from sidecar.admin.audit_log import AuditFilter, audit_entries
from sidecar.admin.diagnostics import CheckState, Use, check_postgres, check_usage, check_valkey
from sidecar.admin.finding_reports import finding_sums, recorded_requests
from sidecar.admin.usage_reports import (
    REST,
    By,
    Order,
    UsagePoint,
    usage_points,
    usage_sums,
)
from sidecar.admin_api.access import Access, ReportRoute, requires
from sidecar.admin_api.objects import MAX_ROWS, bounded
from sidecar.admin_api.report_routes import csv_answer
from sidecar.admin_api.roles import Permission
from sidecar.console.forms import chosen
from sidecar.console.rendering import render
from sidecar.storage.migrate import AUDITED_TABLES
from sidecar.storage.worker_status import reported_workers

SPANS: Final = {
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
    "30d": timedelta(days=30),
    "90d": timedelta(days=90),
    "365d": timedelta(days=365),
}
HOURLY_UP_TO: Final = timedelta(days=3)
"""A chart of longer than this has a point a day."""
MOST_SERIES: Final = 5
"""More could not be distinguished by colour; the rest is drawn as one."""
COST: Final = "cost"
_BY_TEAM: Final = "team"
MOST_ROWS: Final = 500
MOST_ENTRIES: Final = 200
router = APIRouter(route_class=ReportRoute, include_in_schema=False)
_View = Annotated[Access, requires(Permission.VIEW, anywhere=True)]
_ViewInstallation = Annotated[Access, requires(Permission.VIEW_INSTALLATION)]


@router.get("/usage")
async def usage(
    request: Request,
    access: _View,
    by: By = By.TEAM,
    span: str = "7d",
    measure: Literal["cost", "tokens"] = COST,
) -> HTMLResponse:
    """Show usage by one dimension: a chart over time, and the sums."""
    since, until = _times(span)
    unit = "hour" if until - since <= HOURLY_UP_TO else "day"
    within = access.within(Permission.VIEW)
    sums = await usage_sums(
        access.connection, by, since=since, until=until, within=within, largest=MOST_ROWS,
        order=Order.COST if measure == COST else Order.TOKENS,
    )  # fmt: skip
    names = [one.name for one in sums[:MOST_SERIES]]
    points = await usage_points(
        access.connection, by, since=since, until=until, unit=unit, within=within, names=names
    )
    series = [*names, REST] if any(one.name == REST for one in points) else names
    return render(
        request,
        access,
        "usage.html",
        by=by,
        dimensions=[(one.value, one.value) for one in By],
        span=span,
        spans=[(one, one) for one in SPANS],
        measure=measure,
        sums=sums,
        has_more=len(sums) > MOST_ROWS,
        series=series,
        points=charted(points, series, measure=measure),
        since=since,
        until=until,
    )


@router.get("/usage.csv")
async def usage_csv(access: _View, by: By = By.TEAM, span: str = "7d") -> Response:
    """Return all sums as CSV with exact amounts."""
    since, until = _times(span)
    sums = await usage_sums(
        access.connection, by, since=since, until=until, within=access.within(Permission.VIEW),
        largest=MAX_ROWS,
    )  # fmt: skip
    name = f"usage-by-{by.value}-{since:%Y%m%d}-{until:%Y%m%d}.csv"
    return await csv_answer(bounded(sums), heading=by.value, file=name)


def charted(
    points: Sequence[UsagePoint], series: Sequence[str], *, measure: str
) -> list[tuple[datetime, list[float]]]:
    """Return the values of each series at each time, 0 where there was nothing."""
    values: defaultdict[datetime, dict[str, float]] = defaultdict(dict)
    for point in points:
        values[point.began_at][point.name] = float(
            point.cost_usd if measure == COST else point.tokens
        )
    return [(at, [values[at].get(name, 0.0) for name in series]) for at in sorted(values)]


def _times(span: str) -> tuple[datetime, datetime]:
    now = datetime.now(UTC)
    return now - chosen({"span": span}, "span", SPANS), now


@router.get("/findings")
async def findings(
    request: Request, access: _View, span: str = "7d", policy: str = "", by: str = ""
) -> HTMLResponse:
    """Show how often each guardrail found which type, by team if asked; never a text."""
    since, _ = _times(span)
    connection, within = access.connection, access.within(Permission.VIEW)
    found = await finding_sums(
        connection,
        since=since,
        policy=policy or None,
        limit=MOST_ROWS,
        within=within,
        by_team=by == _BY_TEAM,
    )
    by_guardrail: defaultdict[tuple[str | None, str], int] = defaultdict(int)
    for one in found:
        by_guardrail[one.team, one.guardrail] += one.requests
    return render(
        request,
        access,
        "findings.html",
        findings=found,
        most=max(by_guardrail.values(), default=1),
        by_guardrail=sorted(by_guardrail.items(), key=lambda one: (-one[1], str(one[0]))),
        requests=await recorded_requests(connection, since=since, within=within),
        by=by,
        groups=[("", "all teams together"), (_BY_TEAM, "each team")],
        span=span,
        spans=[(one, one) for one in SPANS],
        policy=policy,
    )


@router.get("/audit")
async def audit(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW_AUDIT, anywhere=True)],
    kind: str = "",
    object_id: str = "",
    span: str = "30d",
) -> HTMLResponse:
    """Show the latest changes, by object and time."""
    since, _ = _times(span)
    wanted = AuditFilter(
        since=since,
        object_type=kind or None,
        object_id=object_id.strip() or None,
        within=access.within(Permission.VIEW_AUDIT),
        limit=MOST_ENTRIES,
    )
    return render(
        request,
        access,
        "audit.html",
        changes=await audit_entries(access.connection, wanted),
        chosen={"kind": kind, "object_id": object_id, "span": span},
        kinds=[("", "any"), *((one, one) for one in AUDITED_TABLES)],
        spans=[(one, one) for one in SPANS],
        most=MOST_ENTRIES,
    )


@router.get("/doctor")
async def doctor(request: Request, access: _ViewInstallation) -> HTMLResponse:
    """Check the databases, and show each worker as it last reported."""
    settings = access.settings
    checks = (
        *await check_postgres(
            settings.postgres, use=Use.CONSOLE, listens=settings.cache.invalidation.listens
        ),
        await check_usage(settings.postgres, settings.usage.source, use=Use.CONSOLE),
        *await check_valkey(settings.valkey),
    )
    tones: Mapping[CheckState, str] = {
        CheckState.OK: "good",
        CheckState.WARNING: "warn",
        CheckState.FAILED: "alarm",
        CheckState.SKIPPED: "",
    }
    return render(
        request,
        access,
        "doctor.html",
        checks=[(one, tones[one.state]) for one in checks],
        workers=await reported_workers(access.connection),
    )
