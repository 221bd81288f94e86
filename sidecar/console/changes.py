"""Watches a change until every worker has it: the query, and the part of a page that polls."""

from __future__ import annotations

import time
from typing import Annotated, Final
from urllib.parse import urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from sidecar.admin.in_force import Barrier, in_force, send_barrier
from sidecar.admin_api.access import Access, AccessRoute, Services, requires
from sidecar.admin_api.roles import Permission
from sidecar.console.rendering import render
from sidecar.storage.worker_status import MAX_TOKEN_CHARACTERS

router = APIRouter(route_class=AccessRoute, include_in_schema=False)

WATCH: Final = "watch"
"""Parameter of a page that shows how far a change has come: the barrier's token."""
_POLICY: Final = "policy"


def watch_query(barrier: Barrier) -> str:
    """Return the query of a page that watches *barrier*; it holds nothing secret."""
    policies = [(_POLICY, f"{name}:{version}") for name, version in barrier.policies.items()]
    return urlencode([(WATCH, barrier.token), *policies])


def see_change(path: str, barrier: Barrier) -> RedirectResponse:
    """Return the way to a page that shows the change and watches it."""
    return RedirectResponse(f"{path}?{watch_query(barrier)}", status_code=303)


def watched_change(request: Request) -> str:
    """Return the query of the change that the page of *request* watches, empty without one."""
    given = [(k, v) for k, v in request.query_params.multi_items() if k in {WATCH, _POLICY}]
    return urlencode(given) if any(name == WATCH for name, _ in given) else ""


@router.get("/in-force")
async def workers_of_change(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW, anywhere=True)],
    watch: Annotated[str, Query(max_length=MAX_TOKEN_CHARACTERS)],
    policy: Annotated[list[str] | None, Query(max_length=100)] = None,
) -> HTMLResponse:
    """Return how many workers have received the change, and poll on while some have not.

    htmx takes a part of a page; a link without it leads to a page. Versions of policies count for
    people who may view them: the numbers would tell others which are in force.
    """
    may_view = access.allows(Permission.VIEW_INSTALLATION)
    versions = {
        name: int(version)
        for name, _, version in (one.partition(":") for one in policy or ())
        if may_view and version.isdecimal() and len(version) < 10  # noqa: PLR2004 - PostgreSQL's integer
    }
    barrier = Barrier(token=watch, policies=versions)
    services: Services = request.app.state.services
    # Sent again, for a worker that lost its connection when the change was made.
    if not services.rates.barriers.wait_seconds(access.person, now=time.monotonic()):
        await send_barrier(access.connection, access.settings, barrier)
    state = await in_force(access.connection, barrier)
    return render(
        request,
        access,
        "in_force.html" if "hx-request" in request.headers else "in_force_page.html",
        watched=watch_query(barrier),
        workers=0 if state is None else len(state.workers),
        late=0 if state is None else state.late,
        silent=0 if state is None else len(state.behind) - state.late,
    )
