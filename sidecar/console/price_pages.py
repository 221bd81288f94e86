"""The page of prices: those that hold now, and a form for a new one."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.installation_routes import show_prices
from sidecar.admin_api.objects import Paging
from sidecar.admin_api.roles import Permission
from sidecar.console.forms import ChangeRefusal, read_fields, valid
from sidecar.console.rendering import render
from sidecar.storage.usage_store import count_later_prices, set_prices
from sidecar.usage.prices import PriceRow

PAGE_SIZE: Final = 200

router = APIRouter(route_class=AccessRoute, include_in_schema=False)


@router.get("/prices")
async def listed(
    request: Request,
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    after: str = "",
) -> HTMLResponse:
    """Show the prices that hold now."""
    return await _page(request, access, fields={}, refusal=None, after=after or None)


@router.post("/prices")
async def change(
    request: Request, access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)]
) -> Response:
    """Set the price of a model from now on; recorded usage keeps its cost."""
    fields = await read_fields(request)
    names = PriceRow.model_fields.keys() - {"valid_from"}
    row = valid(PriceRow, {name: fields[name] for name in names if fields.get(name)})
    if isinstance(row, ChangeRefusal):
        return await _page(request, access, fields=fields, refusal=row)
    await set_prices(access.connection, [row.to_price(now=datetime.now(UTC))])
    return RedirectResponse("/prices", status_code=303)


async def _page(
    request: Request,
    access: Access,
    *,
    fields: Mapping[str, str],
    refusal: ChangeRefusal | None,
    after: str | None = None,
) -> HTMLResponse:
    return render(
        request,
        access,
        "prices.html",
        page=await show_prices(access, Paging(after, PAGE_SIZE)),
        later=await count_later_prices(access.connection, at=datetime.now(UTC)),
        fields=fields,
        refusal=refusal,
    )
