"""Routes of alerts: their history, the routes that send them, and a test of one."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from sidecar.admin.installation.objects import AlertRouteDocument
from sidecar.admin_api.access import Access, AccessRoute, find_owner, requires
from sidecar.admin_api.objects import ApiModel, Moment
from sidecar.admin_api.problems import not_found
from sidecar.admin_api.roles import Permission
from sidecar.alerts import outbox
from sidecar.alerts.outbox import HistoryEntry

router = APIRouter(route_class=AccessRoute, tags=["alerts"])


class TestMessage(ApiModel):
    """A test that is being sent."""

    message_id: str


class MessageState(ApiModel):
    """The state of a message; without an error it is delivered or still to be sent."""

    is_delivered: bool
    error: str | None


@router.get("/alerts")
async def list_alerts(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    since: Annotated[Moment | None, Query(description="All, if not given.")] = None,
    organization: Annotated[str | None, Query(max_length=63)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[HistoryEntry]:
    """List alerts with the routes that took them, the latest first."""
    if organization is not None:
        await find_owner(access, organization)
    return await outbox.alert_history(
        access.connection, since=since, organization=organization, limit=limit
    )


@router.get("/alerts/routes")
async def list_routes(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
) -> list[AlertRouteDocument]:
    """List the routes of alerts; they are changed as files (`/installation/apply`).

    `secret` is the name of a variable or file, never a value.
    """
    return list(await outbox.alert_routes(access.connection))


@router.get("/alerts/messages/{message_id}")
async def show_message(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)], message_id: str
) -> MessageState:
    """Show whether a message was delivered, and the error of its last attempt."""
    state = await outbox.message_state(access.connection, message_id)
    if state is None:
        raise not_found("message")
    is_delivered, error = state
    return MessageState(is_delivered=is_delivered, error=error)


@router.post("/alerts/routes/{name}/test", status_code=202)
async def test_route(
    access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)], name: str
) -> TestMessage:
    """Send a test by one route, at once even in quiet hours."""
    now = await access.connection.fetchval("SELECT now()")
    return TestMessage(message_id=await outbox.raise_test(access.connection, name, now=now))
