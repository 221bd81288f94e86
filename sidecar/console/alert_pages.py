"""The page of alerts: those of late, the routes that took them, and a test of each route."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.alerts.outbox import alert_history, alert_routes, raise_test
from sidecar.console.forms import ChangeRefusal, attempt
from sidecar.console.rendering import render

MOST_ALERTS: Final = 200

router = APIRouter(route_class=AccessRoute, include_in_schema=False)


@router.get("/alerts")
async def listed(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    organization: str = "",
) -> HTMLResponse:
    """Show the latest alerts, each with its messages, and the routes."""
    connection = access.connection
    routes = await attempt(access, lambda: alert_routes(connection))
    return render(
        request,
        access,
        "alerts.html",
        entries=await alert_history(
            connection, organization=organization or None, limit=MOST_ALERTS
        ),
        routes=() if isinstance(routes, ChangeRefusal) else routes,
        refusal=routes if isinstance(routes, ChangeRefusal) else None,
        organization=organization,
        may_manage=access.allows(Permission.MANAGE_INSTALLATION),
    )


@router.post("/alerts/{route}/test")
async def send_test(
    access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)], route: str
) -> Response:
    """Send a test by a route; its outcome appears among the alerts."""
    sent = await attempt(
        access, lambda: raise_test(access.connection, route, now=datetime.now(UTC))
    )
    if isinstance(sent, ChangeRefusal):
        raise Problem(409, sent.problem, hint=sent.hint)
    return RedirectResponse("/alerts", status_code=303)
