"""The first page: traffic, cost, refusals, latency, health, and the latest changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from sidecar.admin.audit_log import AuditEntry, AuditFilter, audit_entries
from sidecar.admin.traffic_reports import (
    RECENT,
    keys_in_use,
    latency_by_hour,
    latency_since,
    traffic_by_hour,
)
from sidecar.admin.usage_reports import By, usage_sums
from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.roles import Permission
from sidecar.console.rendering import may_somewhere, render
from sidecar.storage.worker_status import reported_workers

DAY: Final = timedelta(hours=24)
MOST_ROWS: Final = 8

router = APIRouter(route_class=AccessRoute, include_in_schema=False)
_View = Annotated[Access, requires(Permission.VIEW, anywhere=True)]


@router.get("/")
async def overview(request: Request, access: _View) -> HTMLResponse:
    """Show the last 24 hours of all that the person may see."""
    connection, within = access.connection, access.within(Permission.VIEW)
    now = datetime.now(UTC)
    teams = await usage_sums(
        connection, By.TEAM, since=now - DAY, until=now, within=within, largest=MOST_ROWS
    )
    changes: Sequence[AuditEntry] = ()
    if may_somewhere(access, Permission.VIEW_AUDIT):
        wanted = AuditFilter(limit=MOST_ROWS, within=access.within(Permission.VIEW_AUDIT))
        changes = await audit_entries(connection, wanted)
    return render(
        request,
        access,
        "overview.html",
        live=await _live(access, now),
        teams=teams[:MOST_ROWS],
        changes=changes,
    )


@router.get("/overview/live")
async def live_part(request: Request, access: _View) -> HTMLResponse:
    """Return the part of the page that is read anew every few seconds."""
    return render(
        request, access, "overview_live.html", live=await _live(access, datetime.now(UTC))
    )


async def _live(access: Access, now: datetime) -> dict[str, Any]:
    connection, within = access.connection, access.within(Permission.VIEW)
    hours = await traffic_by_hour(connection, since=now - DAY, until=now, within=within)
    workers = await reported_workers(connection, policies=())
    return {
        "at": now,
        "hours": hours,
        "latency_hours": await latency_by_hour(
            connection, since=now - DAY, until=now, within=within
        ),
        "requests": sum(hour.requests for hour in hours),
        "refused": sum(hour.refused for hour in hours),
        "failed": sum(hour.failed for hour in hours),
        "tokens": sum(hour.tokens for hour in hours),
        "cost_usd": sum((hour.cost_usd for hour in hours), Decimal()),
        "latency": await latency_since(connection, now - RECENT, within=within),
        "keys_in_use": await keys_in_use(connection, within=within),
        "workers": len(workers),
        "live_workers": sum(one.is_live for one in workers),
        "versions": sorted({one.version for one in workers}),
    }
