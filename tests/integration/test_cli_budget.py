"""`egret budget report` on records of usage in a real database."""

from __future__ import annotations

import asyncio
import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from sidecar.domain.usage import TokenCounts
from sidecar.storage.pool import open_pool
from sidecar.storage.usage_store import PostgresUsage
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database
from tests.support.usage import judged, record


@pytest.fixture
def egret(egret: Egret) -> Egret:
    egret.prepare(
        "orgs create acme",
        "orgs create other",
        "teams create search --org acme",
        "teams create ads --org acme",
        "price set gpt-4o* --input 1 --output-tokens 1 --from 2020-01-01",
        "limits set --org acme cost/month=10 requests/minute=5",
        "limits set --org other cost/day=1",
        "limits set --team acme/search cost/month=1 --model gpt-*",
        "limits set --team acme/ads requests/day=5",
    )
    return egret


@pytest.fixture
def key_id(egret: Egret) -> str:
    created = egret("keys", "create", "--team", "search", "--name", "backend", "-o", "json")
    egret("limits", "set", "--key", created.json["key_id"], "cost/week=0")
    return str(created.json["key_id"])


async def spend(database: Database, key_id: str, **tokens: int) -> None:
    """Record a request of the key now, and a dearer one of 40 days ago."""
    async with database.connect() as connection:
        ids = await connection.fetchrow(
            "SELECT id, organization_id FROM teams WHERE name = 'search'"
        )
    assert ids is not None
    now = datetime.now(UTC)
    requests = [
        judged(number, occurred_at=at, key_id=key_id, team_id=ids[0], organization_id=ids[1])
        for number, at in enumerate((now, now - timedelta(days=40)))
    ]
    async with open_pool(database.settings) as pool:
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        await store.add(
            [
                record(request=requests[0], tokens=TokenCounts(**tokens)),
                record(request=requests[1], tokens=TokenCounts(input=9_000_000)),
            ],
            await store.load_prices(),
        )


async def report(egret: Egret, *words: str) -> Ran:
    ran = await asyncio.to_thread(egret, "budget", "report", *words)
    assert ran.code == 0, ran.err
    return ran


async def test_budgets_of_this_period_are_reported_with_what_is_spent(
    database: Database, egret: Egret, key_id: str
) -> None:
    """Of all owners; what was spent before the period does not count, nor do other limits."""
    await spend(database, key_id, input=920_000)
    ran = await report(egret, "-o", "json")

    fields = ("level", "whose", "limit", "spent_usd", "spent_percent", "thresholds_passed")
    assert [tuple(row[name] for name in fields) for row in ran.json] == [
        ("organization", "acme", "cost/month=10.00", "0.920000", 9, []),
        ("team", "acme/search", "cost/month=1.00", "0.920000", 92, [50, 80, 90]),
        ("key", "acme/search/backend", "cost/week=0.00", "0.920000", 100, [50, 80, 90, 95]),
        ("organization", "other", "cost/day=1.00", "0.000000", 0, []),
    ]
    month = datetime.fromisoformat(ran.json[0]["starts_at"])
    assert (month.day, month.hour, month.minute) == (1, 0, 0)


async def test_the_end_of_a_period_is_projected_from_its_rate_so_far(
    database: Database, egret: Egret, key_id: str
) -> None:
    """And when the money will be gone, if it will."""
    await spend(database, key_id, input=500_000)
    row = (await report(egret, "--team", "acme/search", "-o", "json")).json[0]

    starts_at, resets_at = (datetime.fromisoformat(row[at]) for at in ("starts_at", "resets_at"))
    passed = datetime.now(UTC) - starts_at
    if passed < timedelta(hours=1):  # a period that young tells nothing
        assert (row["projected_usd"], row["runs_out_at"]) == (None, None)
        return
    projected = Decimal("0.5") * Decimal((resets_at - starts_at) / passed)
    assert Decimal(row["projected_usd"]) == pytest.approx(projected, rel=Decimal("0.01"))
    if projected <= 1:
        assert row["runs_out_at"] is None
    else:
        gone_at = datetime.fromisoformat(row["runs_out_at"])
        assert abs(gone_at - (starts_at + 2 * passed)) < timedelta(minutes=1)


@pytest.mark.parametrize(
    ("words", "whose"),
    [
        (("--org", "acme"), ["acme", "acme/search", "acme/search/backend"]),
        (("--team", "search"), ["acme/search", "acme/search/backend"]),
        (("--team", "ads"), []),
    ],
    ids=["organization", "team", "team without"],
)
@pytest.mark.usefixtures("key_id")
async def test_an_owner_is_reported_with_whom_it_holds(
    egret: Egret, words: tuple[str, ...], whose: list[str]
) -> None:
    """A budget of a team says little without those of its keys."""
    assert [row["whose"] for row in (await report(egret, *words, "-o", "json")).json] == whose


async def test_a_budget_that_cannot_be_read_hides_no_budget_of_another_owner(
    database: Database, egret: Egret
) -> None:
    """Its owner is named; a report of that very owner fails."""
    await database.execute(
        "UPDATE teams SET limits = replace(limits::text, '\"month\"', '\"eon\"')::jsonb"
    )

    table, of_programs, sheet = [
        await report(egret, "-o", output) for output in ("table", "json", "csv")
    ]
    own = await asyncio.to_thread(egret, "budget", "report", "--team", "search")

    for ran in (table, of_programs, sheet):
        assert "warning: the limits of team acme/search cannot be read" in ran.err
    assert len(table.lines) == len(sheet.lines) == 1 + 2
    rows = of_programs.json
    assert [(one["whose"], one["spent_usd"]) for one in rows] == [
        ("acme", "0.000000"),
        ("other", "0.000000"),
        ("acme/search", None),
    ]
    assert rows[2]["id"].startswith("team_")
    assert rows[2]["unreadable"].startswith("the limits of team acme/search cannot be read")
    assert len({frozenset(one) for one in rows}) == 1
    assert (own.code, "cannot be read" in own.err) == (1, True)


async def test_a_revoked_key_is_reported_only_if_it_is_asked_for(
    egret: Egret, key_id: str
) -> None:
    """Its budget holds for nobody any more."""
    revoked = await asyncio.to_thread(egret, "keys", "revoke", key_id)
    assert revoked.code == 0, revoked.err
    assert len((await report(egret, "--team", "search", "-o", "json")).json) == 1
    assert len((await report(egret, "--key", key_id, "-o", "json")).json) == 1


async def test_reports_are_written_for_people_and_for_spreadsheets(
    database: Database, egret: Egret, key_id: str
) -> None:
    """Both name the same budgets."""
    await spend(database, key_id, input=920_000)
    table = await report(egret, "--team", "search")
    sheet = await report(egret, "--team", "search", "-o", "csv")

    cells = table.lines[1].split("|")
    assert cells[:4] == ["team acme/search", "cost/month=1.00", "gpt-*", "0.92"]
    assert cells[4].endswith("92 %")
    assert cells[6] == "50 %, 80 %, 90 %"
    first = next(csv.DictReader(io.StringIO(sheet.out)))
    assert (first["whose"], first["spent_usd"], first["thresholds_passed"]) == (
        "acme/search", "0.920000", "50 80 90",
    )  # fmt: skip
    assert datetime.fromisoformat(first["resets_at"]) > datetime.now(UTC)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--org", "nobody"), "there is no organization nobody"),
        (("--org", "acme", "--team", "search"), "two are named (team, organization); give one"),
    ],
    ids=["unknown", "two"],
)
async def test_whose_budgets_must_be_clear(
    egret: Egret, words: tuple[str, ...], said: str
) -> None:
    """With what would be right."""
    ran = await asyncio.to_thread(egret, "budget", "report", *words)
    assert ran.code in {1, 2}
    assert said in ran.err
