from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from fastapi import FastAPI

from sidecar.admin.usage_reports import REST, By, UsagePoint, usage_points
from sidecar.console.report_pages import charted
from tests.support.console import Visitor, World
from tests.support.postgres import Database


async def test_usage_is_summed_by_team_model_key_and_tag(console: FastAPI, world: World) -> None:
    visitor = await Visitor.of(console, "admin")

    for by, name in (("team", "acme/search"), ("model", "gpt-4o"), ("tag", "env=prod")):
        assert name in await visitor.get(f"/usage?by={by}&span=24h"), by
    assert world.keys[2] in await visitor.get("/usage?by=key")
    await visitor.get("/usage?measure=requests", status=422)


async def test_a_csv_has_exact_amounts_and_no_cell_that_a_spreadsheet_runs(
    console: FastAPI,
) -> None:
    visitor = await Visitor.of(console, "admin")

    answer = await visitor.client.get("/usage.csv?by=team&span=24h")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"].startswith('attachment; filename="usage-by-team')
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    assert [row["team"] for row in rows] == ["globex/lab", "acme/support", "acme/search"]
    assert Decimal(rows[0]["cost_usd"]) == Decimal(21)


async def test_usage_of_other_organizations_is_in_no_page_and_no_csv(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "viewer:globex")

    for by in By:
        for path in (f"/usage?by={by.value}", f"/usage.csv?by={by.value}"):
            page = await visitor.get(path)
            assert "acme" not in page


async def test_findings_are_counts_by_guardrail_and_type(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get("/findings?policy=strict")

    assert "aws_key" in page
    assert "shadow" in page
    assert "No finding" in await visitor.get("/findings?policy=other")


async def test_findings_of_a_team_are_for_its_viewers(console: FastAPI) -> None:
    """By team for all who may see several; of other teams there is no word."""
    every, own = (
        await Visitor.of(console, "admin"),
        await Visitor.of(console, "viewer:acme/search"),
    )

    by_team = await every.get("/findings?by=team")
    of_team = await own.get("/findings?by=team")

    assert "globex/lab" in by_team
    assert "acme/search" in of_team
    assert "email" in of_team
    assert "globex" not in of_team
    assert "aws_key" not in of_team


async def test_the_audit_log_filters_by_kind_and_object(console: FastAPI, world: World) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get(f"/audit?object_id={world.keys[0]}")

    assert world.keys[0] in page
    assert world.keys[1] not in page
    assert "No change." in await visitor.get("/audit?kind=prices")


async def test_pages_of_the_installation_are_not_for_one_organization(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "operator:acme")

    for path in ("/alerts", "/prices", "/doctor", "/policies", "/policies/strict"):
        await visitor.get(path, status=403)
    overview = await visitor.get("/")
    assert 'href="/doctor"' not in overview


async def test_the_audit_log_of_an_organization_is_for_its_operators(console: FastAPI) -> None:
    visitor, lead = await Visitor.of(console, "operator:acme"), await Visitor.of(console, "viewer")

    log, overview = await visitor.get("/audit"), await visitor.get("/")

    for page in (log, overview):
        assert "api_keys" in page
        assert "globex" not in page
        assert "&#34;lab&#34;" not in page
    await lead.get("/audit", status=403)


async def test_the_doctor_shows_checks_and_workers(console: FastAPI) -> None:
    visitor = await Visitor.of(console, "admin")

    page = await visitor.get("/doctor")

    assert "worker-1.sock" in page
    assert "strict" in page
    assert "has the grants that `egret admin` needs" in page
    assert "failed" not in page


def test_a_chart_has_a_value_of_each_series_at_each_time() -> None:
    first, second = (datetime(2026, 1, day, tzinfo=UTC) for day in (1, 2))
    points = [
        UsagePoint(second, "search", 30, Decimal(3)),
        UsagePoint(first, "search", 10, Decimal(1)),
        UsagePoint(second, REST, 50, Decimal(5)),
    ]

    assert charted(points, ["search", REST], measure="cost") == [(first, [1, 0]), (second, [3, 5])]
    assert charted(points, ["search"], measure="tokens") == [(first, [10]), (second, [30])]


async def test_all_but_the_largest_are_one_series(database: Database, world: World) -> None:
    now = datetime.now(UTC)
    since = now - timedelta(hours=24)
    async with database.connect() as connection:
        points = await usage_points(
            connection, By.TEAM, since=since, until=now, unit="hour", names=["globex/lab"]
        )

    assert world.keys
    assert {point.name for point in points} == {"globex/lab", REST}
    assert sum(point.cost_usd for point in points if point.name == REST) == Decimal(21)


@pytest.mark.parametrize(
    "page",
    [
        *(f"/{page}?span=1y" for page in ("usage", "usage.csv", "findings", "audit")),
        "/keys?state=expird",
    ],
)
async def test_a_filter_that_does_not_exist_is_refused(console: FastAPI, page: str) -> None:
    """Other figures, or other keys, would be taken for those that were asked for."""
    visitor = await Visitor.of(console, "admin")

    await visitor.get(page, status=422)
