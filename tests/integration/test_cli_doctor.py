from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from egret_tools.devstack.databases import running_valkey
from egret_tools.devstack.processes import Children, valkey_program
from pydantic import SecretStr
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import ConstantBackoff

from sidecar.admin.diagnostics import CheckState, Use, check_postgres, check_valkey
from sidecar.settings.stores import ValkeyMode, ValkeySettings
from tests.support.command_line import Egret, Ran
from tests.support.deaf_pooler import deaf_pooler
from tests.support.postgres import Database

POSTGRES = (
    "postgres connection",
    "postgres notifications",
    "postgres clock",
    "postgres migrations",
    "postgres indexes",
    "postgres triggers",
    "postgres roles",
    "postgres grants",
    "postgres usage partitions",
)
REST = (
    "usage source",
    *("valkey connection", "valkey clock", "socket folder", "socket paths", "stale sockets"),
    "usage spool",
    "environment",
    "guardrail packages",
)


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where sockets go; short, since paths of sockets are."""
    directory = Path(tempfile.mkdtemp(prefix="egret-"))
    sockets = directory / "sockets"
    sockets.mkdir(mode=0o750)
    monkeypatch.setenv("EGRET_SERVER__SOCKET_DIRECTORY", str(sockets))
    spool = directory / "usage"
    spool.mkdir()
    monkeypatch.setenv("EGRET_USAGE__SPOOL_DIRECTORY", str(spool))
    monkeypatch.setenv("EGRET_USAGE__SPOOL_MAX_BYTES", "1048576")
    yield sockets
    shutil.rmtree(directory)


@pytest.fixture
def egret(database: Database, folder: Path) -> Egret:
    assert folder.is_dir()
    return Egret(database.dsn)


def execute(database: Database, *statements: str) -> None:
    asyncio.run(database.execute("; ".join(statements)))


def rows(ran: Ran) -> dict[str, tuple[str, str, str | None]]:
    return {row["check"]: (row["state"], row["found"], row["hint"]) for row in ran.json}


def wrong(ran: Ran) -> dict[str, tuple[str, str, str | None]]:
    """What is neither right nor skipped, but for what is always so with a superuser's login."""
    return {
        check: row
        for check, row in rows(ran).items()
        if row[0] in {"failed", "warning"} and "which no worker needs" not in row[1]
    }


def doctor(egret: Egret, *arguments: str) -> Ran:
    return egret("doctor", "-o", "json", *arguments)


def test_a_mistyped_setting_is_a_warning_with_the_one_that_was_meant(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is ignored, and nothing else would say so."""
    monkeypatch.setenv("EGRET_SERVR__WORKERS", "8")

    assert rows(doctor(Egret(database.dsn)))["environment"] == (
        "warning",
        "no such setting, ignored: EGRET_SERVR__WORKERS",
        "is EGRET_SERVER__WORKERS meant?",
    )


def test_a_setting_of_an_older_version_is_a_warning(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Configurations outlive an upgrade; `egret serve` accepts it without effect."""
    monkeypatch.setenv("EGRET_SERVER__ENGINE", "grpcio")

    assert rows(doctor(Egret(database.dsn)))["environment"] == (
        "warning",
        "without effect in this version: EGRET_SERVER__ENGINE",
        "remove it (docs/upgrade.md)",
    )


def test_a_whole_set_up_passes_every_check(database: Database, folder: Path) -> None:
    """With a login that is a worker's and no more; piped lines tell the same as JSON."""
    login = f"worker_{database.name}"
    execute(database, f"CREATE ROLE {login} LOGIN IN ROLE egret_sidecar")
    try:
        egret = Egret(database.dsn.replace("//postgres@", f"//{login}@"))
        ran, piped = doctor(egret), egret("doctor")
    finally:
        execute(database, f"DROP OWNED BY {login}; DROP ROLE {login}")

    version = rows(ran)["postgres connection"][1].split(",")[0]
    assert (ran.code, ran.err, piped.code) == (0, "", 0)
    assert [line.split(": ")[:2] for line in piped.out.splitlines()] == [
        *(["ok", check] for check in POSTGRES),
        ["ok", REST[0]],
        *(["skipped", check] for check in REST[1:3]),
        *(["ok", check] for check in REST[3:]),
    ]
    assert rows(ran) == {
        "postgres connection": ("ok", f"{version}, database {database.name} as {login}", None),
        "postgres notifications": ("ok", "received", None),
        "postgres clock": ("ok", "as this machine's clock", None),
        "postgres migrations": ("ok", "none pending", None),
        "postgres indexes": ("ok", "all 24 present and in use", None),
        "postgres triggers": ("ok", "all 51 present and in use", None),
        "postgres roles": ("ok", "egret_sidecar and egret_admin have their grants", None),
        "postgres grants": ("ok", f"{login} has the grants that a worker needs", None),
        "postgres usage partitions": ("ok", "this month and the next are prepared", None),
        "usage source": ("ok", "access_log", None),
        "valkey connection": ("skipped", "no EGRET_VALKEY__URL is set", None),
        "valkey clock": ("skipped", "no EGRET_VALKEY__URL is set", None),
        "socket folder": ("ok", f"{folder}, mode 0750", None),
        "socket paths": ("ok", f"{len(str(folder / 'worker-1.sock'))} bytes at most of 107", None),
        "stale sockets": ("ok", "none; 0 in use", None),
        "usage spool": ("ok", f"{folder.parent / 'usage'}, with room for 2 workers", None),
        "environment": ("ok", "no variable that is no setting", None),
        "guardrail packages": ("ok", "all present", None),
    }


def test_a_package_that_a_guardrail_lacks_is_warned_of(
    egret: Egret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A policy with that guardrail would refuse every request that it is to judge."""
    monkeypatch.setattr(importlib.util, "find_spec", {"quicktok": True}.get)

    ran = doctor(egret)

    assert ran.code == 0
    assert rows(ran)["guardrail packages"] == (
        "warning",
        "missing for language, which cannot judge without",
        (
            "install Egret's wheel with its extras language (docs/deploy.md), in a checkout run"
            " `make setup`, or have no policy with these"
        ),
    )


def test_a_worker_that_can_write_keys_is_warned_of(egret: Egret) -> None:
    """Everything works, and whoever takes over a worker could make keys."""
    ran = doctor(egret)

    assert ran.code == 0
    assert rows(ran)["postgres grants"] == (
        "warning",
        "postgres can write keys, which no worker needs",
        "let workers log in as a member of egret_sidecar alone",
    )
    assert rows(doctor(egret, "--for", "admin"))["postgres grants"][0] == "ok"


@pytest.mark.parametrize(
    ("statement", "check", "row"),
    [
        pytest.param(
            "DROP INDEX idx_api_keys_team_id",
            "postgres indexes",
            ("failed", "missing: idx_api_keys_team_id", "create them as db/versions has them"),
            id="an index is missing",
        ),
        pytest.param(
            "UPDATE pg_index SET indisvalid = false"
            " WHERE indexrelid = 'idx_api_keys_team_id'::regclass",
            "postgres indexes",
            ("failed", "out of use: idx_api_keys_team_id", "REINDEX INDEX CONCURRENTLY each"),
            id="an index is invalid",
        ),
        pytest.param(
            "ALTER TABLE api_keys DISABLE TRIGGER api_keys_notify_update",
            "postgres triggers",
            (
                "failed",
                "out of use: api_keys_notify_update",
                "ALTER TABLE … ENABLE TRIGGER each",
            ),
            id="revocations are not told",
        ),
        pytest.param(
            "DROP TRIGGER teams_audit_update ON teams",
            "postgres triggers",
            ("failed", "missing: teams_audit_update", "create them as db/versions has them"),
            id="changes are not logged",
        ),
        pytest.param(
            "REVOKE SELECT ON policies FROM egret_sidecar",
            "postgres roles",
            (
                "failed",
                "egret_sidecar lacks SELECT on policies",
                "SELECT egret_set_up_roles() as the tables' owner",
            ),
            id="a role lacks a grant",
        ),
        pytest.param(
            "REVOKE EXECUTE ON FUNCTION egret_last_change() FROM egret_sidecar",
            "postgres roles",
            (
                "failed",
                "egret_sidecar lacks EXECUTE on egret_last_change()",
                "SELECT egret_set_up_roles() as the tables' owner",
            ),
            id="a role may not call what it needs",
        ),
        pytest.param(
            "UPDATE alembic_version SET version_num = '9999'",
            "postgres migrations",
            (
                "failed",
                "the schema is at 9999, which this version of Egret does not know",
                "upgrade Egret",
            ),
            id="the schema is from the future",
        ),
    ],
)
def test_a_broken_schema_is_found(
    egret: Egret, database: Database, statement: str, check: str, row: tuple[str, str, str]
) -> None:
    """One check fails, and names the fix; the exit code is 1."""
    execute(database, statement)

    ran = doctor(egret)

    assert (ran.code, wrong(ran)) == (1, {check: row})
    assert ran.err == "1 of 18 checks failed\n"


def test_what_is_mended_as_told_passes(egret: Egret, database: Database) -> None:
    """The statements in the hints do it."""
    execute(
        database,
        "REVOKE SELECT ON policies FROM egret_sidecar",
        "ALTER TABLE api_keys DISABLE TRIGGER api_keys_notify_update",
    )
    assert set(wrong(doctor(egret))) == {"postgres triggers", "postgres roles"}

    execute(
        database,
        "SELECT egret_set_up_roles()",
        "ALTER TABLE api_keys ENABLE TRIGGER api_keys_notify_update",
    )

    assert (doctor(egret).code, wrong(doctor(egret))) == (0, {})


def test_months_without_a_partition_are_warned_of(egret: Egret, database: Database) -> None:
    """Nothing is lost, so it is no failure; the fix makes them."""
    execute(
        database,
        "DO $$ BEGIN EXECUTE 'DROP TABLE usage_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM');"
        " END $$",
    )

    ran = doctor(egret)
    execute(database, "SELECT egret_prepare_usage(12)")

    assert ran.code == 0
    assert wrong(ran)["postgres usage partitions"][::2] == (
        "warning",
        "SELECT egret_prepare_usage(12)",
    )
    assert wrong(doctor(egret)) == {}


def test_a_database_without_a_schema_is_to_be_migrated(
    empty_database: Database, folder: Path
) -> None:
    """What needs the schema is skipped, not failed."""
    assert folder.is_dir()

    ran = doctor(Egret(empty_database.dsn))

    states = {check: row[0] for check, row in rows(ran).items()}
    assert (ran.code, wrong(ran)) == (
        1,
        {
            "postgres migrations": (
                "failed",
                f"pending: {', '.join(MIGRATIONS)}",
                MIGRATE,
            )
        },
    )
    assert [states[check] for check in POSTGRES[4:]] == ["skipped"] * 5


MIGRATE = "run `egret migrate`"
MIGRATIONS = sorted(
    path.name[:4] for path in Path(__file__).parents[2].glob("db/versions/[0-9]*.py")
)


def test_roles_that_are_missing_are_made_as_told(egret: Egret, database: Database) -> None:
    """Each is named with the statement that makes it."""
    execute(database, "ALTER ROLE egret_admin RENAME TO egret_away")
    try:
        ran = doctor(egret)
    finally:
        execute(database, "ALTER ROLE egret_away RENAME TO egret_admin")

    assert (ran.code, wrong(ran)) == (
        1,
        {
            "postgres roles": (
                "failed",
                "missing: egret_admin",
                (
                    "CREATE ROLE egret_admin NOLOGIN; "
                    "then SELECT egret_set_up_roles() as the tables' owner"
                ),
            )
        },
    )


def test_a_login_without_grants_is_told_which(database: Database, folder: Path) -> None:
    """A worker's login that was never made a member; then one for the other use."""
    assert folder.is_dir()
    login = f"bare_{database.name}"
    execute(database, f"CREATE ROLE {login} LOGIN")
    egret = Egret(database.dsn.replace("//postgres@", f"//{login}@"))
    try:
        bare = doctor(egret)
        execute(database, f"GRANT egret_sidecar TO {login}")
        worker = doctor(egret, "--for", "admin")
    finally:
        execute(database, f"DROP OWNED BY {login}; DROP ROLE {login}")

    assert wrong(bare)["postgres migrations"] == (
        "failed",
        "permission denied for table alembic_version",
        "GRANT egret_sidecar (or egret_admin) TO this role",
    )
    assert wrong(worker)["postgres grants"] == (
        "failed",
        (
            f"{login} lacks DELETE on admin_idempotency_keys, DELETE on admin_logins, "
            "DELETE on admin_sessions, DELETE on admin_token_use, DELETE on admin_tokens"
            " and 48 more"
        ),
        f"GRANT egret_admin TO {login}",
    )


@pytest.mark.parametrize(
    ("dsn", "found", "hint"),
    [
        pytest.param(
            "postgresql://egret:hunter2@127.0.0.1:1/egret",
            "PostgreSQL gave no answer (ConnectionRefusedError: ",
            "check that it runs and that EGRET_POSTGRES__DSN, or the file of"
            " EGRET_POSTGRES__DSN_FILE, leads to it",
            id="nobody there",
        ),
        pytest.param(
            "mysql://egret:hunter2@db/egret",
            "EGRET_POSTGRES__DSN is not a URL of the form ",
            "correct it",
            id="no DSN",
        ),
    ],
)
def test_an_unreachable_database_fails_one_check(
    folder: Path, dsn: str, found: str, hint: str
) -> None:
    """The rest waits for it; no password is shown."""
    assert folder.is_dir()

    ran = doctor(Egret(dsn))

    checked = rows(ran)
    assert (ran.code, list(checked), "hunter2" in ran.out) == (1, [*POSTGRES, *REST], False)
    assert checked["postgres connection"][::2] == ("failed", hint)
    assert checked["postgres connection"][1].startswith(found)
    assert {checked[check][:2] for check in POSTGRES[1:]} == {
        ("skipped", "waits for postgres connection")
    }


async def test_a_pooler_that_swallows_notifications_is_found(
    database: Database, folder: Path
) -> None:
    """Else revocations would go unheard, and nothing would show it."""
    place = folder.parent / "pooler"
    place.mkdir()
    async with deaf_pooler(database.server.socket_directory, directory=place):
        egret = Egret(database.dsn.replace(str(database.server.socket_directory), str(place)))
        ran = await asyncio.to_thread(doctor, egret)

    assert (ran.code, wrong(ran)) == (
        1,
        {
            "postgres notifications": (
                "failed",
                "a notification was not received",
                (
                    "connect without a pooler or with one in session mode, or set"
                    " EGRET_CACHE__INVALIDATION=pubsub"
                ),
            )
        },
    )


@pytest.mark.parametrize(
    ("offset", "state", "found"),
    [
        pytest.param(0.0, CheckState.OK, "as this machine's clock", id="same"),
        pytest.param(60.0, CheckState.FAILED, "behind this machine's clock", id="ours is ahead"),
        pytest.param(-60.0, CheckState.FAILED, "ahead of this machine's clock", id="ours is late"),
    ],
)
async def test_clocks_that_differ_are_found(
    database: Database, folder: Path, offset: float, state: CheckState, found: str
) -> None:
    """Of PostgreSQL and of Valkey: expiry is judged by the worker's."""

    def wall() -> float:
        return time.time() + offset

    checks = await check_postgres(database.settings, use=Use.WORKER, wall=wall)
    async with running_valkey(
        Children(), directory=folder.parent / "valkey", logs=folder.parent
    ) as url:
        checks += await check_valkey(ValkeySettings(url=SecretStr(url)), wall=wall)

    clocks = [check for check in checks if check.check.endswith("clock")]
    assert [(check.state, found in check.found) for check in clocks] == [(state, True)] * 2


@pytest.mark.stack
async def test_doctor_reports_a_valkey_that_is_no_primary_or_refuses_or_is_gone(
    egret: Egret, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A primary passes; a replica and a server that wants a password do not; nor one that died."""
    async with running_valkey(
        Children(), directory=folder.parent / "valkey", logs=folder.parent
    ) as url:
        monkeypatch.setenv("EGRET_VALKEY__URL", url)
        good = rows(await asyncio.to_thread(doctor, egret))
        client = Redis.from_url(url)
        await client.config_set("maxmemory", "1")
        full = wrong(await asyncio.to_thread(doctor, egret))
        await client.config_set("maxmemory", "1gb")
        roomy = rows(await asyncio.to_thread(doctor, egret))
        await client.config_set("maxmemory-policy", "allkeys-lru")
        evicting = rows(await asyncio.to_thread(doctor, egret))
        await client.replicaof("127.0.0.1", "1")
        replica = wrong(await asyncio.to_thread(doctor, egret))
        await client.replicaof("NO", "ONE")
        await client.config_set("requirepass", "hunter2")
        await client.aclose()
        locked = wrong(await asyncio.to_thread(doctor, egret))
    gone = await asyncio.to_thread(doctor, egret)

    hint = "check that Valkey runs, user and host in EGRET_VALKEY__URL, and the password"
    assert [good[check][0] for check in REST[1:3]] == ["ok", "ok"]
    assert roomy["valkey connection"][0] == "ok"
    assert full["valkey connection"][::2] == (
        "failed",
        "raise maxmemory, or remove the keys of other programs",
    )
    state, words, _ = evicting["valkey connection"]
    assert (state, "allkeys-lru: when it is full" in words) == ("warning", True)
    assert replica["valkey connection"][::2] == (
        "failed",
        "name the primary in EGRET_VALKEY__URL, or use Sentinel",
    )
    for broken in (locked, wrong(gone)):
        assert list(broken) == ["valkey connection"]
        assert broken["valkey connection"][::2] == ("failed", hint)
        assert broken["valkey connection"][1].startswith("no answer (")
    assert "hunter2" not in str(locked)
    assert (gone.code, rows(gone)["valkey clock"][0]) == (1, "skipped")


@pytest.mark.parametrize("mode", [pytest.param(mode, id=mode.value) for mode in ValkeyMode])
async def test_a_valkey_that_is_away_is_found_in_every_mode(mode: ValkeyMode) -> None:
    """However its client says so."""
    settings = ValkeySettings(
        url=SecretStr("redis://:hunter2@127.0.0.1:1"), mode=mode, sentinel_master="main"
    )

    connection, clock = await check_valkey(settings)

    assert (connection.state, clock.state) == (CheckState.FAILED, CheckState.SKIPPED)
    assert "hunter2" not in f"{connection}{clock}"


@pytest.mark.stack
async def test_doctor_checks_a_cluster_by_one_of_its_primaries(tmp_path: Path) -> None:
    """By one of its primaries."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = f"--port {port} --cluster-port {port - 1} --cluster-enabled yes --dir {tmp_path}"
    server = await asyncio.create_subprocess_exec(
        str(valkey_program()), *options.split(), stdout=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(60):
            client = Redis(port=port, retry=Retry(ConstantBackoff(0.1), 100))
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", "0", "16383")  # type: ignore[no-untyped-call]  # redis-py
            while (await client.cluster("INFO"))["cluster_state"] != "ok":  # noqa: ASYNC110 - it says nothing by itself
                await asyncio.sleep(0.05)
            await client.aclose()
        url = SecretStr(f"redis://127.0.0.1:{port}")
        checks = await check_valkey(ValkeySettings(url=url, mode=ValkeyMode.CLUSTER))
    finally:
        server.terminate()
        await server.wait()

    assert [check.state for check in checks] == [CheckState.OK] * 2


def broken_folder(folder: Path, kind: str) -> Path:
    """Make the folder of sockets wrong in one way, and return where it is."""
    match kind:
        case "missing":
            return folder / "further"
        case "impossible":
            (folder / "file").write_text("")
            return folder / "file" / "sockets"
        case "file":
            (folder / "file").write_text("")
            return folder / "file"
        case "open":
            folder.chmod(0o757)
        case "long":
            folder = folder / ("x" * 90)
            folder.mkdir()
        case _:
            with socket.socket(socket.AF_UNIX) as dead:
                dead.bind(str(folder / "worker-7.sock"))
    return folder


@pytest.mark.parametrize(
    ("kind", "check", "state", "found", "hint"),
    [
        pytest.param(
            "impossible",
            "socket folder",
            "failed",
            "{} is missing and cannot be made",
            "name another with EGRET_SERVER__SOCKET_DIRECTORY, or change its owner",
            id="cannot be made",
        ),
        pytest.param(
            "file",
            "socket folder",
            "failed",
            "{} is no folder",
            "name another with EGRET_SERVER__SOCKET_DIRECTORY, or change its owner",
            id="no folder",
        ),
        pytest.param(
            "open",
            "socket folder",
            "failed",
            "{} can be written to by everybody, who could put a socket in a worker's place",
            "chmod o-w {}",
            id="open to everybody",
        ),
        pytest.param(
            "long",
            "socket paths",
            "failed",
            None,
            "set EGRET_SERVER__SOCKET_DIRECTORY to a shorter folder",
            id="too long",
        ),
        pytest.param(
            "stale",
            "stale sockets",
            "warning",
            "no worker listens on worker-7.sock",
            "start those workers, or remove the files and take them out of Envoy's endpoints",
            id="a dead worker's socket",
        ),
    ],
)
def test_a_broken_folder_of_sockets_is_found(  # noqa: PLR0913, PLR0917 - a table's columns
    egret: Egret,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    check: str,
    state: str,
    found: str | None,
    hint: str,
) -> None:
    """Nothing is made or removed; only failures set the exit code."""
    place = broken_folder(folder, kind)
    monkeypatch.setenv("EGRET_SERVER__SOCKET_DIRECTORY", str(place))
    before = sorted(folder.iterdir())

    ran = doctor(egret)

    problems = wrong(ran)
    assert (ran.code, set(problems)) == (int(state == "failed"), {check})
    assert problems[check][::2] == (state, hint.format(place))
    assert found is None or problems[check][1] == found.format(place)
    assert sorted(folder.iterdir()) == before


def test_a_worker_that_hangs_is_found(egret: Egret, folder: Path) -> None:
    """The kernel still accepts connections for it."""
    with socket.socket(socket.AF_UNIX) as hung:
        hung.bind(str(folder / "worker-0.sock"))
        hung.listen()

        ran = doctor(egret)

    assert ran.code == 1
    assert wrong(ran) == {
        "stale sockets": (
            "failed",
            "no answer from the worker behind worker-0.sock, which accepts connections",
            "look at its last log lines, and kill its process: the supervisor starts another",
        )
    }


SPOOL_HINT = "name another with EGRET_USAGE__SPOOL_DIRECTORY, or change its owner"


@pytest.mark.parametrize(
    ("place", "state", "found", "hint"),
    [
        ("file", "failed", "{} is no folder", SPOOL_HINT),
        ("file/usage", "failed", "{} is missing and cannot be made", SPOOL_HINT),
    ],
)
def test_a_folder_that_cannot_keep_usage_is_found(
    egret: Egret,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    state: str,
    found: str,
    hint: str,
) -> None:
    """A worker starts only if it can make the folder, or write to it."""
    (folder.parent / "file").write_text("")
    spool = folder.parent / place
    monkeypatch.setenv("EGRET_USAGE__SPOOL_DIRECTORY", str(spool))

    ran = doctor(egret)

    assert ran.code == int(state == "failed")
    assert wrong(ran) == {"usage spool": (state, found.format(spool), hint)}


def test_folders_that_egret_serve_makes_are_no_fault(
    egret: Egret, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first start; the room on their disk counts already."""
    sockets, spool = folder.parent / "new", folder.parent / "run" / "usage"
    monkeypatch.setenv("EGRET_SERVER__SOCKET_DIRECTORY", str(sockets))
    monkeypatch.setenv("EGRET_USAGE__SPOOL_DIRECTORY", str(spool))
    ran = doctor(egret)
    assert (ran.code, wrong(ran)) == (0, {})
    assert rows(ran)["socket folder"] == ("ok", f"{sockets}, which `egret serve` makes", None)
    assert not sockets.exists()
    monkeypatch.setenv("EGRET_USAGE__SPOOL_MAX_BYTES", str(1 << 50))
    assert rows(doctor(egret))["usage spool"][0] == "warning"


def test_a_missing_spool_beside_running_workers_is_another_than_theirs(
    egret: Egret, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As beside `make run`, from a shell without this one of its settings."""
    spool = folder.parent / "new"
    monkeypatch.setenv("EGRET_USAGE__SPOOL_DIRECTORY", str(spool))
    with socket.socket(socket.AF_UNIX) as worker:
        worker.bind(str(folder / "worker-0.sock"))
        state, found, hint = rows(doctor(egret))["usage spool"]
    theirs = f"the worker of {folder / 'worker-0.sock'} keeps usage in another folder"
    assert (state, found) == ("warning", f"{spool} is missing, and {theirs}")
    own = "set EGRET_USAGE__SPOOL_DIRECTORY as the worker has it"
    assert hint == f"{own}; beside `make run` that is run/data/usage"


@pytest.mark.parametrize("use", ["admin", "console"])
def test_a_machine_without_workers_needs_no_folder_of_sockets(
    egret: Egret, folder: Path, monkeypatch: pytest.MonkeyPatch, use: str
) -> None:
    """Of the command line or `egret admin`: wherever the default folder would be."""
    monkeypatch.setenv("EGRET_SERVER__SOCKET_DIRECTORY", str(folder / ("x" * 200)))
    ran = doctor(egret, "--for", use)
    assert (ran.code, wrong(ran)) == (0, {})
    for check in ("socket folder", "socket paths", "stale sockets"):
        assert rows(ran)[check] == ("skipped", "no workers run here", None)


HIDDEN = """
import asyncio, os, sys
from pathlib import Path
from sidecar.cli.doctor import Use, check_sockets
from sidecar.settings.serving import ServerSettings
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
settings = ServerSettings(socket_directory=Path(sys.argv[1]))
print([one.found for one in asyncio.run(check_sockets(settings, use=Use.WORKER))][0])
"""


def test_a_folder_within_one_that_this_user_may_not_see_is_named(folder: Path) -> None:
    """As the wrong user, beside workers that run."""
    folder.parent.chmod(0)
    command = [sys.executable, "-c", HIDDEN, str(folder)]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    folder.parent.chmod(0o700)
    assert ran.stdout == f"{folder} is hidden from this user by {folder.parent}\n", ran.stderr


SPOOL_OF_OTHERS = """
import os, sys
from pathlib import Path
from sidecar.cli.doctor import Use, check_spool
from sidecar.settings.process import read_settings
if os.geteuid() == 0:
    os.setresuid(65534, 65534, 65534)
checked = check_spool(read_settings(), use=Use.WORKER)
print(checked.state.value, checked.found, checked.hint, sep="\\n")
"""


def test_folders_of_usage_that_no_worker_can_adopt_are_warned_of(
    folder: Path, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a change of the workers' user: their usage would never come in."""
    spool = folder.parent / "usage"
    gone = spool / "worker-0-1-2"
    gone.mkdir(mode=0)
    for place in (spool, folder.parent, folder):
        place.chmod(0o777)
    monkeypatch.setenv("EGRET_POSTGRES__DSN", database.dsn)
    command = [sys.executable, "-c", SPOOL_OF_OTHERS]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    reason = "not_ours" if os.geteuid() == 0 else "unreadable"
    gone.chmod(0o700)

    assert ran.stdout.splitlines()[:2] == [
        "warning",
        f"no worker of this user can adopt the usage in {gone.name} ({reason}), below {spool}",
    ], ran.stderr


def test_a_disk_with_less_room_than_workers_may_use_is_warned_of(
    egret: Egret, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before an outage of the database, in which it fills."""
    room = shutil.disk_usage(folder).free
    most = (room + (1 << 30)) // 2
    monkeypatch.setenv("EGRET_USAGE__SPOOL_MAX_BYTES", str(most))

    ran = doctor(egret)

    state, found, hint = rows(ran)["usage spool"]
    assert (ran.code, state) == (0, "warning")
    assert f" MiB, and 2 workers may keep {2 * most >> 20} MiB; usage is lost when" in found
    assert hint == "free space for it, or lower EGRET_USAGE__SPOOL_MAX_BYTES"


def test_the_bytes_that_a_spool_has_count_as_room(
    egret: Egret, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an outage it fills its own share of the disk, which is no fault."""
    spool = folder.parent / "usage"
    (spool / "worker").mkdir()
    with (spool / "worker" / "1").open("wb") as file:
        file.truncate(1 << 42)  # without blocks on the disk
    monkeypatch.setenv("EGRET_USAGE__SPOOL_MAX_BYTES", str(1 << 41))

    assert rows(doctor(egret))["usage spool"][0] == "ok"


@pytest.mark.parametrize(("use", "source"), [("admin", "access_log"), ("worker", "off")])
def test_a_spool_that_is_not_needed_is_not_looked_at(
    egret: Egret, monkeypatch: pytest.MonkeyPatch, use: str, source: str
) -> None:
    """The command line may run on another machine than the workers."""
    monkeypatch.setenv("EGRET_USAGE__SPOOL_DIRECTORY", "/proc/none")
    monkeypatch.setenv("EGRET_USAGE__SOURCE", source)
    assert rows(doctor(egret, "--for", use))["usage spool"][0] == "skipped"


def test_a_wrong_setting_is_wrong_usage(egret: Egret, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be looked at then."""
    monkeypatch.setenv("EGRET_SERVER__WORKERS", "0")

    ran = egret("doctor")

    assert (ran.code, ran.out, "EGRET_SERVER__WORKERS" in ran.err) == (2, "", True)
    assert egret("doctor", "--for", "nobody").code == 2


def test_what_is_expected_is_what_the_migrations_make(database: Database) -> None:
    """Neither list is longer than the other."""
    from sidecar.storage.migrate import INDEXES, TRIGGERS  # noqa: PLC0415

    def names(query: str) -> list[Any]:
        return [name for (name,) in asyncio.run(database.fetch(query))]

    indexes = names("SELECT indexname FROM pg_indexes WHERE indexname LIKE 'idx%'")
    triggers = names("SELECT DISTINCT tgname::text FROM pg_trigger WHERE NOT tgisinternal")

    assert sorted(indexes) == sorted(INDEXES)
    assert sorted(triggers) == sorted(TRIGGERS)


def test_keys_in_use_without_usage_are_warned_of(database: Database, egret: Egret) -> None:
    """As behind a gateway that sends no access log: limits on tokens would count estimates."""
    check = "usage source"
    assert rows(doctor(egret, "--for", "admin"))[check] == (
        "ok", "access_log: 0 requests in 25 hours, 0 of them estimated", None,
    )  # fmt: skip
    execute(
        database,
        "INSERT INTO key_activity (key_id, last_used_at, requests, refused)"
        " VALUES ('AAAAAAAAAAA1', now(), 5, 0)",
    )
    state, found, hint = rows(doctor(egret, "--for", "admin"))[check]
    assert (state, found) == (
        "warning", "access_log: keys are in use, and no usage was recorded in 25 hours",
    )  # fmt: skip
    assert hint is not None
    assert "EGRET_USAGE__SOURCE=answers" in hint
