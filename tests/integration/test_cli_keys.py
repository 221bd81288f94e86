from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sidecar.domain.errors import ErrorKind
from sidecar.domain.principal import KeyRecord
from sidecar.keys.credentials import ApiKey, authorize, parse
from sidecar.settings.sections import inherited_environment
from sidecar.storage.pool import open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database


@pytest.fixture
def egret(egret: Egret) -> Egret:
    """With an organization of two teams, and another with a team of the same name."""
    egret.prepare(
        "orgs create acme",
        "orgs create zoo",
        "teams create search --org acme",
        "teams create ads --org acme",
        "teams create ads --org zoo",
    )
    return egret


def create(egret: Egret, *options: str) -> Any:
    return egret(
        "keys", "create", "--team", "search", "--name", "laptop", "-o", "json", *options
    ).json


def key_in(text: str) -> ApiKey:
    key = parse(text.strip())
    assert key is not None
    return key


def judged(database: Database, key: ApiKey) -> KeyRecord | ErrorKind:
    """What a worker would say to the key now."""

    async def load() -> KeyRecord | ErrorKind:
        async with open_pool(database.settings) as pool:
            record = await PostgresKeyStore(pool, database.settings).load(key.key_id)
        return authorize(record, key, now=datetime.now(UTC).timestamp())

    return asyncio.run(load())


def test_a_created_key_is_the_only_thing_on_standard_output_and_works(
    egret: Egret, database: Database
) -> None:
    """It can be piped; what a person wants to know goes to standard error, without the secret."""
    ran = egret("keys", "create", "--team", "acme/search", "--name", "laptop")

    key = key_in(ran.out)
    assert (ran.code, ran.out.count("\n"), key.secret in ran.err) == (0, 1, False)
    assert ran.err == (
        f"key id: {key.key_id}\nname: laptop\nteam: acme/search\n"
        "Keep it now: it is shown this once.\n"
    )
    verdict = judged(database, key)
    assert isinstance(verdict, KeyRecord)
    assert verdict.principal.team_name == "search"


@pytest.mark.parametrize("output", ["table", "json"])
def test_a_created_key_whose_secret_cannot_be_written_is_named(
    egret: Egret, database: Database, output: str
) -> None:
    """It exists, and nobody has its secret: the error has the commands to replace or end it."""
    words = ("keys", "create", "--team", "acme/search", "--name", "laptop", "-o", output)
    with Path("/dev/full").open("wb") as full:
        ran = subprocess.run(
            [sys.executable, "-m", "sidecar", *words],
            stdout=full,
            stderr=subprocess.PIPE,
            env=inherited_environment() | {"EGRET_POSTGRES__DSN": database.dsn},
            text=True,
            check=False,
        )

    key_id = egret("keys", "list", "-o", "json").json[0]["key_id"]
    assert ran.returncode == 1
    assert ran.stderr.splitlines()[-1] == (
        f"error: key {key_id} exists, but its secret is lost: No space left on device; run `egret"
        f" keys rotate {key_id}` for another, or `egret keys revoke {key_id}`"
    )
    assert "Keep it now" not in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_secret_is_shown_by_no_other_command(egret: Egret) -> None:
    """Not by list, show, expire or revoke, in either form."""
    created = create(egret)
    key = key_in(created["key"])

    shown = [
        egret(*command.split(), "-o", output)
        for command in (
            "keys list",
            f"keys show {key.key_id}",
            f"keys expire {key.key_id} 1d",
            f"keys revoke {key.key_id}",
        )
        for output in ("table", "json")
    ]

    assert [ran.code for ran in shown] == [0] * len(shown)
    assert not any(key.secret in ran.out + ran.err for ran in shown)
    assert all(key.key_id in ran.out for ran in shown)


def test_a_keys_options_are_stored_and_shown(egret: Egret) -> None:
    """Expiry from now, globs in order."""
    created = create(egret, "--expires", "30d", "--model", "gpt-*", "--model", "o[1]")

    lives = datetime.fromisoformat(created["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < lives <= timedelta(days=30)
    assert created == {
        "key": created["key"],
        "key_id": key_in(created["key"]).key_id,
        "name": "laptop",
        "team": "acme/search",
        "state": "active",
        "not_before": None,
        "expires_at": created["expires_at"],
        "revoked_at": None,
        "replaced_by": None,
        "policy": None,
        "allowed_models": ["gpt-*", "o[1]"],
        "allowed_operations": None,
        "allowed_sources": None,
        "tags": [],
        "priority": "standard",
        "created_at": created["created_at"],
        "last_used_at": None,
        "requests": 0,
        "refused": 0,
    }
    shown = egret("keys", "show", created["key_id"])
    assert [re.sub(r"\d{4}-[-\d]+ [:\d]+Z", "TIME", line) for line in shown.lines] == [
        f"key id|{created['key_id']}",
        "name|laptop",
        "team|acme/search",
        "state|active",
        "not before|-",
        "expires at|TIME",
        "revoked at|-",
        "replaced by|-",
        "policy|-",
        "allowed models|gpt-*, o[1]",
        "allowed operations|-",
        "allowed sources|-",
        "tags|none",
        "priority|standard",
        "created at|TIME",
        "last used at|-",
        "requests|0",
        "refused|0",
    ]


def test_keys_are_listed_by_team(egret: Egret) -> None:
    """All of them, or one team's."""
    laptop = create(egret)
    egret("keys", "create", "--team", "zoo/ads", "--name", "batch")

    every = egret("keys", "list")
    of_search = egret("keys", "list", "--team", "search", "-o", "json").json

    assert every.lines[0] == "key id|name|team|state|expires at|policy|allowed models|created at"
    assert sorted(line.split("|")[1:3] for line in every.lines[1:]) == [
        ["batch", "zoo/ads"],
        ["laptop", "acme/search"],
    ]
    assert [key["key_id"] for key in of_search] == [laptop["key_id"]]


def test_a_revoked_key_stays_revoked(egret: Egret, database: Database) -> None:
    """The time of the first revocation stays, and the name is free again."""
    created = create(egret)

    first = egret("keys", "revoke", created["key_id"], "-o", "json").json
    second = egret("keys", "revoke", created["key_id"], "-o", "json").json

    assert (first["state"], first["revoked_at"]) == ("revoked", second["revoked_at"])
    assert judged(database, key_in(created["key"])) == ErrorKind.REVOKED_API_KEY
    assert create(egret)["state"] == "active"


def test_a_rotated_key_leaves_its_place_to_a_new_one(egret: Egret, database: Database) -> None:
    """Both are good during the grace; name, team, models and expiry go over."""
    old = create(egret, "--expires", "30d", "--model", "gpt-*")

    ran = egret("keys", "rotate", old["key_id"], "--grace", "2h", "-o", "json")

    new, replaced = ran.json, egret("keys", "show", old["key_id"], "-o", "json").json
    assert (new["name"], new["team"], new["allowed_models"], new["expires_at"]) == (
        old["name"],
        old["team"],
        old["allowed_models"],
        old["expires_at"],
    )
    assert (new["replaces"], replaced["replaced_by"]) == (old["key_id"], new["key_id"])
    grace = datetime.fromisoformat(replaced["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=1, minutes=59) < grace <= timedelta(hours=2)
    for row in (old, new):
        assert isinstance(judged(database, key_in(row["key"])), KeyRecord)


def test_a_rotation_prints_the_new_key_alone(egret: Egret, database: Database) -> None:
    """Without grace the old one is refused at once."""
    old = create(egret)

    ran = egret("keys", "rotate", old["key_id"], "--grace", "0s", "--expires", "never")

    new = key_in(ran.out)
    assert (ran.code, ran.err.splitlines()[0]) == (0, f"key id: {new.key_id}")
    assert f"replaces: {old['key_id']}" in ran.err
    assert isinstance(judged(database, new), KeyRecord)
    assert judged(database, key_in(old["key"])) == ErrorKind.EXPIRED_API_KEY


def test_a_grace_does_not_outlive_the_key(egret: Egret) -> None:
    """An old key that expires before its grace ends still does."""
    old = create(egret, "--expires", "1h")

    new = egret("keys", "rotate", old["key_id"], "--grace", "30d", "-o", "json").json

    assert new["replaced_expires_at"] == old["expires_at"]


@pytest.mark.parametrize(
    ("when", "state"), [("now", "expired"), ("2020-01-01", "expired"), ("1d", "active")]
)
def test_a_keys_expiry_can_be_moved(egret: Egret, when: str, state: str) -> None:
    """To the past, which ends it now, to later, and back to never."""
    created = create(egret)

    expired = egret("keys", "expire", created["key_id"], when, "-o", "json").json
    unlimited = egret("keys", "expire", created["key_id"], "never", "-o", "json").json

    assert (expired["state"], unlimited["state"], unlimited["expires_at"]) == (
        state,
        "active",
        None,
    )


def test_a_key_may_be_named_in_any_of_its_forms(egret: Egret) -> None:
    """Its id, its id with the prefix, or the whole key."""
    created = create(egret)

    shown = [
        egret("keys", "show", form, "-o", "json").json["key_id"]
        for form in (created["key_id"], f"egk_{created['key_id']}", created["key"])
    ]

    assert shown == [created["key_id"]] * 3


NO_KEY = "error: there is no key AAAAAAAAAAAA; see `egret keys list`\n"


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        pytest.param(
            "create --team nope --name x",
            1,
            "error: there is no team nope; create it with `egret teams create`\n",
            id="no such team",
        ),
        pytest.param(
            "create --team ads --name x",
            1,
            "error: several teams are named ads; say which: acme/ads, zoo/ads\n",
            id="a team's name in two organizations",
        ),
        pytest.param(
            "create --team search --name laptop",
            3,
            "error: key laptop of team search exists already; choose another name\n",
            id="name twice",
        ),
        pytest.param(
            "create --team search --name X",
            1,
            "error: key X of team search is not an accepted name; lower case letters, digits, "
            "dots, dashes and underscores, at most 63\n",
            id="no name",
        ),
        pytest.param(
            "create --team search --name x --policy nope",
            1,
            "error: there is no policy nope; apply it first with `egret policy apply -f FILE`\n",
            id="no such policy",
        ),
        pytest.param(
            "create --team search --name x --expires soon",
            2,
            "error: --expires: 'soon' is no time, write for example 30d, 2027-01-31T12:00:00Z, "
            "now or never; nothing was changed\n",
            id="no time",
        ),
        pytest.param(
            "list --team nope",
            1,
            "error: there is no team nope; create it with `egret teams create`\n",
            id="list of no such team",
        ),
        pytest.param("show AAAAAAAAAAAA", 1, NO_KEY, id="show of no such key"),
        pytest.param("revoke AAAAAAAAAAAA", 1, NO_KEY, id="revoke of no such key"),
        pytest.param("rotate AAAAAAAAAAAA", 1, NO_KEY, id="rotate of no such key"),
        pytest.param("expire AAAAAAAAAAAA", 1, NO_KEY, id="expire of no such key"),
        pytest.param(
            "rotate AAAAAAAAAAAA --grace long",
            2,
            "error: --grace: 'long' is no span of time, write for example 12h or 30d; "
            "nothing was changed\n",
            id="no span",
        ),
        pytest.param(
            "rotate AAAAAAAAAAAA --grace 999999w",
            2,
            "error: --grace: '999999w' ends beyond any calendar, write for example 12h or 30d; "
            "nothing was changed\n",
            id="a span beyond the calendar",
        ),
        pytest.param(
            "expire AAAAAAAAAAAA 0001-01-01",
            2,
            "error: WHEN: '0001-01-01' is not between 1970 and 9998, write a year of these; "
            "nothing was changed\n",
            id="a time beyond the calendar",
        ),
        pytest.param(
            "create --team search --name x --source fe80::1%eth0",
            2,
            "error: --source: 'fe80::1%eth0' is no network, write for example 192.0.2.0/24 or "
            "2001:db8::/32; nothing was changed\n",
            id="an interface is no network",
        ),
        pytest.param(
            "show egk_AAAAAAAAAAAA_hunter2",
            2,
            "error: KEY_ID is not the id of a key; see `egret keys list`\n",
            id="a mistyped key is not repeated",
        ),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    egret: Egret, arguments: str, code: int, error: str
) -> None:
    """What is wrong, then what would be right; nothing on standard output."""
    create(egret)

    assert egret("keys", *arguments.split()) == Ran(code, "", error)


@pytest.mark.parametrize(("time", "code"), [("infinity", 0), ("-infinity", 1)])
def test_a_time_without_end_is_listed_and_compared(
    egret: Egret, database: Database, time: str, code: int
) -> None:
    """Nobody can set it here; a database may hold it."""
    key_id = create(egret)["key_id"]

    asyncio.run(database.execute(f"UPDATE api_keys SET expires_at = '{time}'"))  # noqa: S608 - of the test

    assert egret("keys", "list").code == 0
    assert egret("keys", "list", "-o", "json").code == 0
    assert egret("keys", "set", key_id, "--not-before", "1d").code == code


def test_a_revoked_key_can_be_neither_rotated_nor_given_more_time(egret: Egret) -> None:
    """Both would bring back what was ended for good."""
    key_id = create(egret)["key_id"]
    egret("keys", "revoke", key_id)
    error = f"error: key {key_id} is revoked; create another with `egret keys create`\n"

    assert egret("keys", "rotate", key_id) == Ran(1, "", error)
    assert egret("keys", "expire", key_id, "never") == Ran(1, "", error)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        pytest.param(
            ["--expires", "2020-01-01"],
            "key ci would never be good: its expiry, 2020-01-01 00:00:00Z, is past; give one that"
            " is to come, such as in 30 days",
            id="past",
        ),
        pytest.param(
            ["--expires", "2100-01-01", "--not-before", "2100-01-02"],
            "key ci would never be good: it begins at 2100-01-02 00:00:00Z, and expires at"
            " 2100-01-01 00:00:00Z; give a later expiry, or an earlier start",
            id="before it begins",
        ),
        pytest.param(
            ["--expires", "2100-01-01", "--not-before", "2100-01-01"],
            "key ci would never be good: it begins at 2100-01-01 00:00:00Z, and expires at"
            " 2100-01-01 00:00:00Z; give a later expiry, or an earlier start",
            id="as it begins",
        ),
    ],
)
def test_a_key_that_would_never_be_good_is_not_made(
    egret: Egret, options: list[str], error: str
) -> None:
    create(egret)

    ran = egret("keys", "create", "--team", "search", "--name", "ci", *options)

    assert ran == Ran(1, "", f"error: {error}\n")
    assert len(egret("keys", "list", "-o", "json").json) == 1


def test_a_rotation_makes_no_key_that_is_expired(egret: Egret) -> None:
    """The old one stays as it was."""
    key_id = create(egret)["key_id"]
    before = egret("keys", "list", "-o", "json").json

    ran = egret("keys", "rotate", key_id, "--expires", "2020-01-01")

    assert (ran.code, ran.out) == (1, "")
    assert "key laptop would never be good: its expiry, 2020-01-01" in ran.err
    assert egret("keys", "list", "-o", "json").json == before


def test_a_key_is_rotated_once(egret: Egret) -> None:
    """The second time its successor is named."""
    key_id = create(egret)["key_id"]
    successor = egret("keys", "rotate", key_id, "-o", "json").json["key_id"]

    assert egret("keys", "rotate", key_id) == Ran(
        1, "", f"error: key {key_id} was rotated before; rotate {successor} instead\n"
    )


def test_an_expired_key_is_rotated_only_with_a_new_expiry(egret: Egret) -> None:
    """The new one would be expired as well."""
    key_id = create(egret)["key_id"]
    egret("keys", "expire", key_id)

    assert egret("keys", "rotate", key_id) == Ran(
        1,
        "",
        f"error: key {key_id} is expired; say how long the new one lives:"
        " --expires 30d, or `expires_at` in the API\n",
    )
    assert egret("keys", "rotate", key_id, "--expires", "30d").code == 0


@pytest.mark.parametrize("command", ["create", "rotate"])
def test_help_offers_no_expiry_that_is_refused(egret: Egret, command: str) -> None:
    """A key that expires now would never be good."""
    shown = " ".join(egret("keys", command, "--help").out.replace("│", " ").split())
    assert "2027-01-31T12:00:00Z or never." in shown
    made = egret("keys", "create", "--team", "search", "--name", "x", "--expires", "now")
    assert (made.code, "would never be good" in made.err) == (1, True)
