from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sidecar.cli.main import command_tree
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database

COUNTS = ("teams", "keys", "active_keys", "alert_routes", "tokens")


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
            3,
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
            3,
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
    egret.prepare("orgs create acme", "teams create search --org acme")

    assert egret(*arguments.split()) == Ran(code, "", error)


def test_one_that_is_there_already_is_left_as_it_is(egret: Egret) -> None:
    """`--if-missing` exits with 0 and shows the one that is there."""
    organization = egret("orgs", "create", "acme", "--model", "gpt-*", "-o", "json").json
    team = egret("teams", "create", "search", "--org", "acme", "-o", "json").json

    for command, there in (("orgs create acme", organization),
                           ("teams create search --org acme", team)):  # fmt: skip
        ran = egret(*command.split(), "--if-missing", "--model", "o?", "-o", "json")
        assert (ran.code, ran.json) == (0, there)
        assert ran.err == "It exists already; nothing was changed.\n"
    assert egret("orgs", "create", "zoo", "--if-missing").code == 0


def test_names_and_models_change_and_ids_stay(egret: Egret) -> None:
    organization = egret("orgs", "create", "acme", "--model", "gpt-*", "-o", "json").json
    team = egret("teams", "create", "search", "--org", "acme", "-o", "json").json

    renamed = egret("orgs", "set", "acme", "--name", "labs", "-o", "json").json
    opened = egret("orgs", "set", "labs", "--any-model", "-o", "json").json
    narrowed = egret(
        "teams", "set", "labs/search", "--name", "find", "--model", "o?", "-o", "json"
    ).json

    assert renamed == organization | {"name": "labs"}
    assert opened == renamed | {"allowed_models": None}
    assert narrowed == team | {"team": "labs/find", "allowed_models": ["o?"]}


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        ("orgs set acme", 2, "there is nothing to change; see --help for options"),
        ("orgs set acme --name zoo", 3, "organization zoo exists already; choose another name"),
        ("teams set search --name chat", 3, "team chat exists already; choose another name"),
        (
            "orgs set nope --name x",
            1,
            "there is no organization nope; create it with `egret orgs create`",
        ),
        (
            "teams set acme/nope --name x",
            1,
            "there is no team acme/nope; create it with `egret teams create`",
        ),
        (
            "orgs set acme --model x --any-model",
            2,
            "--model and --any-model exclude each other; choose one",
        ),
    ],
)
def test_a_change_that_cannot_be_made_is_said_in_one_line(
    egret: Egret, arguments: str, code: int, error: str
) -> None:
    for command in (
        "orgs create acme", "orgs create zoo", "teams create search --org acme",
        "teams create chat --org acme",
    ):  # fmt: skip
        egret(*command.split())

    assert egret(*arguments.split()) == Ran(code, "", f"error: {error}\n")


@pytest.mark.parametrize(
    "arguments",
    [
        "orgs create zoo --model",
        "orgs set acme --model",
        "teams create chat --org acme --model",
        "teams set acme/search --model",
        "keys create --team acme/search --name ci --model",
    ],
)
@pytest.mark.parametrize("glob", ["", "a\tb", "a" * 201], ids=["empty", "control", "long"])
def test_a_glob_that_can_be_no_models_is_refused_and_the_installation_stays_readable(
    egret: Egret, arguments: str, glob: str
) -> None:
    egret.prepare("orgs create acme", "teams create search --org acme")
    before = egret("export")

    ran = egret(*arguments.split(), glob)

    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith(f"error: {glob[:60]!r} is no model: write a name or a glob")
    assert egret("export") == before
    assert before.code == 0


def test_an_owner_is_deleted_with_its_dependents_only_if_asked_to(egret: Egret) -> None:
    egret.prepare(
        "orgs create acme", "teams create search --org acme", "teams create chat --org acme",
        "keys create --team search --name laptop", "keys create --team search --name phone",
    )  # fmt: skip
    key_id = egret("keys", "list", "-o", "json").json[0]["key_id"]
    assert egret("keys", "revoke", key_id).code == 0

    refused = egret("orgs", "delete", "acme", "--yes")
    unasked = egret("teams", "delete", "search", "--cascade")
    team = egret("teams", "delete", "search", "--cascade", "--yes")
    empty = egret("teams", "delete", "acme/chat", "--yes", "-o", "json")
    egret("teams", "create", "search", "--org", "acme")
    for name, role in (("ci", "operator:acme"), ("bot", "viewer:acme/search")):
        assert egret("admin", "create-token", name, "--grant", role).code == 0
    organization = egret("orgs", "delete", "acme", "--cascade", "--yes", "-o", "json")

    assert refused == Ran(
        1,
        "",
        "error: it still has 2 teams and 2 keys (1 active); delete them first,"
        " or pass --cascade (`cascade=true` in the API)\n",
    )
    assert (unasked.code, "pass --yes" in unasked.err) == (2, True)
    assert (team.code, team.err) == (
        0,
        "Deleted team search with 2 keys (1 active). This is stored; no worker is running.\n",
    )
    assert empty.json == {"team": "acme/chat", **dict.fromkeys(COUNTS, 0)}
    assert empty.err == "Deleted team acme/chat. This is stored; no worker is running.\n"
    assert organization.json == {
        "organization": "acme", **dict.fromkeys(COUNTS, 0), "teams": 1, "tokens": 2
    }  # fmt: skip
    assert organization.err.startswith(
        "Deleted organization acme with 1 team and 2 API tokens. This "
    )
    for kind in ("orgs", "teams", "keys"):
        assert egret(kind, "list", "-o", "json").json == []


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


def test_a_change_on_a_standby_is_refused_with_the_way_to_the_primary(
    egret: Egret, database: Database
) -> None:
    """As after a failover; reading goes on."""
    asyncio.run(
        database.execute(
            f'ALTER DATABASE "{database.name}" SET default_transaction_read_only = on'
        )
    )
    assert egret("orgs", "list").code == 0
    assert egret("orgs", "create", "acme") == Ran(
        1,
        "",
        "error: the database is read-only, as a standby is; let EGRET_POSTGRES__DSN lead to the"
        " primary; of several hosts in it, `?target_session_attrs=primary` chooses it\n",
    )


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
    ("dsn", "error"),
    [
        pytest.param(
            "postgresql://hunter3:hunter2@/{database}?host={sockets}",
            'PostgreSQL refused the login (role "hunter3" does not exist); correct user or'
            " password in EGRET_POSTGRES__DSN, or the file of EGRET_POSTGRES__DSN_FILE",
            id="a missing role",
        ),
        pytest.param(
            "postgresql://postgres:hunter2@/nowhere?host={sockets}",
            'there is no such database (database "nowhere" does not exist); create it, or correct'
            " EGRET_POSTGRES__DSN, or the file of EGRET_POSTGRES__DSN_FILE",
            id="a missing database",
        ),
    ],
)
def test_an_answer_of_postgresql_is_not_reported_as_none(
    database: Database, dsn: str, error: str
) -> None:
    """The error names the user or the database, never the password."""
    dsn = dsn.format(database=database.name, sockets=database.server.socket_directory)

    assert Egret(dsn)("orgs", "list") == Ran(1, "", f"error: {error}\n")


def test_a_host_without_an_address_is_named() -> None:
    """Without its port, which may be a password with a slash in it."""
    ran = Egret("postgresql://egret.invalid:1234/hunter2@db/egret")("orgs", "list")

    assert (ran.code, "1234" in ran.err, "hunter2" in ran.err) == (1, False, False)
    assert ran.err.startswith("error: the host of PostgreSQL is not known (egret.invalid: ")


def test_a_connection_to_the_default_says_that_no_dsn_is_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("EGRET_POSTGRES__DSN", raising=False)
    monkeypatch.setenv("PGHOST", str(tmp_path))

    ran = CliRunner().invoke(command_tree(("orgs", "list")), ("orgs", "list"))

    assert ran.stderr.startswith("error: PostgreSQL gave no answer (FileNotFoundError: ")
    assert ran.stderr.endswith(
        "; EGRET_POSTGRES__DSN is not set; set it to postgresql://user:password@host/database,"
        " or as `make run` prints it\n"
    )


def test_a_missing_file_of_the_dsn_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("EGRET_POSTGRES__DSN", raising=False)
    monkeypatch.setenv("EGRET_POSTGRES__DSN_FILE", str(tmp_path / "dsn"))

    ran = CliRunner().invoke(command_tree(("orgs", "list")), ("orgs", "list"))

    assert ran.stderr == (
        "error: the file of EGRET_POSTGRES__DSN_FILE: No such file or directory;"
        " correct the path or the file\n"
    )


@pytest.mark.parametrize(
    "dsn",
    [
        pytest.param("mysql://egret:hunter2@db/egret", id="another database"),
        pytest.param("postgresql://egret:12#hunter2@db/egret", id="a password not encoded"),
        pytest.param("postgresql://egret:a/hunter2@db/egret", id="a slash in it"),
        pytest.param("postgresql://egret:hunter2@db..local/egret", id="no name of a host"),
        pytest.param("postgresql://egret:hunter2@db:65536/egret", id="no port"),
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
