"""`egret limits show` on counts that a worker's limits have kept in a real Valkey."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sidecar.domain.limits import Measure
from sidecar.domain.principal import KeyRecord
from sidecar.domain.usage import TokenCounts
from sidecar.limits.limit_check import RequestCost, limit_checks
from sidecar.limits.limiter import Granted, LimitDecision
from sidecar.storage.pool import open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from sidecar.storage.usage_store import PostgresUsage
from tests.support.command_line import Egret, Ran
from tests.support.limits import Records, limiter
from tests.support.live_servers import LiveServer
from tests.support.postgres import Database
from tests.support.usage import judged, record

pytestmark = [pytest.mark.stack, pytest.mark.asyncio(loop_scope="module")]


@pytest.fixture
def socket(server: LiveServer, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = server.program.log.parent / "valkey.sock"
    monkeypatch.setenv("EGRET_VALKEY__URL", f"unix://{path}")
    return path


@pytest.fixture
def egret(egret: Egret) -> Egret:
    egret.prepare("orgs create acme", "teams create search --org acme")
    return egret


@pytest.fixture
def key_id(egret: Egret) -> str:
    created = egret("keys", "create", "--team", "search", "--name", "backend", "-o", "json")
    return str(created.json["key_id"])


async def run(egret: Egret, *words: str) -> Ran:
    """Run a command, which has an event loop of its own."""
    return await asyncio.to_thread(egret, *words)


async def known(database: Database, key_id: str) -> KeyRecord:
    """Return what a worker knows of the key."""
    async with open_pool(database.settings) as pool:
        found = await PostgresKeyStore(pool, database.settings).load(key_id)
    assert found is not None
    return found


async def requests(
    database: Database, key_id: str, socket: Path, *, count: int = 1, used: int = 0, **taken: Any
) -> None:
    """Let a worker's limits grant so many requests of the key; before, *used* was recorded."""
    of_key = await known(database, key_id)
    async with limiter(socket, totals=Records(used)) as worker:
        for number in range(count):
            demand = RequestCost(operation="chat", model="gpt-5", **taken)
            checks = limit_checks(of_key.limits, demand, now=time.time())
            assert isinstance(checks, tuple)
            outcome = await awaited(worker.take(of_key.principal, checks, member=f"r{number}"))
            assert isinstance(outcome, Granted)
            assert not outcome.is_local


async def awaited(outcome: LimitDecision | Awaitable[LimitDecision]) -> LimitDecision:
    return await outcome if isinstance(outcome, Awaitable) else outcome


def standing(ran: Ran) -> dict[tuple[str, str], tuple[Any, Any, str]]:
    """Return used, remaining and source of each limit that was shown, by level and limit."""
    assert ran.code == 0, ran.err
    return {
        (row["level"], row["limit"]): (row["used"], row["remaining"], row["source"])
        for row in ran.json
    }


async def test_every_limit_that_holds_for_a_key_is_shown_as_workers_count_it(
    egret: Egret, database: Database, key_id: str, socket: Path
) -> None:
    """Its own, its team's and its organization's, each in its own kind of count."""
    await run(egret, "limits", "set", "--key", key_id, "concurrent=4", "request_bytes=5000")
    await run(egret, "limits", "set", "--team", "search", "tokens/minute=600", "--burst", "300")
    await run(
        egret, "limits", "set", "--org", "acme", "cost/month=2.5", "--time-zone", "Asia/Tokyo"
    )
    took = {"input_tokens": 50, "output_tokens": 50, "cost": 750_000}
    await requests(database, key_id, socket, count=2, used=500_000, **took)

    shown = await run(egret, "limits", "show", key_id, "-o", "json")

    found = standing(shown)
    used, remaining, source = found.pop(("team", "tokens/minute=600"))
    assert 180 <= used <= 200  # ten a second are free again
    assert (used + remaining, source) == (300, "counts")
    assert found == {
        ("key", "concurrent=4"): (2, 2, "counts"),
        ("organization", "cost/month=2.50"): (2_000_000, 500_000, "counts"),
        ("key", "request_bytes=5000"): (None, None, "none"),
    }
    month = next(row for row in shown.json if row["window"] == "month")
    resets_at = datetime.fromisoformat(month["resets_at"])
    assert (resets_at.hour, resets_at.minute) == (15, 0)  # midnight in Tokyo
    assert shown.json[0]["whose"] == "acme/search/backend"


async def test_looking_at_limits_takes_nothing(
    egret: Egret, database: Database, key_id: str, socket: Path
) -> None:
    """And begins no count."""
    await run(egret, "limits", "set", "--key", key_id, "requests/day=3", "requests/minute=30")
    for _ in range(5):
        shown = await run(egret, "limits", "show", key_id, "-o", "json")
        assert standing(shown) == {
            ("key", "requests/day=3"): (0, 3, "records"),
            ("key", "requests/minute=30"): (0, 3, "counts"),
        }
    await requests(database, key_id, socket, count=3, used=0)
    shown = await run(egret, "limits", "show", key_id, "-o", "json")
    assert standing(shown)["key", "requests/day=3"] == (3, 0, "counts")


async def test_a_team_and_an_organization_are_shown_as_bars(
    egret: Egret, database: Database, key_id: str, socket: Path
) -> None:
    """A key's own limits are not theirs."""
    await run(egret, "limits", "set", "--key", key_id, "requests/day=9")
    await run(egret, "limits", "set", "--team", "search", "requests/day=4", "--model", "gpt-*")
    await run(egret, "limits", "set", "--org", "acme", "requests/day=8")
    await requests(database, key_id, socket, count=3)

    team = await run(egret, "limits", "show", "--team", "acme/search")
    organization = await run(egret, "limits", "show", "--org", "acme")

    assert (team.code, team.err) == (0, "")
    names = [line.split("|")[:3] for line in team.lines]
    assert names == [
        ["whose", "limit", "for"],
        ["team acme/search", "requests/day=4", "gpt-*"],
        ["organization acme", "requests/day=8", "-"],
    ]
    assert "━" in team.out
    assert [" ".join(line.split("|")[3].split()[-2:]) for line in team.lines[1:]] == [
        "75 %",
        "37 %",
    ]
    assert [line.split("|")[4] for line in team.lines[1:]] == ["1 of 4", "5 of 8"]
    assert len(organization.lines) == 2


@pytest.mark.usefixtures("socket")
async def test_a_sliding_limit_says_that_its_room_is_the_burst(egret: Egret, key_id: str) -> None:
    """600 a minute are not 60."""
    await run(egret, "limits", "set", "--key", key_id, "requests/minute=600", "requests/day=900")

    shown = await run(egret, "limits", "show", key_id)

    assert [line.split("|")[4] for line in shown.lines[1:]] == [
        "60 of 60 at once",
        "900 of 900 (by records)",
    ]
    assert shown.err.startswith("at once: the burst, the most that a second or minute allows")


@pytest.mark.parametrize("url", ["unix:///nowhere/valkey.sock", None], ids=["away", "none"])
async def test_without_valkey_periods_are_told_by_the_records(
    egret: Egret,
    database: Database,
    key_id: str,
    monkeypatch: pytest.MonkeyPatch,
    url: str | None,
) -> None:
    """Said aloud; what has no records is not made up."""
    if url is None:
        monkeypatch.delenv("EGRET_VALKEY__URL", raising=False)
    else:
        monkeypatch.setenv("EGRET_VALKEY__URL", url)
    await run(egret, "limits", "set", "--key", key_id, "requests/day=3", "tokens/minute=90")
    of_key = await known(database, key_id)
    request = judged(
        occurred_at=datetime.now(UTC),
        key_id=key_id,
        team_id=of_key.principal.team_id,
        organization_id=of_key.principal.organization_id,
    )
    async with open_pool(database.settings) as pool:
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        prices = await store.load_prices()
        await store.add([record(request=request, tokens=TokenCounts(5, 5))], prices)

    shown = await run(egret, "limits", "show", key_id, "-o", "json")

    assert standing(shown) == {
        ("key", "requests/day=3"): (1, 2, "records"),
        ("key", "tokens/minute=90"): (None, None, "none"),
    }
    assert "warning: Valkey gave no answer" in shown.err
    table = await run(egret, "limits", "show", key_id)
    assert "2 of 3 (by records)" in table.out


@pytest.mark.parametrize(
    ("target", "said"),
    [
        ((), "no key, team or organization is named"),
        (("AAAAAAAAAAAA", "--org", "acme"), "two are named (key, organization); give one"),
        (("AAAAAAAAAAAA",), "there is no key AAAAAAAAAAAA"),
        (("--team", "nobody"), "there is no team nobody"),
        (("--org", "nobody"), "there is no organization nobody"),
    ],
    ids=["none", "two", "key", "team", "organization"],
)
@pytest.mark.usefixtures("socket")
async def test_an_owner_that_is_not_there_is_named(
    egret: Egret, target: tuple[str, ...], said: str
) -> None:
    """With what would be right."""
    ran = await run(egret, "limits", "show", *target)
    assert ran.code in {1, 2}
    assert said in ran.err


@pytest.mark.usefixtures("socket")
async def test_limits_that_cannot_be_read_are_said_to_be_so(
    egret: Egret, database: Database
) -> None:
    """One line, and no traceback."""
    await database.execute('UPDATE teams SET limits = \'[{"measure": "smiles"}]\'')
    ran = await run(egret, "limits", "show", "--team", "search")
    assert ran.code == 1
    assert "cannot be read" in ran.err
    assert Measure.COST.value not in ran.err
