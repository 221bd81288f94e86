"""`egret --server URL`: the same commands by the administration API, without the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import uvicorn

from sidecar.admin_api.application import create_app
from tests.support.admin_api import admin_settings, token_client
from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker

NO_DATABASE = "postgresql://nobody@127.0.0.1:1/none"
Run = Callable[..., "asyncio.Future[Ran]"]


@pytest.fixture
async def run(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Run]:
    """Run a command by a server that is there, with an administrator's token."""
    app = create_app(admin_settings(database))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", access_log=False)
    server = uvicorn.Server(config)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.serve())
        while not server.started:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        client = await token_client(app, "admin")
        token = client.headers["authorization"].removeprefix("Bearer ")
        monkeypatch.setenv("EGRET_SERVER_TOKEN", token)

        def command(*words: str) -> asyncio.Future[Ran]:
            egret = Egret(NO_DATABASE)
            arguments = ("--server", f"http://127.0.0.1:{port}", *words)
            return asyncio.ensure_future(asyncio.to_thread(egret, *arguments))

        yield command
        server.should_exit = True


async def test_owners_are_administered_by_the_server(run: Run) -> None:
    """With the same output, exit codes and questions."""
    made = await run("orgs", "create", "acme", "--model", "gpt-*", "--output", "json")
    again = await run("orgs", "create", "acme")
    missing = await run("orgs", "create", "acme", "--if-missing")
    await run("teams", "create", "search", "--org", "acme")
    renamed = await run("teams", "set", "acme/search", "--name", "find", "--output", "json")
    listed = await run("teams", "list", "--org", "acme", "--output", "json")
    off = await run("orgs", "disable", "acme", "--output", "json")
    bare = await run("teams", "disable", "find")
    deleted = await run("orgs", "delete", "acme", "--cascade", "--yes")
    gone = await run("orgs", "enable", "acme")

    assert made.json["allowed_models"] == ["gpt-*"]
    assert (again.code, missing.code) == (3, 0)
    assert renamed.json["team"] == "acme/find"
    assert [one["team"] for one in listed.json] == ["acme/find"]
    assert off.json["enabled"] is False
    assert (bare.code, "ORGANIZATION/TEAM" in bare.err) == (2, True)
    assert deleted.err == (
        "Deleted organization acme with 1 team. This is stored; no worker is running.\n"
    )
    assert (gone.code, "there is no such organization" in gone.err) == (1, True)


async def test_keys_are_administered_by_the_server(run: Run, database: Database) -> None:
    """The key alone is on standard output; a revocation is in each worker on return."""
    await run("orgs", "create", "acme")
    await run("teams", "create", "search", "--org", "acme")
    made = await run(
        "keys", "create", "--team", "acme/search", "--name", "ci", "--source", "192.0.2.0/24",
        "--expires", "30d",
    )  # fmt: skip
    key_id = made.out[4:16]
    tagged = await run("keys", "set", key_id, "--tag", "env=prod", "--output", "json")
    rotated = await run("keys", "rotate", key_id, "--grace", "1h", "--output", "json")
    listed = await run("keys", "list", "--team", "acme/search", "--output", "json")
    async with reporting_worker(database):
        revoked = await run("keys", "revoke", key_id)
    shown = await run("keys", "show", key_id, "--output", "json")

    assert made.out.startswith("egk_")
    assert (tagged.json["tags"], tagged.json["allowed_sources"]) == (
        ["env=prod"],
        ["192.0.2.0/24"],
    )
    assert rotated.json["replaces"] == key_id
    assert rotated.json["key"].startswith("egk_")
    assert len(listed.json) == 2
    assert "This is in force in 1 worker.\n" in revoked.err
    assert shown.json["state"] == "revoked"


async def test_what_the_server_does_not_do_is_refused_before_anything(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never by the database instead; nor without a token, or over plain http."""
    unsupported = await run("limits", "list", "--org", "acme")
    monkeypatch.delenv("EGRET_SERVER_TOKEN")
    tokenless = await run("orgs", "list")
    plain = await asyncio.to_thread(
        Egret(NO_DATABASE), "--server", "http://egret.example.com", "orgs", "list"
    )

    assert (unsupported.code, "does not work with --server" in unsupported.err) == (2, True)
    assert (tokenless.code, "EGRET_SERVER_TOKEN is not set" in tokenless.err) == (2, True)
    assert (plain.code, "no https address" in plain.err) == (2, True)


async def test_a_server_that_is_away_is_named_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    """The change may have been made, so nothing is sent again."""
    monkeypatch.setenv("EGRET_SERVER_TOKEN", "ega_x")
    away = await asyncio.to_thread(
        Egret(NO_DATABASE), "--server", "http://127.0.0.1:1", "orgs", "list"
    )

    assert (away.code, "the server gave no answer" in away.err) == (1, True)
