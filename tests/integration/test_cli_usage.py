"""`egret price` and `egret usage` on a real database."""

from __future__ import annotations

import asyncio
import csv
import io
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sidecar.admin.usage_reports import By, usage_points
from sidecar.domain.usage import AnswerEnd, TokenCounts
from sidecar.storage.pool import open_pool
from sidecar.storage.usage_store import PostgresUsage
from tests.support.command_line import Egret
from tests.support.postgres import Database
from tests.support.usage import judged, record

OWNERS = """
INSERT INTO organizations (id, name) VALUES ('org_1', 'acme');
INSERT INTO teams (id, organization_id, name) VALUES
    ('team_1', 'org_1', 'search'), ('team_2', 'org_1', 'ads');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    VALUES ('AAAAAAAAAAA1', sha256('secret'), 'team_1', 'laptop');
"""
NOW = datetime.now(UTC)
HEADER = (
    "requests|refused|failed|input tokens|cached input|output tokens|reasoning|cost usd"
    "|estimated|unpriced"
)


async def fill(database: Database) -> None:
    """Add five requests: of two teams with names, and of one that is gone."""
    await database.execute(OWNERS)
    other = judged(3, team_id="team_2", key_id="BBBBBBBBBBB2", occurred_at=NOW, model=None)
    gone = judged(5, team_id="team_9", organization_id="org_9", occurred_at=NOW)
    async with open_pool(database.settings) as pool:
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        await store.add(
            [
                record(
                    request=judged(1, occurred_at=NOW - timedelta(days=40)),
                    tokens=TokenCounts(input=1),
                ),
                record(
                    request=judged(2, occurred_at=NOW - timedelta(hours=2)),
                    tokens=TokenCounts(1_000_000, 100_000, 200_000, 0, 50_000),
                ),
                record(request=other, response_model="nobody-knows", is_estimated=True),
                record(
                    request=judged(4, occurred_at=NOW),
                    status=403,
                    end=AnswerEnd.REFUSED,
                    tokens=TokenCounts(),
                    response_model=None,
                ),
                record(request=gone, status=502, tokens=TokenCounts(), response_model=None),
            ],
            await store.load_prices(),
        )


async def test_usage_is_reported_by_team_the_dearest_first(
    database: Database, egret: Egret
) -> None:
    """Names where there are any, ids of what is gone; older than asked for stays out."""
    price = ("price", "set", "gpt-4o*", "--input", "2.5", "--output-tokens", "10")
    await asyncio.to_thread(egret, *price, "--cached-input", "1.25", "--from", "2020-01-01")
    await fill(database)
    ran = await asyncio.to_thread(egret, "usage", "report", "--since", "30d")

    assert (ran.code, ran.err) == (0, "")
    assert ran.lines == [
        f"team|{HEADER}",
        "acme/search|2|1|0|1,000,000|200,000|100,000|50,000|3.2500|0|0",
        "acme/ads|1|0|0|100|0|20|0|0.0000|1|1",
        "team_9|1|0|1|0|0|0|0|0.0000|0|0",
    ]


async def test_a_small_cost_is_not_shown_as_zero(database: Database, egret: Egret) -> None:
    """Every row has as many digits as the least cost needs, so that the points align."""
    for model, cost in (("gpt-4o*", "2.5"), ("nobody-knows", "0.15")):
        price = ("price", "set", model, "--input", cost, "--output-tokens", cost)
        await asyncio.to_thread(egret, *price, "--from", "2020-01-01")
    await fill(database)
    ran = await asyncio.to_thread(egret, "usage", "report", "--since", "30d")

    costs = [line.split("|")[8] for line in ran.lines]
    assert costs == ["cost usd", "2.750000", "0.000018", "0.000000"]


@pytest.mark.parametrize(
    ("by", "names"),
    [
        ("organization", ["acme", "org_9"]),
        ("key", ["acme/search/laptop AAAAAAAAAAA1", "BBBBBBBBBBB2", "AAAAAAAAAAA1"]),
        ("model", ["gpt-4o-2024-08-06", "nobody-knows", "(none)"]),
        ("tag", ["(none)"]),
    ],
)
async def test_usage_is_added_up_by_what_was_asked_for(
    database: Database, egret: Egret, by: str, names: list[str]
) -> None:
    """With every field, and exact amounts, for programs."""
    await fill(database)
    ran = await asyncio.to_thread(egret, "usage", "report", "--by", by, "--output", "json")

    assert [row[by] for row in ran.json] == names
    assert sum(row["requests"] for row in ran.json) == 4
    assert {row["cost_usd"] for row in ran.json} == {"0.000000000"}


async def test_the_largest_sums_are_shown_before_one_of_all_others(
    database: Database, egret: Egret
) -> None:
    """The total is that of a whole report."""
    await fill(database)
    report = ("usage", "report", "--by", "model", "-o", "json")
    ran = await asyncio.to_thread(egret, *report, "--top", "1")

    assert [(row["model"], row["requests"]) for row in ran.json] == [
        ("gpt-4o-2024-08-06", 1),
        ("all others", 3),
    ]


@pytest.mark.parametrize("days", [0, 1, 2, 30, 90])
async def test_a_report_of_any_length_has_its_hours_and_no_others(
    database: Database, egret: Egret, days: int
) -> None:
    """And its chart, too. A quarter of Asia/Tokyo begins and ends within a day of UTC."""
    start = datetime(2026, 3, 31, 15, tzinfo=UTC)
    end = start + timedelta(days=days, hours=5)
    within = [start, end - timedelta(seconds=1), *(start + timedelta(days=n) for n in range(days))]
    without = [start - timedelta(seconds=1), start.replace(hour=0), end, end.replace(hour=23)]
    async with open_pool(database.settings) as pool:
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        moments = enumerate((*within, *without))
        records = [record(request=judged(n, occurred_at=at)) for n, at in moments]
        await store.add(records, await store.load_prices())
    span = ("--since", start.isoformat(), "--until", end.isoformat())
    ran = await asyncio.to_thread(egret, "usage", "report", *span, "-o", "json")
    async with database.connect() as connection:
        drawn = [
            await usage_points(connection, By.TEAM, since=start, until=end, unit=unit)
            for unit in ("hour", "day")
        ]

    (row,) = ran.json
    tokens = row["input_tokens"] + row["output_tokens"]
    assert row["requests"] == len(within)
    assert [sum(point.tokens for point in points) for points in drawn] == [tokens] * 2


async def test_a_report_for_a_spreadsheet_has_a_head_line(
    database: Database, egret: Egret
) -> None:
    """Plain numbers."""
    await fill(database)
    ran = await asyncio.to_thread(
        egret, "usage", "report", "--since", "2020-01-01", "--output", "csv"
    )

    rows = list(csv.DictReader(io.StringIO(ran.out)))
    assert [row["team"] for row in rows] == ["acme/search", "acme/ads", "team_9"]
    assert rows[0]["input_tokens"] == "1000001"
    assert rows[0]["cost_usd"] == "0.000000000"


@pytest.mark.parametrize(
    ("model", "cell"),
    [
        ("=1+1", "'=1+1"),
        # Many spreadsheets of Europe separate cells by semicolons, and some take wide signs.
        ("gpt;=1+1", '"gpt;=1+1"'),
        ('gpt;"=1+1', '"gpt;""=1+1"'),
        ("\uff1d1+1", "'\uff1d1+1"),
    ],
)
async def test_a_model_that_a_spreadsheet_would_compute_is_text_in_csv(
    database: Database, egret: Egret, model: str, cell: str
) -> None:
    """Clients name models."""
    formula = record(request=judged(1, model=model), response_model=model)
    async with open_pool(database.settings) as pool:
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        await store.add([formula], await store.load_prices())

    report = "usage", "report", "--since", "2020-01-01", "--by", "model"
    table, exact = [await asyncio.to_thread(egret, *report, "-o", how) for how in ("csv", "json")]

    assert re.search(rf'\n{re.escape(cell)},"?1"?,', table.out)
    assert exact.json[0]["model"] == model


@pytest.mark.parametrize(
    ("suffix", "begin"), [("png", b"\x89PNG\r\n"), ("svg", b"<?xml")], ids=["png", "svg"]
)
async def test_a_chart_is_drawn_beside_the_figures(
    database: Database, egret: Egret, tmp_path: Path, suffix: str, begin: bytes
) -> None:
    """As picture or as drawing; the figures are printed all the same."""
    await fill(database)
    file = tmp_path / f"usage.{suffix}"
    ran = await asyncio.to_thread(egret, "usage", "report", "--chart", str(file))

    assert (ran.code, ran.err) == (0, f"drawn: {file}\n")
    assert len(ran.lines) == 4
    assert (await asyncio.to_thread(file.read_bytes)).startswith(begin)


async def test_a_chart_of_one_hour_says_that_it_is_too_little(
    database: Database, egret: Egret, tmp_path: Path
) -> None:
    """On the first day of an installation; it is drawn all the same."""
    async with open_pool(database.settings) as pool:
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        one = record(request=judged(1, occurred_at=NOW), tokens=TokenCounts(input=1))
        await store.add([one], await store.load_prices())
    file = tmp_path / "usage.svg"
    ran = await asyncio.to_thread(egret, "usage", "report", "--chart", str(file))

    assert ran.code == 0
    assert ran.err == (
        f"drawn: {file}\ntoo little usage for a chart over time: it has 1 bar so far\n"
    )


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("--since", "soon"), 2, "error: --since: 'soon' is no time, write for example"),
        (("--since", "1d", "--until", "2020-01-01"), 2, "error: --since is not before --until"),
        (("--since", "1d", "--until", "2d"), 2, "error: --since is not before --until"),
        (("--until", "never"), 2, "error: --until: 'never' is no time"),
        (("--chart", "usage.gif"), 2, "error: --chart: usage.gif is no .png or .svg"),
        (("--chart", "/nowhere/usage.svg"), 1, "error: /nowhere/usage.svg cannot be written"),
    ],
)
def test_what_cannot_be_reported_is_said_in_one_line(
    egret: Egret, arguments: tuple[str, ...], code: int, said: str
) -> None:
    """With the option that is wrong."""
    ran = egret("usage", "report", *arguments)

    assert (ran.code, ran.err.startswith(said)) == (code, True), ran.err
    assert ran.err.count("\n") == 1


async def test_old_months_are_dropped_and_reports_stay(database: Database, egret: Egret) -> None:
    """Whole months only, and never this one."""
    await database.execute(
        "CREATE TABLE usage_2020_01 PARTITION OF usage"
        " FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')"
    )
    old = judged(1, occurred_at=datetime(2020, 1, 5, tzinfo=UTC))
    async with open_pool(database.settings) as pool:
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        await store.add([record(request=old)], await store.load_prices())
    dropped = await asyncio.to_thread(egret, "usage", "drop", "--keep-months", "13", "-o", "json")
    report = await asyncio.to_thread(
        egret, "usage", "report", "--since", "2020-01-01", "-o", "csv"
    )

    months = datetime.now(UTC).year * 12 + datetime.now(UTC).month - 1 - 25
    oldest = f"{months // 12}-{months % 12 + 1:02}"
    assert [one["dropped"] for one in dropped.json] == [
        "usage_2020_01", f"usage_by_hour before {oldest}", f"latency_by_hour before {oldest}",
    ]  # fmt: skip
    assert report.out.count("team_1") == 1


def test_prices_hold_from_their_date_on(egret: Egret) -> None:
    """The list shows those that hold now; --all what was and what will be."""
    for since, amount in (("2020-01-01", "5"), ("2021-01-01", "2.50"), ("2999-01-01", "1")):
        options = ("--input", amount, "--output-tokens", "0.000001", "--from", since)
        assert egret("price", "set", "gpt-4o", *options).code == 0

    assert egret("price", "list").lines == [
        "model|input|output|cached input|cache write|valid from",
        "gpt-4o|2.5|0.000001|-|-|2021-01-01 00:00:00Z",
    ]
    assert [row["input"] for row in egret("price", "list", "--all", "-o", "json").json] == [
        "1",
        "2.5",
        "5",
    ]


def test_a_price_has_another_one_for_long_prompts(egret: Egret, tmp_path: Path) -> None:
    """From options or a file; the columns are there if a price has them."""
    plain = ("price", "set", "a", "--input", "3", "--output-tokens", "15", "--from", "2020-01-01")
    above = ("--above", "200000", "--input-above", "6", "--output-tokens-above", "22.5")
    table = tmp_path / "prices.csv"
    table.write_text(
        "model,input,output,above_tokens,cached_input_above,valid_from\n"
        "b,1,2,272000,0.50,2020-01-01\n"
        "c,1,2,,,2020-01-01\n"
    )
    alone = [egret(*plain, *above[:2]), egret(*plain, *above[2:])]

    assert egret(*plain, *above).code == 0
    assert egret("price", "import", str(table)).code == 0
    assert egret("price", "list").lines == [
        (
            "model|input|output|cached input|cache write|above tokens|input above|output above"
            "|cached input above|valid from"
        ),
        "a|3|15|-|-|200000|6|22.5|-|2020-01-01 00:00:00Z",
        "b|1|2|-|-|272000|-|-|0.5|2020-01-01 00:00:00Z",
        "c|1|2|-|-|-|-|-|-|2020-01-01 00:00:00Z",
    ]
    assert [ran.code for ran in alone] == [2, 2]
    assert [ran.err.startswith("error: --above: ") for ran in alone] == [True, True]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--input", "cheap"),
        ("--output-tokens", "-1"),
        ("--cached-input", "0.0000001"),
        ("--cache-write-hour", "100000000"),
        ("--output-tokens-above", "nan"),
        ("--above", "99999999999999999999"),
        ("--from", "soon"),
    ],
)
def test_an_option_of_a_price_that_is_wrong_is_named(
    egret: Egret, option: str, value: str
) -> None:
    """Nothing is set then."""
    options = {"--input": "3", "--output-tokens": "15", "--above": "200000", "--input-above": "6"}
    written = [part for pair in (options | {option: value}).items() for part in pair]
    ran = egret("price", "set", "a", *written)

    assert (ran.code, ran.err.startswith(f"error: {option}: ")) == (2, True), ran.err
    assert egret("price", "list", "-o", "json").json == []


def test_a_price_has_another_one_for_a_cache_of_an_hour(egret: Egret, tmp_path: Path) -> None:
    """From options or a file, for long prompts too."""
    options = ("--input", "3", "--output-tokens", "15", "--from", "2020-01-01")
    hour = ("--cache-write", "3.75", "--cache-write-hour", "6")
    above = ("--above", "200000", "--cache-write-hour-above", "12")
    table = tmp_path / "prices.csv"
    table.write_text("model,input,output,cache_write_hour,valid_from\nb,1,2,4,2020-01-01\n")

    assert egret("price", "set", "a", *options, *hour, *above).code == 0
    assert egret("price", "import", str(table)).code == 0
    assert egret("price", "list").lines == [
        (
            "model|input|output|cached input|cache write|cache write hour|above tokens"
            "|cache write hour above|valid from"
        ),
        "a|3|15|-|3.75|6|200000|12|2020-01-01 00:00:00Z",
        "b|1|2|-|-|4|-|-|2020-01-01 00:00:00Z",
    ]


def test_a_price_of_the_same_date_is_replaced(egret: Egret) -> None:
    """A typing error is set right by setting it again."""
    for amount in ("25", "2.5"):
        egret(
            "price", "set", "m", "--input", amount, "--output-tokens", "1", "--from", "2020-01-01"
        )

    assert [row["input"] for row in egret("price", "list", "--all", "-o", "json").json] == ["2.5"]


@pytest.mark.parametrize("amount", ["-1", "much", "NaN", "Infinity", "0.0000001", "1e9"])
def test_what_is_no_amount_is_refused(egret: Egret, amount: str) -> None:
    """Before anything is written."""
    ran = egret("price", "set", "m", f"--input={amount}", "--output-tokens", "1")

    assert (ran.code, ran.out) == (2, "")
    assert ran.err.startswith("error: --input: ")
    assert egret("price", "list", "--all", "-o", "json").json == []


def test_prices_of_a_file_are_set_together(egret: Egret, tmp_path: Path) -> None:
    """CSV or JSON, the same prices."""
    table, objects = tmp_path / "prices.csv", tmp_path / "prices.json"
    table.write_text(
        "model,input,output,cached_input,cache_write,valid_from\n"
        "gpt-4o*,2.5,10,1.25,,2024-05-13\n"
        "claude-*,3,15,0.3,3.75,2024-06-20T00:00:00Z\n"
    )
    objects.write_text(
        '[{"model": "o1", "input": 15, "output": 60.1, "valid_from": "2024-12-17T00:00:00Z"}]'
    )
    assert egret("price", "import", str(table)).err == "2 prices set\n"
    assert egret("price", "import", str(objects)).err == "1 price set\n"

    assert egret("price", "list").lines[1:] == [
        "claude-*|3|15|0.3|3.75|2024-06-20 00:00:00Z",
        "gpt-4o*|2.5|10|1.25|-|2024-05-13 00:00:00Z",
        "o1|15|60.1|-|-|2024-12-17 00:00:00Z",
    ]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("p.csv", "", "no price in here"),
        ("p.csv", "model,input,output\nm,1,x\n,1,1\n", "line 2: output: "),
        ("p.csv", "model,input,output,colour\nm,1,1,red\n", "colour: is not a known field"),
        ("p.csv", "model,input,output\nm,1,1,1\n", "line 2: more: "),
        (
            "p.csv",
            "model,input,output,input_above\nm,1,1,2\n",
            "line 2: above_tokens: is required by a price above it",
        ),
        (
            "p.csv",
            "model,input,output,above_tokens\nm,1,1,200000\n",
            "line 2: above_tokens: needs a price above it: one of input_above, ",
        ),
        (
            "p.csv",
            "model,input,output\nm,1,1\nn,1,1\nm,1,2\n",
            "line 4: line 2 has a price of the same model from the same time",
        ),
        ("p.json", "{}", "neither a JSON array nor LiteLLM's map of models"),
        ("p.json", "[1]", "row 1 is not an object"),
        ("p.json", "[", "line 1: "),
        pytest.param("p.json", "[" * 100_000, "nested too deeply", id="deep"),
        pytest.param(
            "p.json",
            f'[{{"model": "m", "input": {"9" * 5000}, "output": 1}}]',
            "a number in it is too long",
            id="5000 digits",
        ),
        (
            "p.json",
            '[{"model": "m", "input": 1e99999999999999999999, "output": 1}]',
            "a number in it is too long",
        ),
        (
            "p.json",
            '[{"model": "m", "input": 1, "output": 1, "valid_from": "0001-01-01"}]',
            "not between 1970 and 9998",
        ),
        (
            "p.json",
            '[{"model": "a\\u0000b", "input": 1, "output": 1}]',
            "PostgreSQL does not take a value (invalid byte sequence",
        ),
    ],
)
def test_a_file_with_a_fault_sets_nothing(
    egret: Egret, tmp_path: Path, name: str, text: str, said: str
) -> None:
    """Every faulty row is named."""
    file = tmp_path / name
    file.write_text(text)
    ran = egret("price", "import", str(file))

    assert ran.code == 1
    assert said in ran.err
    assert egret("price", "list", "--all", "-o", "json").json == []
