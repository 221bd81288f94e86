from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.settings.sections import inherited_environment
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database

POLICY = "name: strict\nunscanned: allow\n"
KEY = "AAAAAAAAAAA1"
INSERT_KEY = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name)
    SELECT 'AAAAAAAAAAA1', sha256('secret'), id, 'laptop' FROM teams WHERE name = 'search'
"""
USED = "INSERT INTO key_activity VALUES ('AAAAAAAAAAA1', '2026-01-31T12:00:00Z', 7, 2)"


@pytest.fixture
def egret(database: Database, tmp_path: Path) -> Egret:
    """With a key of team acme/search, and a policy that nobody binds."""
    egret = Egret(database.dsn)
    file = tmp_path / "policies.yaml"
    file.write_text(POLICY)
    egret.prepare(
        "orgs create acme",
        "teams create search --org acme",
        f"policy apply --yes -f {file}",
    )
    asyncio.run(database.execute(INSERT_KEY))
    return egret


def key(egret: Egret) -> Any:
    return egret("keys", "show", KEY, "-o", "json").json


def masked(ran: Ran) -> list[str]:
    text = "\n".join(ran.lines)
    text = re.sub(r"(org|team)_[0-9a-f]{32}", r"\1_ID", text)
    return re.sub(r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[.+:0-9]*Z?", "TIME", text).splitlines()


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(f"keys {{}} {KEY}", id="key"),
        pytest.param("teams {} acme/search", id="team"),
        pytest.param("teams {} search", id="team by name"),
        pytest.param("orgs {} acme", id="organization"),
    ],
)
def test_a_key_is_disabled_and_enabled_at_every_level(egret: Egret, what: str) -> None:
    """Both can be said twice, and the key is as good as before in the end."""
    states: list[str] = []
    for verb in ("disable", "disable", "enable", "enable"):
        assert egret(*what.format(verb).split()).code == 0
        states.append(key(egret)["state"])

    assert states == ["disabled", "disabled", "active", "active"]


def test_a_switch_shows_what_it_switched(egret: Egret) -> None:
    """The same record as after its creation."""
    assert masked(egret("orgs", "disable", "acme")) == [
        *("name|acme", "id|org_ID", "enabled|no"),
        *("policy|-", "allowed models|-", "created at|TIME"),
    ]
    assert masked(egret("teams", "disable", "search"))[:3] == [
        *("team|acme/search", "id|team_ID", "enabled|no"),
    ]


def test_how_a_key_was_used_is_shown(egret: Egret, database: Database) -> None:
    """When last, how often, and how often in vain."""
    asyncio.run(database.execute(USED))

    shown = egret("keys", "show", KEY)

    assert shown.lines[-3:] == ["last used at|2026-01-31 12:00:00Z", "requests|7", "refused|2"]
    assert (key(egret)["last_used_at"], key(egret)["requests"], key(egret)["refused"]) == (
        "2026-01-31T12:00:00Z",
        7,
        2,
    )


@pytest.mark.parametrize(
    ("option", "name", "table"),
    [
        pytest.param("--key", KEY, "api_keys", id="key"),
        pytest.param("--team", "acme/search", "teams", id="team"),
        pytest.param("--org", "acme", "organizations", id="organization"),
    ],
)
def test_a_policy_is_bound_and_unbound_at_every_level(
    egret: Egret, option: str, name: str, table: str
) -> None:
    """The list of policies counts who binds them."""
    column = {"api_keys": "keys"}.get(table, table)

    bound = egret("policy", "bind", "strict", option, name)
    uses = egret("policy", "list", "-o", "json").json[0][column]
    unbound = egret("policy", "unbind", option, name, "-o", "json")

    assert (bound.code, bound.lines) == (0, [f"{option[2:]}|{name}", "policy|strict"])
    assert (uses, unbound.json) == (1, {option[2:]: name, "policy": None})
    assert egret("policy", "list", "-o", "json").json[0][column] == 0


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        pytest.param(
            "keys disable AAAAAAAAAAA2",
            1,
            "error: there is no key AAAAAAAAAAA2; see `egret keys list`\n",
            id="no such key",
        ),
        pytest.param(
            "keys enable nope",
            2,
            "error: KEY_ID is not the id of a key; see `egret keys list`\n",
            id="no id of a key",
        ),
        pytest.param(
            "teams disable nope",
            1,
            "error: there is no team nope; create it with `egret teams create`\n",
            id="no such team",
        ),
        pytest.param(
            "orgs enable nope",
            1,
            "error: there is no organization nope; create it with `egret orgs create`\n",
            id="no such organization",
        ),
        pytest.param(
            "policy bind nope --org acme",
            1,
            "error: there is no policy nope; apply it first with `egret policy apply -f FILE`\n",
            id="no such policy",
        ),
        pytest.param(
            f"policy bind nope --key {KEY}",
            1,
            "error: there is no policy nope; apply it first with `egret policy apply -f FILE`\n",
            id="no such policy for a key",
        ),
        pytest.param(
            "policy unbind --org nope",
            1,
            "error: there is no organization nope; create it with `egret orgs create`\n",
            id="unbind from nobody",
        ),
        pytest.param(
            "policy bind strict",
            2,
            "error: no key, team or organization is named; give one of --key, --team and --org\n",
            id="bind to nothing",
        ),
        pytest.param(
            "policy bind strict --org acme --team search",
            2,
            "error: two are named (team, organization); give one\n",
            id="bind to two things",
        ),
        pytest.param(
            f"policy unbind --key {KEY} --org acme --team search",
            2,
            "error: three are named (key, team, organization); give one\n",
            id="unbind from three things",
        ),
        pytest.param(
            "audit list --since yesterday",
            2,
            "error: --since: 'yesterday' is no time, write for example 30d, 2027-01-31T12:00:00Z"
            " or now; give another\n",
            id="no time",
        ),
        pytest.param(
            "audit list --since never",
            2,
            "error: --since: 'never' is no time, write for example 30d, 2027-01-31T12:00:00Z"
            " or now; give another\n",
            id="never",
        ),
        pytest.param(
            "audit list --type nosuch",
            1,
            "error: the audit log has no table 'nosuch'; give one of api_keys, organizations,"
            " policies, policy_versions, prices, teams, admin_sessions, admin_tokens,"
            " alert_routes, admin_logins, usage\n",
            id="no table",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    egret: Egret, arguments: str, code: int, error: str
) -> None:
    """What is wrong, then what would be right; nothing on standard output."""
    assert egret(*arguments.split()) == Ran(code, "", error)


def test_a_revoked_key_is_not_switched_on(egret: Egret) -> None:
    """Revoked is for good."""
    egret("keys", "revoke", KEY)

    assert egret("keys", "enable", KEY) == Ran(
        1, "", f"error: key {KEY} is revoked; create another with `egret keys create`\n"
    )


def test_the_audit_log_tells_who_changed_what(egret: Egret, database: Database) -> None:
    """By the name given, else by the user of the operating system."""
    asyncio.run(database.execute("DELETE FROM audit_log"))
    egret("--as", "alice", "keys", "disable", KEY)
    egret("--as", "bob", "policy", "bind", "strict", "--key", KEY)
    egret("--as", "carol", "orgs", "create", "zoo")

    assert masked(egret("audit", "list")) == [
        "at|by|action|what|change|note",
        (
            "TIME|carol (postgres)|insert|organizations org_ID|"
            "id: org_ID, name: zoo, limits: [], enabled: true, created_at: TIME|-"
        ),
        f"TIME|bob (postgres)|update|api_keys {KEY}|policy_name: - → strict|-",
        f"TIME|alice (postgres)|update|api_keys {KEY}|enabled: true → false|-",
    ]


def test_the_audit_log_is_json_for_programs(egret: Egret, database: Database) -> None:
    """Every field, and the filters narrow it."""
    asyncio.run(database.execute("DELETE FROM audit_log"))
    egret("--as", "alice", "keys", "disable", KEY)
    egret("--as", "alice", "orgs", "disable", "acme")

    entries = egret("audit", "list", "--id", KEY, "--type", "api_keys", "-o", "json").json

    assert [entry | {"id": 0, "at": ""} for entry in entries] == [
        {
            "id": 0,
            "at": "",
            "database_role": "postgres",
            "actor": "alice",
            "action": "update",
            "object_type": "api_keys",
            "object_id": KEY,
            "rows": 1,
            "before": {"enabled": True},
            "after": {"enabled": False},
            "note": None,
        }
    ]
    assert len(egret("audit", "list", "--since", "1h", "-o", "json").json) == 2
    assert len(egret("audit", "list", "--limit", "1", "-o", "json").json) == 1
    assert egret("audit", "list", "--since", "2999-01-01", "-o", "json").json == []


def test_changes_are_followed_as_lines_of_log(egret: Egret, database: Database) -> None:
    """As they are made; Ctrl-C ends it, and `egret logs` reads them."""
    process = subprocess.Popen(
        [sys.executable, "-m", "sidecar", "audit", "follow", "--since", "1h", "--every", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=inherited_environment() | {"EGRET_POSTGRES__DSN": database.dsn},
    )
    assert process.stdout is not None
    while b'"api_keys"' not in process.stdout.readline():  # made by the fixture
        pass
    egret("--as", "alice", "keys", "disable", KEY)
    line = process.stdout.readline()
    process.send_signal(signal.SIGINT)

    assert process.communicate(timeout=60) == (b"", b"")
    assert process.returncode == 0
    told = orjson.loads(line)
    assert told | {"timestamp": "", "id": 0} == {
        "timestamp": "",
        "level": "info",
        "event": "audit.update",
        "id": 0,
        "database_role": "postgres",
        "actor": "alice",
        "object_type": "api_keys",
        "object_id": KEY,
        "rows": 1,
        "before": {"enabled": True},
        "after": {"enabled": False},
    }
    assert " info    audit.update " in egret("logs", "--since", "1h", stdin=line.decode()).out


def test_changes_that_cannot_be_written_are_no_fault_of_the_database(
    egret: Egret, database: Database
) -> None:
    """They are followed into a file, for example, on a disk that is full."""
    egret("orgs", "create", "zoo")
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "sidecar", "audit", "follow", "--since", "1h"],
            stdout=full,
            stderr=subprocess.PIPE,
            env=inherited_environment() | {"EGRET_POSTGRES__DSN": database.dsn},
            check=False,
            timeout=60,
        )

    assert ran.returncode == 1
    assert ran.stderr.startswith(b"error: cannot write the output: No space left on device; ")


def test_without_a_name_the_user_of_the_system_is_logged(egret: Egret) -> None:
    """Not what the environment says, which anybody may set."""
    egret("orgs", "create", "zoo")

    actor = egret("audit", "list", "--limit", "1", "-o", "json").json[0]["actor"]

    assert actor not in {None, "", "nobody else"}
