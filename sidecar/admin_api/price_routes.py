"""Routes of prices, which belong to the installation."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from http import HTTPStatus
from typing import Annotated, Final

from fastapi import APIRouter, Query
from pydantic import Field

from sidecar.admin_api.access import Access, AccessRoute, requires
from sidecar.admin_api.objects import ChosenPage, Page
from sidecar.admin_api.problems import Problem
from sidecar.admin_api.roles import Permission
from sidecar.storage.usage_store import list_prices, set_prices
from sidecar.usage.prices import Price, PriceRow

router = APIRouter(route_class=AccessRoute, tags=["prices"])

MAX_PRICES: Final = 10_000


# A class of its own, since its schema is: with one class OpenAPI would have a `PriceRow-Input` and
# a `PriceRow-Output`, and the generated client would rename its type.
class StoredPrice(PriceRow):
    """A price as it is stored: amounts are texts."""


@router.get("/prices")
async def show_prices(
    access: Annotated[Access, requires(Permission.VIEW_INSTALLATION)],
    paging: ChosenPage,
    every: Annotated[bool, Query(alias="all", description="Former and future ones too.")] = False,
) -> list[StoredPrice] | Page[StoredPrice]:
    """List the prices that hold now, by model."""
    found = await list_prices(
        access.connection,
        at=None if every else datetime.now(UTC),
        after=paging.place(_place),
        most=paging.rows,
    )
    return paging.answer(_rows(found), lambda one: f"{one.valid_from}/{one.model}")


def _place(after: str) -> tuple[str, datetime]:
    time, _, model = after.partition("/")
    return model, datetime.fromisoformat(time).replace(tzinfo=UTC)


@router.post("/prices")
async def change_prices(
    access: Annotated[Access, requires(Permission.MANAGE_INSTALLATION)],
    body: Annotated[list[PriceRow], Field(min_length=1, max_length=MAX_PRICES)],
) -> list[StoredPrice]:
    """Set prices, from now on without a time. Recorded usage keeps its cost."""
    now = datetime.now(UTC)
    prices = [one.to_price(now=now) for one in body]
    if len({(one.model, one.valid_from) for one in prices}) < len(prices):
        problem = "two prices of one model begin at the same time; send one of them"
        raise Problem(HTTPStatus.UNPROCESSABLE_ENTITY, problem)
    await set_prices(access.connection, prices)
    return _rows(prices)


def _rows(prices: Iterable[Price]) -> list[StoredPrice]:
    return [StoredPrice.of(one) for one in prices]
