from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from sidecar.admin.finding_reports import recorded_requests
from sidecar.admin.usage_reports import By, Order, sums_statement, usage_points, usage_sums
from sidecar.domain.usage import AnswerEnd, TokenCounts, UsageRecord
from sidecar.storage.pool import Connection, open_pool
from sidecar.storage.usage_store import PostgresUsage
from sidecar.usage.prices import Price, PriceList
from tests.support.postgres import Database
from tests.support.usage import judged, record

START: Final = datetime(2026, 3, 30, 7, 20, tzinfo=UTC)
HOURS: Final = 90
END: Final = START + timedelta(days=30)
PRICES: Final = PriceList(
    [Price(model="gpt-*", valid_from=START - timedelta(1), input=Decimal(3), output=Decimal(7))]
)
OWNERS: Final = """
INSERT INTO organizations (id, name) VALUES ('org_0', 'acme'), ('org_1', 'globex');
INSERT INTO teams (id, organization_id, name) VALUES ('team_0', 'org_0', 'search'),
    ('team_1', 'org_1', 'search'), ('team_2', 'org_0', 'ads');
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, tags)
SELECT 'AAAAAAAAAAA' || n, sha256(n::text::bytea), 'team_' || n % 3, 'key-' || n,
    (ARRAY['env=prod', 'env=dev'])[1:n % 3] FROM generate_series(0, 5) AS n;
"""
NAMES: Final = {
    By.TEAM: "COALESCE(o.name || '/' || t.name, u.team_id)",
    By.KEY: "COALESCE(o.name || '/' || t.name || '/' || k.name || ' ' || k.public_id, u.key_id)",
    By.ORGANIZATION: "COALESCE(o.name, u.organization_id)",
    By.MODEL: "COALESCE(u.response_model, CASE WHEN u.ended = 'blocked' OR (u.ended <> 'refused'"
    " AND u.status BETWEEN 1 AND 399) THEN u.request_model END, '(none)')",
    By.TAG: "COALESCE(g.tag, '(none)')",
}
OF_ROWS: Final = """
SELECT {name} AS name, count(*) AS requests,
    count(*) FILTER (WHERE ended IN ('refused', 'blocked')) AS refused,
    count(*) FILTER (WHERE ended IN ('failed', 'lost') OR status >= 500) AS failed,
    count(*) FILTER (WHERE is_estimated) AS estimated,
    count(*) FILTER (WHERE cost_usd IS NULL AND input_tokens + output_tokens > 0) AS unpriced,
    sum(input_tokens)::bigint AS input_tokens,
    sum(cached_input_tokens)::bigint AS cached_input_tokens,
    sum(cache_write_tokens)::bigint AS cache_write_tokens,
    sum(output_tokens)::bigint AS output_tokens,
    sum(reasoning_tokens)::bigint AS reasoning_tokens, COALESCE(sum(cost_usd), 0) AS cost_usd
FROM usage AS u LEFT JOIN teams AS t ON t.id = u.team_id
LEFT JOIN organizations AS o ON o.id = u.organization_id
LEFT JOIN api_keys AS k ON k.public_id = u.key_id
LEFT JOIN LATERAL (SELECT unnest(k.tags) AS tag WHERE {by_tag}) AS g ON true
WHERE occurred_at >= date_trunc('hour', $1::timestamptz, 'UTC')
    AND date_trunc('hour', occurred_at, 'UTC') < $2
    AND ($3::text[] IS NULL OR u.organization_id = ANY($3) OR u.team_id = ANY($3))
GROUP BY 1
"""


def made(number: int, choice: random.Random) -> UsageRecord:
    """One of any kind; keys and teams beyond those of `OWNERS` are deleted ones."""
    key = choice.randrange(8)
    end = choice.choice(list(AnswerEnd))
    return record(
        request=judged(
            number,
            occurred_at=START + choice.random() * timedelta(hours=HOURS),
            key_id=f"AAAAAAAAAAA{key}",
            team_id=f"team_{key % 3 if key < 6 else 3}",
            organization_id=f"org_{key % 3 % 2 if key < 6 else 2}",
            model=choice.choice(["gpt-4o", "claude", None]),
        ),
        end=end,
        status=choice.choice([0, 200, 400, 503]),
        response_model=choice.choice(["gpt-4o-1", "claude-1", None]),
        is_estimated=choice.random() < 0.3,
        tokens=TokenCounts(
            input=choice.randrange(1000), output=choice.randrange(1000), reasoning=0
        ),
    )


async def sums_of_rows(
    connection: Connection, by: By, since: datetime, until: datetime, within: list[str] | None
) -> dict[str, dict[str, Any]]:
    statement = OF_ROWS.format(name=NAMES[by], by_tag=by is By.TAG)
    rows = await connection.fetch(statement, since, until, within)
    return {row["name"]: dict(row) for row in rows}


async def test_a_report_is_the_sum_of_the_rows_of_usage(database: Database) -> None:
    """By each dimension and over any span, with requests that come twice, late, or after all.

    A name of which nothing is left, as its only request was lost at first, is a row of zeros.
    """
    choice = random.Random(19)  # noqa: S311 - not for secrets
    records = [made(number, choice) for number in range(400)]
    async with (
        open_pool(database.settings) as pool,
        database.server.connect(database.name) as connection,
    ):
        await connection.execute(OWNERS)
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        for _ in range(3):
            choice.shuffle(records)
            await store.add(records[:200], PRICES)
        found_again = [
            record(request=one.request, status=200) for one in records if choice.random() < 0.5
        ]
        await store.add(found_again, PRICES)
        for number in range(150):
            by = choice.choice(list(By))
            since = START + choice.randrange(-20, HOURS) * timedelta(hours=1, minutes=number % 2)
            until = since + timedelta(hours=choice.randrange(1, 120), minutes=number % 3)
            within = choice.choice([None, None, ["org_0"], ["team_1", "org_2"]])

            sums = await usage_sums(connection, by, since=since, until=until, within=within)
            expected = await sums_of_rows(connection, by, since, until, within)
            points = await usage_points(
                connection, by, since=since, until=until, unit="day", within=within
            )

            assert {one.name: asdict(one) for one in sums if one.requests} == expected
            if by is not By.TAG:
                later = await sums_of_rows(connection, by, since, END, within)
                counted = await recorded_requests(connection, since=since, within=within)
                assert counted == sum(one["requests"] for one in later.values())
            costs = [one.cost_usd for one in sums]
            assert costs == sorted(costs, reverse=True)
            for name, one in expected.items():
                cost = sum(point.cost_usd for point in points if point.name == name)
                assert cost == one["cost_usd"]


def joined_rows(plan: dict[str, Any]) -> Iterator[float]:
    """The rows of every join in a plan."""
    if plan["Node Type"] in {"Hash Join", "Merge Join", "Nested Loop"}:
        yield plan["Actual Rows"]
    for part in plan.get("Plans", ()):
        yield from joined_rows(part)


async def test_the_largest_of_many_keys_alone_have_their_names_looked_up(
    database: Database,
) -> None:
    """A report of a million keys spent most of its time on names that it did not show."""
    async with database.connect() as connection:
        await connection.execute(OWNERS)
        await connection.execute(
            "INSERT INTO usage_by_day SELECT $1, 'AAAAAAAAAAA' || n, 'team_' || n % 3, 'org_' ||"
            " n % 3 % 2, '', n, 0, 0, 0, 0, n, 0, 0, 0, 0, n FROM generate_series(0, 2999) AS n",
            START.replace(hour=0, minute=0) + timedelta(days=1),
        )
        arguments = (START, END, None, 7)
        statement = f"EXPLAIN (ANALYZE, FORMAT JSON) {sums_statement(By.KEY, Order.COST)}"
        (explained,) = json.loads(await connection.fetchval(statement, *arguments))
        sums = await usage_sums(connection, By.KEY, since=START, until=END, largest=7)

    assert max(joined_rows(explained["Plan"])) <= len(sums)
    assert [one.requests for one in sums[:-1]] == list(range(2999, 2992, -1))
    rest, total = sums[-1], sum(range(2993))
    assert (rest.name, rest.requests, rest.input_tokens) == ("all others", total, total)
    assert rest.cost_usd == Decimal(total)
