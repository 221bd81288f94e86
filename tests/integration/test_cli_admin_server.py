"""`egret --server URL`: the same commands by the administration API, without the database."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.admin_server import NO_DATABASE, ByServer
from tests.support.command_line import Egret
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker


async def test_owners_are_administered_by_the_server(by_server: ByServer) -> None:
    """With the same output, exit codes and questions."""
    made = await by_server("orgs", "create", "acme", "--model", "gpt-*", "--output", "json")
    again = await by_server("orgs", "create", "acme")
    missing = await by_server("orgs", "create", "acme", "--if-missing")
    await by_server("teams", "create", "search", "--org", "acme")
    renamed = await by_server("teams", "set", "acme/search", "--name", "find", "--output", "json")
    listed = await by_server("teams", "list", "--org", "acme", "--output", "json")
    off = await by_server("orgs", "disable", "acme", "--output", "json")
    bare = await by_server("teams", "disable", "find")
    deleted = await by_server("orgs", "delete", "acme", "--cascade", "--yes")
    gone = await by_server("orgs", "enable", "acme")

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


async def test_keys_are_administered_by_the_server(
    by_server: ByServer, database: Database
) -> None:
    """The key alone is on standard output; a revocation is in each worker on return."""
    await by_server("orgs", "create", "acme")
    await by_server("teams", "create", "search", "--org", "acme")
    made = await by_server(
        "keys", "create", "--team", "acme/search", "--name", "ci", "--source", "192.0.2.0/24",
        "--expires", "30d",
    )  # fmt: skip
    key_id = made.out[4:16]
    tagged = await by_server("keys", "set", key_id, "--tag", "env=prod", "--output", "json")
    rotated = await by_server("keys", "rotate", key_id, "--grace", "1h", "--output", "json")
    listed = await by_server("keys", "list", "--team", "acme/search", "--output", "json")
    async with reporting_worker(database):
        revoked = await by_server("keys", "revoke", key_id)
    shown = await by_server("keys", "show", key_id, "--output", "json")

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
    by_server: ByServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never by the database instead; nor without a token, or over plain http."""
    unsupported = await by_server("limits", "list", "--org", "acme")
    monkeypatch.delenv("EGRET_SERVER_TOKEN")
    tokenless = await by_server("orgs", "list")
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
