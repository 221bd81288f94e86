from __future__ import annotations

import re

import pytest

from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database


@pytest.fixture
def egret(database: Database) -> Egret:
    return Egret(database.dsn)


def masked(ran: Ran) -> list[str]:
    """Lines with what differs from run to run put away."""
    return [
        re.sub(
            r"(org|team)_[0-9a-f]{32}",
            r"\1_ID",
            re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", "TIME", line),
        )
        for line in ran.lines
    ]


def test_an_organization_and_its_team_are_created_and_listed(egret: Egret) -> None:
    """Create shows what was made; list shows everything."""
    created = egret("orgs", "create", "acme", "--model", "gpt-*", "--model", "o?")
    egret("orgs", "create", "zoo")
    team = egret("teams", "create", "search", "--org", "acme")
    egret("teams", "create", "search", "--org", "zoo")

    assert (created.code, created.err) == (0, "")
    assert masked(created) == [
        "name|acme",
        "id|org_ID",
        "enabled|yes",
        "policy|-",
        "allowed models|gpt-*, o?",
        "created at|TIME",
    ]
    assert masked(team) == [
        "team|acme/search",
        "id|team_ID",
        "enabled|yes",
        "policy|-",
        "allowed models|-",
        "created at|TIME",
    ]
    assert masked(egret("orgs", "list")) == [
        "name|id|enabled|policy|allowed models|created at",
        "acme|org_ID|yes|-|gpt-*, o?|TIME",
        "zoo|org_ID|yes|-|-|TIME",
    ]
    assert masked(egret("teams", "list")) == [
        "team|id|enabled|policy|allowed models|created at",
        "acme/search|team_ID|yes|-|-|TIME",
        "zoo/search|team_ID|yes|-|-|TIME",
    ]


def test_lists_are_json_for_programs(egret: Egret) -> None:
    """Every field under its name, lists as lists, nothing as null."""
    created = egret("orgs", "create", "acme", "--model", "gpt-*", "--output", "json").json
    team = egret("teams", "create", "search", "--org", "acme", "-o", "json").json

    assert set(created) == {"name", "id", "enabled", "policy", "allowed_models", "created_at"}
    assert (created["name"], created["policy"], created["allowed_models"]) == (
        "acme",
        None,
        ["gpt-*"],
    )
    assert egret("orgs", "list", "-o", "json").json == [created]
    assert egret("teams", "list", "--org", "acme", "-o", "json").json == [team]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        pytest.param(
            "orgs create acme",
            1,
            "error: organization acme exists already; choose another name\n",
            id="organization twice",
        ),
        pytest.param(
            "orgs create Acme",
            1,
            "error: organization Acme is not an accepted name; lower case letters, digits, "
            "dots, dashes and underscores, at most 63\n",
            id="capitals",
        ),
        pytest.param(
            "orgs create other --policy nope",
            1,
            "error: there is no policy nope; apply it first with `egret policy apply -f FILE`\n",
            id="no such policy",
        ),
        pytest.param(
            "teams create search --org acme",
            1,
            "error: team acme/search exists already; choose another name\n",
            id="team twice",
        ),
        pytest.param(
            "teams create search --org nope",
            1,
            "error: there is no organization nope; create it with `egret orgs create`\n",
            id="no such organization",
        ),
        pytest.param(
            "teams list --org nope",
            1,
            "error: there is no organization nope; create it with `egret orgs create`\n",
            id="list of no such organization",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    egret: Egret, arguments: str, code: int, error: str
) -> None:
    """What is wrong, then what would be right; nothing on standard output."""
    egret("orgs", "create", "acme")
    egret("teams", "create", "search", "--org", "acme")

    assert egret(*arguments.split()) == Ran(code, "", error)


def test_a_team_without_an_organization_is_wrong_usage(egret: Egret) -> None:
    """Exit code 2, and the missing option is named."""
    ran = egret("teams", "create", "search")

    assert (ran.code, "--org" in ran.err) == (2, True)


def test_a_database_without_a_schema_is_told_from_one_that_is_down(
    empty_database: Database,
) -> None:
    """The hint is `egret migrate`, and after it the command works."""
    egret = Egret(empty_database.dsn)

    assert egret("orgs", "list") == Ran(
        1, "", "error: the database has no schema for this version; run `egret migrate`\n"
    )
    assert egret("migrate").code == 0
    assert egret("orgs", "list").code == 0


def test_an_unreachable_database_is_one_line_without_the_password() -> None:
    """No traceback, no DSN."""
    ran = Egret("postgresql://egret:hunter2@127.0.0.1:1/egret")("orgs", "list")

    assert (ran.code, ran.out, ran.err.count("\n"), "hunter2" in ran.err) == (1, "", 1, False)
    assert ran.err.startswith("error: PostgreSQL gave no answer (ConnectionRefusedError: ")
    assert ran.err.endswith(
        "; check that it runs and that EGRET_POSTGRES__DSN, or the file of"
        " EGRET_POSTGRES__DSN_FILE, leads to it\n"
    )


@pytest.mark.parametrize(
    "dsn",
    [
        pytest.param("mysql://egret:hunter2@db/egret", id="another database"),
        pytest.param("postgresql://egret:12#hunter2@db/egret", id="a password not encoded"),
        pytest.param("postgresql://egret:a/hunter2@db/egret", id="a slash in it"),
        pytest.param("hunter2", id="no URL"),
    ],
)
def test_a_dsn_that_is_none_is_not_repeated(dsn: str) -> None:
    """What cannot be parsed may be a password."""
    assert Egret(dsn)("orgs", "list") == Ran(
        2,
        "",
        "error: EGRET_POSTGRES__DSN is not a URL of the form "
        "postgresql://user:password@host/database (percent-encode special characters of the "
        "password); correct it\n",
    )


def test_a_wrong_setting_is_named(monkeypatch: pytest.MonkeyPatch, egret: Egret) -> None:
    """The variable, and exit code 2."""
    monkeypatch.setenv("EGRET_POSTGRES__POOL_SIZE", "many")

    ran = egret("orgs", "list")

    assert (ran.code, ran.out, "EGRET_POSTGRES__POOL_SIZE" in ran.err) == (2, "", True)


def test_migrations_are_shown_applied_and_checked(empty_database: Database) -> None:
    """Pending is exit code 1 with --check, --sql applies nothing, applied once nothing is left."""
    egret = Egret(empty_database.dsn)

    before = egret("migrate", "--check")
    statements = egret("migrate", "--sql")
    applied = egret("migrate", "--output", "json")
    again = egret("migrate")

    assert (before.code, before.lines[0]) == (1, "revision|summary")
    assert (statements.code, "CREATE TABLE api_keys" in statements.out) == (0, True)
    assert (applied.code, applied.json[0]["revision"]) == (0, "0001")
    assert again == Ran(0, "", "The schema is up to date.\n")
    assert egret("migrate", "--check").code == 0


@pytest.mark.parametrize(
    "command",
    [
        "migrate",
        "orgs create",
        "orgs list",
        "teams create",
        "teams list",
        "keys create",
        "keys list",
        "keys show",
        "keys revoke",
        "keys rotate",
        "keys expire",
        "policy apply",
        "policy show",
        "policy list",
        "policy diff",
        "policy bind",
        "policy unbind",
        "keys enable",
        "keys disable",
        "teams enable",
        "teams disable",
        "orgs enable",
        "orgs disable",
        "audit list",
        "keys import",
        "keys export",
        "doctor",
    ],
)
def test_every_command_has_an_example(command: str) -> None:
    """`--help` needs no database and shows a line to copy."""
    ran = Egret("")(*command.split(), "--help")

    assert (ran.code, f"egret {command}" in ran.out.split("Example:")[1]) == (0, True)
