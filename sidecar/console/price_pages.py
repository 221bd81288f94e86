"""The page of prices: those that hold now, and a form for a new one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.roles import Permission
from sidecar.console.forms import Refusal, read_fields, valid
from sidecar.console.rendering import render
from sidecar.storage.usage_store import list_prices, set_prices
from sidecar.usage.prices import PriceRow, prices_in_force

router = APIRouter(route_class=AccessRoute, include_in_schema=False)


@router.get("/prices")
async def listed(
    request: Request, access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)]
) -> HTMLResponse:
    """Show the prices that hold now."""
    return await _page(request, access, fields={}, refusal=None)


@router.post("/prices")
async def change(
    request: Request, access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)]
) -> Response:
    """Set the price of a model from now on; recorded usage keeps its cost."""
    fields = await read_fields(request)
    names = PriceRow.model_fields.keys() - {"valid_from"}
    row = valid(PriceRow, {name: fields[name] for name in names if fields.get(name)})
    if isinstance(row, Refusal):
        return await _page(request, access, fields=fields, refusal=row)
    await set_prices(access.connection, [row.to_price(now=datetime.now(UTC))])
    return RedirectResponse("/prices", status_code=303)


async def _page(
    request: Request, access: Access, *, fields: Mapping[str, str], refusal: Refusal | None
) -> HTMLResponse:
    found = await list_prices(access.connection)
    now = datetime.now(UTC)
    return render(
        request,
        access,
        "prices.html",
        prices=prices_in_force(found, now=now),
        later=sum(one.valid_from > now for one in found),
        fields=fields,
        refusal=refusal,
    )
