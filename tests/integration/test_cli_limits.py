"""`egret limits` as it is typed, on a database."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest

from sidecar.domain.limits import Level, Limit, Measure, Priority, Window
from sidecar.storage.pool import open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from tests.support.command_line import Egret
from tests.support.postgres import Database


@pytest.fixture
def egret(egret: Egret) -> Egret:
    egret.prepare("orgs create acme", "teams create search --org acme")
    return egret


@pytest.fixture
def key_id(egret: Egret) -> str:
    created = egret("keys", "create", "--team", "search", "--name", "backend", "-o", "json")
    return str(created.json["key_id"])


def rows(shown: Any) -> list[tuple[str, Any, Any]]:
    """Return what a list shows: limit, burst, models."""
    return [(row["limit"], row["burst"], row["models"]) for row in shown]


def record_limits(database: Database, key_id: str) -> tuple[tuple[Limit, ...], Priority]:
    """Return what a worker reads of a key, in one statement."""

    async def read() -> tuple[tuple[Limit, ...], Priority]:
        async with open_pool(database.settings) as pool:
            record = await PostgresKeyStore(pool, database.settings).load(key_id)
        assert record is not None
        return record.limits, record.priority

    return asyncio.run(read())


def test_limits_of_a_key_are_shown_by_either_form_of_its_id(egret: Egret, key_id: str) -> None:
    """`limits set` and `list` take --key; two keys at once are none."""
    egret("limits", "set", "--key", key_id, "cost/month=5")
    both = egret("limits", "show", key_id, "--key", key_id)
    shown = egret("limits", "show", "--key", key_id, "-o", "json")

    assert (both.code, both.err) == (2, "error: KEY_ID and --key name two keys; give one\n")
    assert shown.json == egret("limits", "show", key_id, "-o", "json").json
    assert [one["limit"] for one in shown.json] == ["cost/month=5.00"]


def test_limits_are_set_replaced_and_removed(egret: Egret) -> None:
    """One that measures the same for the same is another amount of the same limit."""
    team = ("--team", "acme/search")
    egret("limits", "set", *team, "requests/minute=60", "cost/month=250.5")
    egret("limits", "set", *team, "requests/minute=90", "--burst", "5")
    shown = egret("limits", "set", *team, "tokens/day=1_000_000", "--model", "gpt-*", "-o", "json")
    assert rows(shown.json) == [
        ("requests/minute=90", 5, None),
        ("cost/month=250.50", None, None),
        ("tokens/day=1000000", None, ["gpt-*"]),
    ]
    left = egret("limits", "remove", *team, "cost/month", "-o", "json")
    assert rows(left.json) == rows(egret("limits", "list", *team, "-o", "json").json)
    assert [row["limit"] for row in left.json] == ["requests/minute=90", "tokens/day=1000000"]


def test_limits_that_differ_in_their_time_zone_alone_are_pointed_out(egret: Egret) -> None:
    """Both hold; whoever raised a budget without its zone would wait for that in vain."""
    team = ("--team", "acme/search")
    egret("limits", "set", *team, "cost/month=5", "tokens/day=9", "--time-zone", "Europe/Berlin")
    other = egret("limits", "set", *team, "cost/month=7", "--model", "gpt-*")
    assert "time zone" not in other.err
    both = egret("limits", "set", *team, "cost/month=6")
    assert len(both.lines) == len(egret("limits", "list", *team).lines) == 1 + 4
    assert "cost/month=5.00 and cost/month=6.00 differ in their time zone alone" in both.err
    assert "tokens" not in both.err


def test_a_worker_reads_the_limits_of_all_levels_with_the_key(
    egret: Egret, database: Database, key_id: str
) -> None:
    """And how important the key is."""
    egret("limits", "set", "--key", key_id, "concurrent=4")
    egret("limits", "set", "--team", "search", "requests/second=10")
    egret("limits", "set", "--org", "acme", "cost/day=5", "--time-zone", "Europe/Berlin")
    egret("keys", "set", key_id, "--priority", "batch")
    limits, priority = record_limits(database, key_id)
    assert [(one.level, one.measure, one.window, one.amount, one.time_zone) for one in limits] == [
        (Level.KEY, Measure.CONCURRENT, Window.ONCE, 4, "UTC"),
        (Level.TEAM, Measure.REQUESTS, Window.SECOND, 10, "UTC"),
        (Level.ORGANIZATION, Measure.COST, Window.DAY, 5_000_000, "Europe/Berlin"),
    ]
    assert priority is Priority.BATCH


def test_a_rotated_key_keeps_its_limits(egret: Egret, database: Database, key_id: str) -> None:
    """A new secret is no way out."""
    egret("limits", "set", "--key", key_id, "requests/minute=5")
    egret("keys", "set", key_id, "--priority", "interactive")
    rotated = egret("keys", "rotate", key_id, "-o", "json")
    limits, priority = record_limits(database, rotated.json["key_id"])
    assert [one.amount for one in limits] == [5]
    assert priority is Priority.INTERACTIVE


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["requests/minute"], "has no amount; write for example requests/minute=60"),
        (["requests/minute=1", "requests/minute=2"], "requests/minute is given twice"),
        (["requests/minute=-1"], "is not between 0 and"),
        (["requests/minute=1.5"], "is no whole number"),
        (["requests/minute=many"], "is no amount"),
        (["requests/minute=NaN"], "is no amount"),
        (["requests/minute=1e99999999"], "is not between 0 and"),
        (["requests/minute=1e-99999999"], "is no whole number"),
        (["cost/month=0.0000001"], "is finer than a millionth of a dollar"),
        (["cost/month=1000000.000001"], "is not between 0 and 1000000.00"),
        (["requests/minute=1", "--burst", "2000000000000"], "a burst is between 1 and"),
        (
            ["requests/minute=1", "--operation", "chat", "--operation", "chatt"],
            "there is no operation 'chatt'; there are chat, count_tokens, embeddings, ",
        ),
        (["requests/minute=1", "--operation", ""], "there is no operation ''; there are chat"),
        (["requests/minute=1", "--model", ""], "'' is no model: write a name or a glob"),
        (["rates/minute=1"], "there is no measure `rates`; one of requests"),
        (
            ["requests/hour=1"],
            "there is no window `hour`; requests takes one of second, minute, day;",
        ),
        (["cost/hour=1"], "there is no window `hour`; cost takes one of day, week, month;"),
        (["concurrent/hour=1"], "there is no window `hour`; concurrent takes none;"),
        (["requests/month=1"], "requests goes with second, minute, day, not month"),
        (["cost/minute=1"], "cost goes with day, week, month, not minute"),
        (["concurrent/day=1"], "concurrent has no window; write concurrent=AMOUNT"),
        (["tokens=1"], "tokens needs a window, one of second, minute, day"),
        (["cost/day=1", "--time-zone", "Mars/North"], "there is no time zone Mars/North"),
        (["cost/day=1", "--time-zone", "Factory"], "Factory is the time zone of a machine"),
        (["cost/day=1", "--time-zone", "Europe"], "there is no time zone Europe"),
        (["cost/day=1", "--burst", "2"], "a burst goes with second and minute only"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_is_no_limit_is_explained_and_changes_nothing(
    egret: Egret, words: list[str], said: str
) -> None:
    """Zero is a limit, less than zero is none."""
    egret("limits", "set", "--team", "search", "requests/minute=0")
    ran = egret("limits", "set", "--team", "search", *words)
    assert ran.code == 2
    assert said in ran.err
    shown = egret("limits", "list", "--team", "search", "-o", "json")
    assert rows(shown.json) == [("requests/minute=0", None, None)]


@pytest.mark.parametrize(
    ("target", "code", "said"),
    [
        ((), 2, "no key, team or organization is named; give one of --key, --team and --org"),
        (("--team", "search", "--org", "acme"), 2, "two are named (team, organization); give one"),
        (("--team", "nobody"), 1, "there is no team nobody"),
        (("--org", "nobody"), 1, "there is no organization nobody"),
        (("--key", "AAAAAAAAAAAA"), 1, "there is no key AAAAAAAAAAAA"),
    ],
    ids=["none", "two", "team", "organization", "key"],
)
def test_an_owner_that_is_not_there_is_named(
    egret: Egret, target: tuple[str, ...], code: int, said: str
) -> None:
    """With what would be right."""
    ran = egret("limits", "set", *target, "requests/minute=1")
    assert ran.code == code
    assert said in ran.err


def test_limits_that_cannot_be_read_are_named_in_the_list_of_all(
    egret: Egret, database: Database, key_id: str
) -> None:
    """Such as a newer Egret wrote: of a team and a key, beside those of others."""
    egret("limits", "set", "--org", "acme", "requests/minute=5")
    for statement in ("UPDATE teams SET limits = $1", "UPDATE api_keys SET limits = $1"):
        asyncio.run(database.execute(statement, '[{"measure": "smiles"}]'))

    listed = egret("limits", "list")
    shown = egret("limits", "list", "-o", "json")

    assert (listed.code, shown.code) == (0, 0)
    assert len(listed.lines) == 2
    for ran in (listed, shown):
        assert "warning: the limits of team acme/search cannot be read" in ran.err
        assert f"the limits of key acme/search/backend ({key_id}) cannot be read" in ran.err
    assert [(one["whose"], one["limit"]) for one in shown.json] == [
        ("acme", "requests/minute=5"),
        ("acme/search", None),
        ("acme/search/backend", None),
    ]
    assert shown.json[0]["unreadable"] is None
    assert shown.json[1]["unreadable"].startswith("the limits of team acme/search cannot be read")
    assert len({frozenset(one) for one in shown.json}) == 1


def test_limits_that_cannot_be_read_are_shown_and_can_be_taken_away(
    egret: Egret, database: Database, key_id: str
) -> None:
    """Whatever is stored, it can be repaired without SQL."""
    asyncio.run(database.execute("""UPDATE teams SET limits = '[{"measure": "smiles"}]'"""))
    for words in (
        ("list", "--team", "search"),
        ("set", "--team", "search", "requests/minute=1"),
        ("remove", "--team", "search", "requests/minute"),
        ("show", key_id),
    ):
        ran = egret("limits", *words)
        assert (ran.code, ran.out) == (1, "")
        assert "cannot be read" in ran.err
        assert "`egret limits remove --all`" in ran.err
    assert "smiles" in egret("limits", "list", "--team", "search").err

    assert egret("limits", "remove", "--team", "search", "--all", "-o", "json").json == []
    egret("limits", "set", "--team", "search", "requests/minute=1")
    assert [one.amount for one in record_limits(database, key_id)[0]] == [1]


@pytest.mark.parametrize("words", [(), ("requests/minute", "--all")], ids=["none", "both"])
def test_which_limits_are_taken_away_is_said_once(egret: Egret, words: tuple[str, ...]) -> None:
    """By their names, or all."""
    egret("limits", "set", "--team", "search", "requests/minute=1")
    ran = egret("limits", "remove", "--team", "search", *words)

    assert (ran.code, ran.err) == (2, "error: say which; give limits, or --all\n")
    assert len(egret("limits", "list", "--team", "search", "-o", "json").json) == 1


@pytest.mark.parametrize("name", ["concurrent", "requests/day"])
def test_a_limit_that_is_not_there_is_named_as_it_is_written(egret: Egret, name: str) -> None:
    """A measure without a window has none in the answer either."""
    ran = egret("limits", "remove", "--team", "search", name)

    assert (ran.code, ran.err) == (1, f"error: there is no limit {name}; nothing was changed\n")


async def test_limits_that_cannot_be_read_let_nobody_in(database: Database) -> None:
    """Written by hand, or by a newer Egret: to ignore them would be to lift them."""
    connection = await asyncpg.connect(database.dsn)
    await connection.execute("INSERT INTO organizations (id, name) VALUES ('org_9', 'odd')")
    await connection.execute(
        "INSERT INTO teams (id, organization_id, name, limits)"
        " VALUES ('team_9', 'org_9', 'odd', '[{\"measure\": \"smiles\"}]')"
    )
    await connection.execute(
        "INSERT INTO api_keys (public_id, secret_sha256, team_id, name)"
        " VALUES ('ODDODDODDODD', sha256('x'), 'team_9', 'odd')"
    )
    await connection.close()
    async with open_pool(database.settings) as pool:
        store = PostgresKeyStore(pool, database.settings)
        with pytest.raises(Exception, match="limits that cannot be read"):
            await store.load("ODDODDODDODD")


def test_without_an_owner_all_limits_are_listed_with_theirs(egret: Egret, key_id: str) -> None:
    """Those of organizations, teams and keys, by name; none is an empty list."""
    assert egret("limits", "list", "-o", "json").json == []
    egret("limits", "set", "--key", key_id, "requests/minute=50", "concurrent=2")
    egret("limits", "set", "--org", "acme", "requests/day=100")

    table = egret("limits", "list")
    found = egret("limits", "list", "-o", "json").json

    assert [(row["level"], row["whose"], row["limit"], row["at_once"]) for row in found] == [
        ("organization", "acme", "requests/day=100", None),
        ("key", "acme/search/backend", "requests/minute=50", 5),
        ("key", "acme/search/backend", "concurrent=2", None),
    ]
    assert table.lines[0] == "level|whose|limit|at once|models|operations|time zone"


def test_a_budget_without_any_price_is_warned_of_until_one_is_set(egret: Egret) -> None:
    """Every request would cost nothing, and the budget never end."""
    team = ("--team", "acme/search")
    no_cost = egret("limits", "set", *team, "requests/minute=5")
    warned = [
        egret("limits", "set", *team, "cost/month=250"),
        egret("limits", "list", *team),
        egret("limits", "list"),
    ]
    egret("price", "set", "gpt-5", "--input", "1", "--output-tokens", "2")
    priced = egret("limits", "list", *team)

    assert (no_cost.err, priced.err) == ("", "")
    assert [(ran.code, ran.err) for ran in warned] == [
        (
            0,
            (
                "warning: no price is set, so a budget refuses every request;"
                " run `egret price import FILE` or `egret price set`\n"
            ),
        )
    ] * 3
