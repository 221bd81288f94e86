"""Draws the example of `egret usage report` in the README, from a month that is made up.

python -m loadtest.usage.example
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from egret_tools.devstack.databases import running_postgres
from egret_tools.devstack.processes import Children
from egret_tools.devstack.run_directory import run_directory
from pydantic import SecretStr

from loadtest.results import ROOT
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.domain.usage import (
    AnswerEnd,
    DecisionKind,
    JudgedRequest,
    TokenCounts,
    UsageRecord,
)
from sidecar.settings.sections import inherited_environment
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import connect, open_pool
from sidecar.storage.usage_store import PostgresUsage, set_prices
from sidecar.usage.prices import Price

CHART: Final = ROOT / "docs" / "usage.png"
BEGIN: Final = datetime(2026, 10, 1, tzinfo=UTC)
DAYS: Final = 31
ORGANIZATION: Final = "acme"
TEAMS: Final = {"search": 34, "support": 21, "ads": 8}
"""Requests of a working day."""

PRICES: Final = (
    Price(model="gpt-4o*", valid_from=BEGIN, input=Decimal("2.5"), output=Decimal(10)),
    Price(model="claude-*", valid_from=BEGIN, input=Decimal(3), output=Decimal(15)),
)


def made_up(teams: dict[str, tuple[str, str]]) -> Iterator[UsageRecord]:
    """Yield the requests of the month; *teams* are ids of team and organization by name."""
    chance = random.Random(1)  # noqa: S311 - the same picture every time
    for day in range(DAYS):
        is_free = (BEGIN + timedelta(days=day)).weekday() >= 5  # noqa: PLR2004 - Saturday
        for name, usual in TEAMS.items():
            for number in range(int(usual * chance.uniform(0.7, 1.3) * (0.2 if is_free else 1))):
                at = BEGIN + timedelta(days=day, seconds=chance.randrange(86_400))
                yield _record(f"{day}-{name}-{number}", at, teams[name], chance)


def _record(
    request_id: str, at: datetime, owner: tuple[str, str], chance: random.Random
) -> UsageRecord:
    model = chance.choice(["gpt-4o", "gpt-4o", "claude-sonnet"])
    is_refused = chance.random() < 0.03  # noqa: PLR2004 - made up
    tokens = TokenCounts(input=chance.randint(8_000, 40_000), output=chance.randint(500, 4_000))
    return UsageRecord(
        request=JudgedRequest(
            request_id=request_id,
            occurred_at=at,
            key_id=f"key-of-{owner[0]}",
            team_id=owner[0],
            organization_id=owner[1],
            decision=DecisionKind.DENY if is_refused else DecisionKind.ALLOW,
            model=model,
        ),
        status=403 if is_refused else 200,
        end=AnswerEnd.REFUSED if is_refused else AnswerEnd.COMPLETED,
        tokens=TokenCounts() if is_refused else tokens,
        is_estimated=False,
    )


async def _fill(settings: PostgresSettings) -> None:
    await migrate(settings)
    teams: dict[str, tuple[str, str]] = {}
    async with connect(settings) as connection:
        await set_prices(connection, PRICES)
        organization = await create_organization(connection, ORGANIZATION, rules=Rules())
        for name in TEAMS:
            team = await create_team(connection, name, organization=ORGANIZATION, rules=Rules())
            teams[name] = (team.id, organization.id)
    async with open_pool(settings) as pool:
        store = PostgresUsage(pool, settings, batch_seconds=60)
        await store.add(list(made_up(teams)), await store.load_prices())


async def main() -> int:
    """Make the month up, and report it with the command line."""
    with (
        tempfile.TemporaryDirectory(prefix="egret-example-") as place,
        run_directory(Path(place) / "run") as run,
    ):
        async with running_postgres(
            Children(), directory=run.path / "postgres", logs=run.logs
        ) as dsn:
            await _fill(PostgresSettings(dsn=SecretStr(dsn), acquire_seconds=20, query_seconds=60))
            command = (
                *(sys.executable, "-m", "sidecar", "usage", "report", "--by", "team"),
                *("--since", "2026-10-01", "--until", "2026-11-01", "--chart", str(CHART)),
            )
            environment = {**inherited_environment(), "EGRET_POSTGRES__DSN": dsn}
            done = await asyncio.to_thread(
                subprocess.run, command, env=environment, cwd=ROOT, check=False
            )
            return done.returncode


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
