from __future__ import annotations

import asyncio
import hashlib
import stat
from pathlib import Path
from typing import Any

import orjson
import pytest

from sidecar.domain.principal import KeyRecord
from sidecar.keys.credentials import ApiKey, authorize
from sidecar.storage.pool import open_pool
from sidecar.storage.postgres_keys import PostgresKeyStore
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database

SECRET = "s" * 43
DIGEST = hashlib.sha256(SECRET.encode()).hexdigest()
CREATED = "2026-01-01T00:00:00.000001Z"


def line(number: int, **fields: object) -> dict[str, object]:
    """Key number *number* of team acme/search."""
    return {
        "key_id": f"{number:012}",
        "secret_sha256": DIGEST,
        "team": "acme/search",
        "name": f"key-{number}",
        **fields,
    }


def jsonl(file: Path, *rows: dict[str, object]) -> str:
    file.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return str(file)


@pytest.fixture
def egret(egret: Egret) -> Egret:
    egret.prepare("orgs create acme", "teams create search --org acme")
    return egret


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.jsonl"


def listed(egret: Egret) -> list[Any]:
    found: list[Any] = egret("keys", "list", "-o", "json").json
    return sorted(found, key=lambda key: key["key_id"])


def test_an_imported_key_works(egret: Egret, database: Database, file: Path) -> None:
    """By the secret whose digest was in the file."""
    ran = egret("keys", "import", jsonl(file, line(1)))

    async def verdict() -> object:
        key = ApiKey(key_id=f"{1:012}", secret=SECRET)
        async with open_pool(database.settings) as pool:
            record = await PostgresKeyStore(pool, database.settings).load(key.key_id)
        return authorize(record, key, now=0.0)

    assert ran == Ran(0, "", "1 key imported, 0 skipped that exist already\n")
    assert isinstance(asyncio.run(verdict()), KeyRecord)


@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_what_is_exported_can_be_imported_elsewhere(
    egret: Egret, empty_database: Database, tmp_path: Path, suffix: str
) -> None:
    """Every field comes through, and the second export is the first again."""
    first, second = tmp_path / f"first.{suffix}", tmp_path / f"second.{suffix}"
    rows = (
        line(1, created_at=CREATED, allowed_models=["gpt-*", 'a"b,c'], enabled=False),
        line(
            5,
            created_at=CREATED,
            allowed_operations=["chat", "embeddings"],
            allowed_sources=["192.0.2.0/24", "2001:db8::/32"],
            tags=["env=prod", "owner=ml"],
            priority="batch",
        ),
        line(2, created_at=CREATED, replaced_by=f"{3:012}", expires_at="2030-01-01T00:00:00Z"),
        line(3, created_at=CREATED, name="key-2", not_before="2027-01-01T00:00:00Z"),
        line(4, created_at=CREATED, revoked_at="2026-02-01T00:00:00Z", allowed_models=[]),
        line(6, created_at=CREATED, expires_at="2026-02-01T00:00:00Z"),  # past: as it was
    )
    assert egret("keys", "import", jsonl(tmp_path / "keys.ndjson", *rows)).code == 0
    other = Egret(empty_database.dsn)
    assert other("migrate").code == 0

    assert egret("keys", "export", str(first)) == Ran(0, "", f"6 keys exported to {first}\n")
    ran = other("keys", "import", str(first), "--create-owners", "-o", "json")
    assert other("keys", "export", str(second)).code == 0

    assert ran.json == {"imported": 6, "skipped": 0}
    assert listed(other) == listed(egret)
    assert sorted(second.read_text().splitlines()) == sorted(first.read_text().splitlines())
    assert "secret_sha256" in first.read_text()


def test_limits_that_do_not_go_with_the_keys_are_told_of(egret: Egret, file: Path) -> None:
    """They are not lost in silence; of a team without any nothing is said."""
    egret("teams", "create", "ads", "--org", "acme")
    egret("keys", "import", jsonl(file, line(1), line(2), line(3, team="acme/ads")))
    egret("limits", "set", "--key", f"{1:012}", "requests/minute=5")

    every = egret("keys", "export", str(file.with_name("all.csv")))
    ads = egret("keys", "export", "-", "--format", "csv", "--team", "acme/ads")

    assert every.err.splitlines()[1] == (
        "1 key of them with limits that are not in the file;"
        " set them anew with `egret limits set --key`"
    )
    assert ads.err == ""


def test_an_export_is_its_owners_alone_and_replaces_nothing(egret: Egret, file: Path) -> None:
    """Not unless told to; a team that is not there leaves no file."""
    first = egret("keys", "export", str(file))
    again = egret("keys", "export", str(file))
    forced = egret("keys", "export", str(file), "--force")
    nobody = egret("keys", "export", str(file.with_name("other.csv")), "--team", "nope")

    assert (first.code, forced.code, stat.S_IMODE(file.stat().st_mode)) == (0, 0, 0o600)
    assert again == Ran(2, "", f"error: {file} exists; name another, or say --force\n")
    assert nobody == Ran(
        1, "", "error: there is no team nope; create it with `egret teams create`\n"
    )
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_one_teams_keys_go_to_standard_output(egret: Egret, file: Path) -> None:
    """Nothing but the lines, so that they can be piped; standard input takes them."""
    egret("teams", "create", "ads", "--org", "acme")
    rows = (line(1, created_at=CREATED), line(2, team="acme/ads", created_at=CREATED))
    egret("keys", "import", jsonl(file, *rows))

    ran = egret("keys", "export", "-", "--format", "jsonl", "--team", "search")
    again = egret(
        *("keys", "import", "-", "--format", "jsonl", "--existing", "skip"), stdin=ran.out
    )

    assert orjson.loads(ran.out) == rows[0] | {"enabled": True}
    assert (ran.err, again.err) == ("", "0 keys imported, 1 skipped that exist already\n")


def test_one_wrong_line_keeps_all_out_and_every_one_is_named(
    egret: Egret, database: Database, file: Path
) -> None:
    """What the reader sees and what only the database knows, by line."""
    jsonl(file, line(7, name="taken"))
    assert egret("keys", "import", str(file)).code == 0
    jsonl(
        file,
        line(1),
        line(2, secret_sha256="hunter2"),
        line(1),
        line(3, team="acme/nope"),
        line(4, policy="nope"),
        line(5, replaced_by="Z" * 12),
        line(6, name="key-1"),
        line(7),
        line(8, name="taken"),
        line(9, name="key-1", revoked_at="2026-01-01"),
    )

    ran = egret("keys", "import", str(file))
    as_json = egret("keys", "import", str(file), "-o", "json")

    problems = [
        (2, "secret_sha256 is not the 64 hexadecimal digits of a SHA-256"),
        (3, "key 000000000001 is in line 1 already"),
        (4, "there is no team acme/nope"),
        (5, "there is no policy nope"),
        (6, "there is no key ZZZZZZZZZZZZ that could have replaced it"),
        (7, "team acme/search has a key named key-1 in line 1"),
        (8, "key 000000000007 exists already"),
        (9, "team acme/search has a key named taken already: 000000000007"),
    ]
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.splitlines() == [
        *(f"{file}:{number}: {problem}" for number, problem in problems),
        f"error: {file} has 8 faults; nothing was imported",
    ]
    assert (as_json.code, as_json.json) == (
        1,
        {
            "imported": 0,
            "wrong": 8,
            "faults": [{"line": number, "problem": problem} for number, problem in problems],
        },
    )
    assert asyncio.run(database.fetch("SELECT public_id FROM api_keys")) == [("000000000007",)]


def test_many_faults_are_counted_and_the_first_shown(egret: Egret, file: Path) -> None:
    """Twenty lines, then how many more."""
    ran = egret("keys", "import", jsonl(file, *(line(number, team="a/b") for number in range(30))))

    shown = ran.err.splitlines()
    assert (ran.code, len(shown)) == (1, 22)
    assert shown[-2:] == [
        "… and 10 more; --output json shows 10000 of them",
        f"error: {file} has 30 faults; nothing was imported",
    ]


def test_a_check_finds_everything_and_changes_nothing(
    egret: Egret, database: Database, file: Path
) -> None:
    """Neither keys nor owners nor entries in the log."""
    before = asyncio.run(database.fetch("SELECT count(*) FROM audit_log"))
    rows = (line(1), line(2, team="zoo/ads"))

    good = egret("keys", "import", jsonl(file, *rows), "--check", "--create-owners")
    bad = egret("keys", "import", str(file), "--check")

    assert good == Ran(0, "", "2 keys would be imported, 0 skipped that exist already\n")
    assert (bad.code, bad.err.splitlines()[0]) == (1, f"{file}:2: there is no team zoo/ads")
    assert listed(egret) == []
    assert asyncio.run(database.fetch("SELECT count(*) FROM audit_log")) == before


def test_an_import_can_be_run_again_for_what_is_missing(egret: Egret, file: Path) -> None:
    """Keys that are there stay as they are, whatever the file says of them."""
    egret("keys", "import", jsonl(file, line(1)))

    ran = egret(
        "keys", "import", jsonl(file, line(1, enabled=False), line(2)), "--existing", "skip"
    )

    assert ran.err == "1 key imported, 1 skipped that exist already\n"
    assert [key["state"] for key in listed(egret)] == ["active", "active"]


def test_an_import_tells_workers_once_and_is_logged_once(
    egret: Egret, database: Database, file: Path
) -> None:
    """Not a notification for each of thousands of keys, and one entry that holds all of them."""
    jsonl(file, *(line(number) for number in range(1, 2002)))

    async def heard() -> list[str]:
        payloads: list[str] = []
        async with database.connect() as connection:
            await connection.add_listener(
                "egret_keys", lambda *heard: payloads.append(str(heard[3]).partition(",")[0])
            )
            ran = await asyncio.to_thread(egret, "--as", "alice", "keys", "import", str(file))
            assert ran.code == 0
            await connection.execute("SELECT 1")
        return payloads

    assert asyncio.run(heard()) == ["*"]
    (entry,) = egret("audit", "list", "--id", f"{77:012}", "-o", "json").json
    assert (entry["actor"], entry["action"], entry["rows"]) == ("alice", "insert", 2001)
    assert egret("audit", "list", "--limit", "1").lines[1].split("|")[2:] == [
        *("insert", "api_keys", "2001 rows", "-"),
    ]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        pytest.param(
            "keys import {}/keys",
            "error: the name of {}/keys does not tell its format (.csv, .jsonl, .ndjson);"
            " pass --format csv or --format jsonl\n",
            id="no format",
        ),
        pytest.param(
            "keys import {}/nope.csv",
            "error: {}/nope.csv: No such file or directory; name a file that can be read\n",
            id="no file to read",
        ),
        pytest.param(
            "keys export {}/nope/keys.csv",
            "error: {}/nope/keys.csv: No such file or directory; name a place to write to\n",
            id="no place to write",
        ),
    ],
)
def test_wrong_usage_is_said_in_one_line(
    egret: Egret, tmp_path: Path, arguments: str, error: str
) -> None:
    """And exit code 2."""
    assert egret(*arguments.format(tmp_path).split()) == Ran(2, "", error.format(tmp_path))


def test_an_empty_file_imports_nothing(egret: Egret, file: Path) -> None:
    """Of JSON lines; CSV has a header at least."""
    file.write_bytes(b"")

    assert egret("keys", "import", str(file)).err == (
        "0 keys imported, 0 skipped that exist already\n"
    )
    assert egret("keys", "import", str(file), "--format", "csv").err == (
        f"{file}:1: there is no header\nerror: {file} has 1 fault; nothing was imported\n"
    )
