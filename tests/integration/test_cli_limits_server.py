"""`egret --server URL limits` and `budget`: with the rows of the same commands on the database."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.support.admin_server import ByServer
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database


async def test_limits_and_budgets_are_administered_by_the_server(
    by_server: ByServer, database: Database
) -> None:
    """With the rows of the same commands on the database."""

    def here(*words: str) -> asyncio.Future[Ran]:
        return asyncio.ensure_future(asyncio.to_thread(Egret(database.dsn), *words))

    await by_server("orgs", "create", "acme")
    await by_server("teams", "create", "search", "--org", "acme")
    team = ("--team", "acme/search")
    made = await by_server(
        "limits", "set", *team, "requests/minute=600", "cost/month=2.5", "--model", "gpt-*"
    )
    await by_server("limits", "set", *team, "requests/minute=60", "--model", "gpt-*")
    listed = [await run("limits", "list", "-o", "json") for run in (by_server, here)]
    own = [await run("limits", "list", *team, "-o", "json") for run in (by_server, here)]
    live = [await run("limits", "show", *team, "-o", "json") for run in (by_server, here)]
    budgets = [await run("budget", "report", *team, "-o", "json") for run in (by_server, here)]
    removed = await by_server("limits", "remove", *team, "requests/minute", "-o", "json")
    mistyped = await by_server("limits", "set", *team, "requests/minute=1", "--operation", "chatt")
    missing = await by_server("limits", "remove", *team, "requests/minute")
    conflicting = await by_server("limits", "set", *team, "cost/minute=1")
    cleared = await by_server("limits", "remove", *team, "--all", "-o", "json")

    assert (made.code, "no price is set" in made.err) == (0, True)
    assert (mistyped.code, "there is no operation 'chatt'" in mistyped.err) == (2, True)
    assert (conflicting.code, "cost goes with day, week" in conflicting.err) == (2, True)
    assert {one["amount"] for one in own[0].json} == {60, 2_500_000}
    for there, local in (listed, own, budgets):
        assert there.json == local.json
    assert {one["used"] for one in live[0].json} == {0, None}
    assert [one["limit"] for one in live[0].json] == [one["limit"] for one in live[1].json]
    assert [one["measure"] for one in removed.json] == ["cost"]
    assert (missing.code, "there is no limit requests/minute" in missing.err) == (1, True)
    assert cleared.json == []


@pytest.mark.parametrize("words", [("limits", "list"), ("budget", "report")], ids=" ".join)
async def test_limits_that_the_server_cannot_read_are_named(
    by_server: ByServer, database: Database, words: tuple[str, ...]
) -> None:
    """As by the same commands on the database."""
    await by_server("orgs", "create", "acme")
    for team in ("search", "sales"):
        await by_server("teams", "create", team, "--org", "acme")
        await by_server("limits", "set", "--team", f"acme/{team}", "cost/month=2.5")
    await database.execute(
        "UPDATE teams SET limits = replace(limits::text, '\"month\"', '\"eon\"')::jsonb"
        " WHERE name = 'search'"
    )
    with capture_logs():  # of the server, which runs in the test's process
        there = await by_server(*words, "-o", "json")
    here = await asyncio.to_thread(Egret(database.dsn), *words, "-o", "json")

    assert "warning: the limits of team acme/search cannot be read" in there.err
    assert (there.code, there.err, len(there.json)) == (0, here.err, 2)
    assert [one["unreadable"] for one in there.json] == [one["unreadable"] for one in here.json]
    assert [one["whose"] for one in there.json] == ["acme/sales", "acme/search"]
