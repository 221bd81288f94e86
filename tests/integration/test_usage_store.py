from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import asyncpg
import pytest
from msgspec.structs import replace

from sidecar.admin.usage_reports import By, usage_sums
from sidecar.domain.limits import Level, Limit, Measure, Window
from sidecar.domain.usage import AnswerEnd, DecisionKind, TokenCounts
from sidecar.storage.pool import open_pool
from sidecar.storage.usage_store import (
    AMOUNT_COLUMNS,
    Asked,
    PostgresTotals,
    PostgresUsage,
    list_prices,
    totals_of,
)
from sidecar.usage.prices import Price, PriceList
from tests.support.postgres import Database, logged_in
from tests.support.usage import MOMENT, judged, record

PRICES = PriceList(
    [Price(model="gpt-4o*", valid_from=MOMENT, input=Decimal("2.5"), output=Decimal(10))]
)
KEY = "AAAAAAAAAAA1"
SUMS = (
    "began_at, model, requests, refused, failed, estimated, unpriced, input_tokens,"
    " cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost_usd"
)


@pytest.fixture
async def store(database: Database) -> AsyncIterator[PostgresUsage]:
    """As the login of a worker, which may do nothing else."""
    async with logged_in(database, "egret_sidecar") as settings, open_pool(settings) as pool:
        yield PostgresUsage(pool, settings, batch_seconds=20)


async def rows(database: Database, query: str) -> list[tuple[object, ...]]:
    async with database.server.connect(database.name) as connection:
        return [tuple(row) for row in await connection.fetch(query)]


async def test_a_blocked_answer_counts_as_refused_and_with_its_tokens(
    database: Database, store: PostgresUsage
) -> None:
    """Under the model that was asked for, where nobody knows which one answered."""
    blocked = record(
        request=judged(decision=DecisionKind.DENY),
        status=400,
        end=AnswerEnd.BLOCKED,
        response_model=None,
        tokens=TokenCounts(input=100, output=20),
    )
    assert await store.add([blocked], PRICES) == 1
    sums = "SELECT model, requests, refused, failed, output_tokens FROM usage_by_day"
    assert await rows(database, sums) == [("gpt-4o", 1, 1, 0, 20)]


async def test_a_record_is_kept_with_all_that_is_known_of_it(
    database: Database, store: PostgresUsage
) -> None:
    """Every field that a record has, in its own column."""
    kept = record(
        request=judged(
            decision=DecisionKind.REDACT, guardrails={"pii": "redact"}, is_streamed=True
        ),
        tokens=TokenCounts(
            input=1000,
            output=300,
            cached_input=200,
            cache_write_input=100,
            reasoning=50,
            cache_write_hour=40,
        ),
        is_estimated=True,
        provider_request_id="req_1",
    )
    assert await store.add([kept], PRICES) == 1

    async with database.server.connect(database.name) as connection:
        row = await connection.fetchrow("SELECT * FROM usage")
    assert dict(row or {}) == {
        "occurred_at": MOMENT,
        "request_id": "request-1",
        "key_id": "AAAAAAAAAAA1",
        "team_id": "team_1",
        "organization_id": "org_1",
        "operation": "chat",
        "provider": "openai",
        "request_model": "gpt-4o",
        "response_model": "gpt-4o-2024-08-06",
        "status": 200,
        "decision": "redact",
        "guardrails": '{"pii": "redact"}',
        "input_tokens": 1000,
        "cached_input_tokens": 200,
        "cache_write_tokens": 100,
        "output_tokens": 300,
        "reasoning_tokens": 50,
        "is_estimated": True,
        "cost_usd": Decimal("0.005500000"),
        "latency_ms": 250.0,
        "first_token_ms": 125.0,
        "ended": "completed",
        "is_streamed": True,
        "provider_request_id": "req_1",
        "cache_write_hour_tokens": 40,
    }


async def test_a_record_counts_once_however_often_it_comes(
    database: Database, store: PostgresUsage
) -> None:
    """Twice in a batch, in two batches, and in two batches at once."""
    assert await store.add([record(1), record(1), record(2)], PRICES) == 2
    assert await store.add([record(1), record(2), record(3)], PRICES) == 1

    for table in ("usage_by_hour", "usage_by_day"):
        assert await rows(database, f"SELECT sum(requests), sum(input_tokens) FROM {table}") == [  # noqa: S608
            (3, 300)
        ]


async def test_sums_are_kept_by_hour_and_day(database: Database, store: PostgresUsage) -> None:
    """Refused and failed requests count, and have no model of their own."""
    later = judged(3, occurred_at=MOMENT + timedelta(hours=1))
    await store.add(
        [
            record(1, tokens=TokenCounts(8, 4, 2, 1, 3), is_estimated=True),
            record(
                2, status=403, end=AnswerEnd.REFUSED, tokens=TokenCounts(), response_model=None
            ),
            record(request=later, status=502, tokens=TokenCounts(), response_model=None),
            record(request=replace(later, request_id="request-4"), response_model="unknown-model"),
        ],
        PRICES,
    )

    hour = datetime(2026, 11, 25, 9, tzinfo=UTC)
    cost = Decimal("0.000060000")
    assert await rows(database, f"SELECT {SUMS} FROM usage_by_hour ORDER BY 1, 2") == [  # noqa: S608
        (hour, "", 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, Decimal(0)),
        (hour, "gpt-4o-2024-08-06", 1, 0, 0, 1, 0, 8, 2, 1, 4, 3, cost),
        (hour + timedelta(hours=1), "", 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, Decimal(0)),
        (
            hour + timedelta(hours=1),
            *("unknown-model", 1, 0, 0, 0, 0, 100, 0, 0, 20, 0, Decimal("0.000450000")),
        ),
    ]
    assert await rows(
        database, "SELECT began_at, sum(requests)::int FROM usage_by_day GROUP BY 1"
    ) == [(datetime(2026, 11, 25, tzinfo=UTC), 4)]


@pytest.mark.parametrize("minutes", [30, 45, 60], ids=["Kolkata", "Kathmandu", "a whole hour"])
async def test_use_since_a_time_within_an_hour_has_nothing_from_before(
    database: Database, store: PostgresUsage, minutes: int
) -> None:
    """Midnight is at half past six in the afternoon (UTC), or a quarter past, in some zones."""
    midnight = MOMENT.replace(minute=0, second=0, microsecond=0) + timedelta(minutes=minutes)
    others = {"key_id": "AAAAAAAAAAA2", "team_id": "team_2"}
    moments = [(-1, {}), (0, {}), (0, others), (14, {}), (200, {}), (-3_600, {}), (3_600, others)]
    moments += [(86_400 * 2, {}), (86_400 * 30, others), (-86_400, {}), (3_600 * 20, {})]
    await store.add(
        [
            record(
                request=judged(n, occurred_at=midnight + timedelta(seconds=s), **owner),
                response_model=None if n % 2 else "gpt-4o-2024-08-06",
            )
            for n, (s, owner) in enumerate(moments)
        ],
        PRICES,
    )
    start, found = int(midnight.timestamp()), {}
    async with open_pool(database.settings) as pool:
        totals = PostgresTotals(pool, database.settings)
        for level, subject in (("organization", "org_1"), ("team", "team_2"), ("key", KEY)):
            limit = Limit(
                id=level, level=Level(level), measure=Measure.TOKENS, window=Window.DAY, amount=1
            )
            found[level] = await totals.used(limit, subject=subject, start=start)
    assert found == {"organization": 8 * 120, "team": 3 * 120, "key": 5 * 120}


@pytest.mark.parametrize("since", ["-infinity", "0044-03-15 BC", "infinity", "20000-01-01"])
async def test_a_price_that_begins_beyond_pythons_times_is_read(
    database: Database, store: PostgresUsage, since: str
) -> None:
    """A price of all times is written so by hand; else a worker would read none, and end."""
    await database.execute(
        "INSERT INTO prices (model, valid_from, input_per_million, output_per_million)"
        " VALUES ('old', $1::text::timestamptz, 1, 1), ('new', '2020-01-01', 2, 2)",
        since,
    )
    prices = await store.load_prices()
    listed: list[str] = []
    async with database.server.connect(database.name) as connection:
        after: tuple[str, datetime] | None = None
        while page := await list_prices(connection, after=after, most=1):
            listed += [one.model for one in page]
            after = page[-1].model, page[-1].valid_from

    assert listed == ["new", "old"]
    assert prices.price_of("new", at=MOMENT) is not None
    is_of_before = since in {"-infinity", "0044-03-15 BC"}
    assert (prices.price_of("old", at=MOMENT) is not None) is is_of_before


@pytest.mark.parametrize("column", [one for one in AMOUNT_COLUMNS.values() if "_per_" in one])
async def test_no_price_is_nan(database: Database, column: str) -> None:
    """To PostgreSQL NaN is more than 0; each sum that it is in would be NaN."""
    amounts = {"input_per_million": "1", "output_per_million": "1", column: "NaN"}
    above = 1 if "above" in column else "NULL"
    with pytest.raises(asyncpg.CheckViolationError, match="prices_are_numbers"):
        await database.execute(
            f"INSERT INTO prices (model, above_tokens, {', '.join(amounts)})"  # noqa: S608
            f" VALUES ('one', {above}, {', '.join(map(repr, amounts.values()))})"
        )


async def test_what_has_no_price_is_counted_as_such(
    database: Database, store: PostgresUsage
) -> None:
    """A report must not look complete when it is not."""
    nameless = judged(1, model="nobody-knows")
    await store.add([record(request=nameless, response_model=None)], PRICES)

    assert await rows(database, "SELECT cost_usd, ended FROM usage") == [(None, "completed")]
    assert await rows(database, "SELECT unpriced, cost_usd FROM usage_by_day") == [(1, Decimal(0))]


async def test_what_was_taken_for_lost_and_turns_up_counts_once(
    database: Database, store: PostgresUsage
) -> None:
    """The guess makes room, in the sums as well; a guess never replaces what is known."""
    lost = record(1, end=AnswerEnd.LOST, status=0, is_estimated=True, tokens=TokenCounts(input=7))
    assert await store.add([lost], PRICES) == 1
    assert await store.add([record(1)], PRICES) == 1
    assert await store.add([lost], PRICES) == 0
    assert await store.add([replace(lost, request=judged(2)), record(2)], PRICES) == 1

    assert await rows(database, "SELECT request_id, ended, input_tokens FROM usage") == [
        ("request-1", "completed", 100),
        ("request-2", "completed", 100),
    ]
    assert await rows(
        database,
        "SELECT sum(requests), sum(estimated), sum(failed), sum(input_tokens) FROM usage_by_hour",
    ) == [(2, 0, 0, 200)]


async def test_a_request_that_is_given_up_while_its_record_is_added_counts_as_recorded(
    database: Database, store: PostgresUsage
) -> None:
    """The guess is not there yet when the record looks for it, and commits before it."""
    lost = record(1, end=AnswerEnd.LOST, status=0, is_estimated=True, tokens=TokenCounts(input=7))
    await store.add([lost], PRICES)
    async with database.server.connect(database.name) as other:
        await other.execute("CREATE TEMPORARY TABLE guess AS SELECT * FROM usage")
        await other.execute("DELETE FROM usage")
        async with other.transaction():
            await other.execute("INSERT INTO usage SELECT * FROM guess")
            adding = asyncio.ensure_future(store.add([record(1), record(2)], PRICES))
            async with asyncio.timeout(60):
                while not await other.fetchval(  # noqa: ASYNC110 - a lock tells nobody
                    "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted"
                    " AND pg_backend_pid() = ANY (pg_blocking_pids(pid)))"
                ):
                    await asyncio.sleep(0.02)
    assert await adding == 2

    assert await rows(
        database, "SELECT request_id, ended, input_tokens FROM usage ORDER BY 1"
    ) == [
        ("request-1", "completed", 100),
        ("request-2", "completed", 100),
    ]
    assert await rows(
        database, "SELECT sum(requests), sum(estimated), sum(input_tokens) FROM usage_by_hour"
    ) == [(2, 0, 200)]


async def test_the_store_tells_of_which_requests_it_knows_nothing(store: PostgresUsage) -> None:
    """By time and id together."""
    await store.add([record(1)], PRICES)
    other_time = judged(1, occurred_at=MOMENT + timedelta(microseconds=1))

    assert await store.unknown([judged(1), judged(2), other_time]) == [judged(2), other_time]


async def test_nobody_but_its_owner_can_write_sums(database: Database) -> None:
    """They come from usage alone."""
    for group in ("egret_sidecar", "egret_admin"):
        async with logged_in(database, group) as settings, open_pool(settings) as pool:
            for change in ("DELETE FROM usage_by_day", "UPDATE usage_by_hour SET requests = 0"):
                with pytest.raises(asyncpg.InsufficientPrivilegeError):
                    await pool.execute(change)


async def test_old_months_are_dropped_and_their_sums_stay(
    database: Database, store: PostgresUsage
) -> None:
    """Dropping a partition takes no time; what a report needs is in the sums."""
    async with database.server.connect(database.name) as connection:
        await connection.execute(
            "CREATE TABLE usage_2020_01 PARTITION OF usage"
            " FOR VALUES FROM ('2020-01-01Z') TO ('2020-02-01Z')"
        )
    await store.add([record(request=judged(occurred_at=datetime(2020, 1, 5, tzinfo=UTC)))], PRICES)
    async with database.server.connect(database.name) as connection:
        await connection.execute("SET ROLE egret_admin")
        dropped = await connection.fetchval("SELECT egret_drop_usage(12)")

    assert dropped == ["usage_2020_01"]
    assert await rows(database, "SELECT count(*) FROM usage") == [(0,)]
    assert await rows(database, "SELECT sum(requests) FROM usage_by_day") == [(1,)]


async def test_old_sums_by_hour_are_dropped_and_neither_budgets_nor_reports_change(
    database: Database, store: PostgresUsage
) -> None:
    """A month that is kept is whole, in every time zone; days stay for ever."""
    now = datetime.now(UTC)
    month = now.replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    before = (month - timedelta(days=1)).replace(day=1)  # the last month, which is kept
    moments = [before - timedelta(days=700), before - timedelta(minutes=1), before, month]
    moments += [month - timedelta(hours=14), now]
    await store.add(
        [record(request=judged(n, occurred_at=at)) for n, at in enumerate(moments)], PRICES
    )
    limit = Limit(id="used", level=Level.KEY, measure=Measure.COST, window=Window.MONTH, amount=1)
    starts = [month + timedelta(hours=hours, minutes=30) for hours in range(-15, 15)]
    asked = [Asked(limit, KEY, int(start.timestamp())) for start in starts]
    async with database.connect() as connection:
        days = (By.KEY, before.replace(year=before.year - 3), now + timedelta(days=1))
        used = await totals_of(connection, asked)
        sums = await usage_sums(connection, days[0], since=days[1], until=days[2])
        await connection.execute("SET ROLE egret_admin")
        dropped = await connection.fetchval("SELECT egret_drop_hours(1)")
        again = await connection.fetchval("SELECT egret_drop_hours(1)")

        assert dropped == [
            f"{name} before {before:%Y-%m}" for name in ("usage_by_hour", "latency_by_hour")
        ]
        assert again == []
        assert await totals_of(connection, asked) == used
        assert await usage_sums(connection, days[0], since=days[1], until=days[2]) == sums
    assert await rows(database, "SELECT sum(requests) FROM usage_by_hour") == [(4,)]
    assert await rows(database, "SELECT sum(requests) FROM usage_by_day") == [(6,)]
    assert len({*used}) > 1


async def test_the_use_of_many_limits_is_added_up_as_that_of_each(
    database: Database, store: PostgresUsage
) -> None:
    """In one statement; the function that workers ask adds up parts of an hour alone."""
    records = [
        record(
            request=judged(
                number,
                occurred_at=MOMENT + number * timedelta(minutes=47),
                key_id=f"AAAAAAAAAAA{number % 4}",
                team_id=f"team_{number % 4 % 2}",
                model="gpt-4o" if number % 3 else "claude",
            ),
            response_model=None,
        )
        for number in range(150)
    ]
    await store.add(records, PRICES)
    owners = [(Level.ORGANIZATION, "org_1"), (Level.ORGANIZATION, "org_2")]
    owners += [(Level.TEAM, f"team_{number}") for number in range(3)]
    owners += [(Level.KEY, f"AAAAAAAAAAA{number}") for number in range(5)]
    hour = MOMENT.replace(minute=0, second=0, microsecond=0)
    starts = [
        int((hour + timedelta(hours=hours, minutes=minutes)).timestamp())
        for minutes in (0, 30)
        for hours in (0, 5, 14, 15, 38, 39)
    ]
    asked = [
        Asked(
            Limit(
                id="used",
                level=level,
                measure=measure,
                window=Window.MONTH,
                amount=1,
                models=("gpt-*",),
            ),
            owner,
            start,
        )
        for start in starts
        for level, owner in owners
        for measure in (Measure.COST, Measure.REQUESTS)
    ]
    calls = "SELECT calls FROM pg_stat_xact_user_functions WHERE funcname = 'egret_used'"
    async with (
        open_pool(database.settings) as pool,
        database.server.connect(database.name) as connection,
    ):
        totals = PostgresTotals(pool, database.settings)
        each = [
            await totals.used(one.limit, subject=one.subject, start=one.start) for one in asked
        ]
        async with connection.transaction():
            await connection.execute("SET LOCAL track_functions = 'all'")
            found = await totals_of(connection, asked[: len(asked) // 2])
            assert not await connection.fetchval(calls)
            found += await totals_of(connection, asked[len(asked) // 2 :])
            assert await connection.fetchval(calls) == len(asked) // 2

    assert found == each
    assert len(set(each)) > len(owners)
