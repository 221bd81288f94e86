from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from egret_tools.devstack.databases import running_valkey
from egret_tools.devstack.processes import Children
from redis.asyncio import Redis

from tests.support.command_line import Egret, Ran
from tests.support.postgres import Database
from tests.support.reporting_worker import reporting_worker

pytestmark = pytest.mark.stack

FIRST = "000000000001"


@pytest.fixture
async def valkey() -> AsyncIterator[str]:
    place = Path(tempfile.mkdtemp(prefix="egret-"))
    async with running_valkey(Children(), directory=place / "valkey", logs=place) as url:
        yield url
    shutil.rmtree(place)


@pytest.fixture
async def egret(database: Database, tmp_path: Path) -> Egret:
    egret = Egret(database.dsn)
    key = {"key_id": FIRST, "secret_sha256": "ab" * 32, "team": "acme/search", "name": "first"}
    (tmp_path / "keys.jsonl").write_bytes(orjson.dumps(key))
    (tmp_path / "policies.yaml").write_text("name: strict\nunscanned: allow\n")
    (tmp_path / "more.yaml").write_text("name: other\n---\nname: strict\n")
    await asyncio.to_thread(
        egret.prepare,
        f"keys import {tmp_path}/keys.jsonl --create-owners",
        f"policy apply --yes -f {tmp_path}/policies.yaml",
    )
    return egret


async def ids(database: Database) -> dict[str, str]:
    async with database.connect() as connection:
        return {
            "team": await connection.fetchval("SELECT 'team:' || id FROM teams"),
            "organization": await connection.fetchval(
                "SELECT 'organization:' || id FROM organizations"
            ),
        }


async def heard(url: str, egret: Egret, *arguments: str) -> tuple[Ran, list[tuple[str, str]]]:
    """What a command published, by topic, times cut off."""
    client = Redis.from_url(url, decode_responses=True)
    topics: Any = client.pubsub()
    await topics.subscribe("egret:keys", "egret:policies")
    ran = await asyncio.to_thread(egret, *arguments)
    await client.publish("egret:keys", "end")
    messages: list[tuple[str, str]] = []
    async for message in topics.listen():
        if message["type"] == "message":
            if message["data"] == "end":
                break
            messages.append((message["channel"], message["data"].partition(",")[0]))
    await topics.aclose()
    await client.aclose()
    return ran, messages


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        pytest.param(f"keys revoke {FIRST}", [FIRST], id="revoke"),
        pytest.param(f"keys disable {FIRST}", [FIRST], id="disable"),
        pytest.param(f"keys enable {FIRST}", [FIRST], id="enable"),
        pytest.param(f"keys expire {FIRST} now", [FIRST], id="expire"),
        pytest.param(f"policy bind strict --key {FIRST}", [FIRST], id="bind to a key"),
        pytest.param("policy bind strict --team search", ["TEAM"], id="bind to a team"),
        pytest.param("policy unbind --org acme", ["ORGANIZATION"], id="unbind an organization"),
        pytest.param("teams disable search", ["TEAM"], id="disable a team"),
        pytest.param("orgs disable acme", ["ORGANIZATION"], id="disable an organization"),
        pytest.param("keys import {}/keys.jsonl --existing skip", ["*"], id="import"),
        pytest.param("keys import {}/keys.jsonl --existing skip --check", [], id="try an import"),
        pytest.param("orgs create zoo", [], id="nobody knows a new organization"),
        pytest.param("keys list", [], id="reading"),
    ],
)
async def test_a_change_is_published_where_workers_cannot_listen(
    egret: Egret,
    database: Database,
    valkey: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    expected: list[str],
) -> None:
    """By the key, or by the owner whose keys it concerns; once."""
    monkeypatch.setenv("EGRET_CACHE__INVALIDATION", "pubsub")
    monkeypatch.setenv("EGRET_VALKEY__URL", valkey)
    known = {name.upper(): scope for name, scope in (await ids(database)).items()}

    ran, messages = await heard(valkey, egret, *command.format(tmp_path).split())

    assert ran.code == 0
    assert messages == [("egret:keys", known.get(scope, scope)) for scope in expected]


async def test_new_keys_and_both_of_a_rotation_are_published(
    egret: Egret, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker may know the new id as one that does not exist."""
    monkeypatch.setenv("EGRET_CACHE__INVALIDATION", "both")
    monkeypatch.setenv("EGRET_VALKEY__URL", valkey)

    options = ["--team", "search", "--name", "second", "-o", "json"]
    created, of_new = await heard(valkey, egret, "keys", "create", *options)
    rotated, of_both = await heard(valkey, egret, "keys", "rotate", FIRST, "-o", "json")

    assert of_new == [("egret:keys", created.json["key_id"])]
    assert of_both == [("egret:keys", rotated.json["key_id"]), ("egret:keys", FIRST)]


async def test_policies_are_published_by_name(
    egret: Egret, valkey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that changed."""
    monkeypatch.setenv("EGRET_CACHE__INVALIDATION", "pubsub")
    monkeypatch.setenv("EGRET_VALKEY__URL", valkey)

    ran, messages = await heard(
        valkey, egret, "policy", "apply", "--yes", "-f", str(tmp_path / "more.yaml")
    )

    assert (ran.code, messages) == (0, [("egret:policies", "other"), ("egret:policies", "strict")])


@pytest.mark.parametrize("invalidation", ["pubsub", "both"])
async def test_a_change_is_in_force_once_workers_that_subscribe_have_received_it(
    egret: Egret,
    database: Database,
    valkey: str,
    monkeypatch: pytest.MonkeyPatch,
    invalidation: str,
) -> None:
    """A token is published behind the change, in the order that they receive."""
    monkeypatch.setenv("EGRET_CACHE__INVALIDATION", invalidation)
    monkeypatch.setenv("EGRET_VALKEY__URL", valkey)

    async with reporting_worker(database, valkey=valkey):
        ran = await asyncio.to_thread(egret, "keys", "disable", FIRST)

    assert (ran.code, ran.err) == (0, "This is in force in 1 worker.\n")


async def test_nothing_is_published_where_workers_listen(
    egret: Egret, valkey: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The database tells them."""
    monkeypatch.setenv("EGRET_VALKEY__URL", valkey)

    ran, messages = await heard(valkey, egret, "keys", "disable", FIRST)

    assert (ran.code, messages) == (0, [])


async def test_a_change_that_cannot_be_published_is_made_and_warned_of(
    egret: Egret, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in the database, so the command has not failed."""
    monkeypatch.setenv("EGRET_CACHE__INVALIDATION", "pubsub")
    monkeypatch.setenv("EGRET_VALKEY__URL", "redis://127.0.0.1:1")

    ran = await asyncio.to_thread(egret, "keys", "revoke", FIRST, "-o", "json")

    assert (ran.code, ran.json["state"]) == (0, "revoked")
    assert ran.err == (
        "warning: the change is made, but Valkey did not pass it on (ConnectionError); workers see"
        " it within 30 s, when they read anew\nThis is stored; no worker is running.\n"
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            f"kind: Key\nid: '{FIRST}'\nsecret_sha256: '{'ab' * 32}'\nteam: acme/search\n"
            "name: first\nenabled: false\n---\nkind: Policy\nname: strict\n",
            [("egret:keys", FIRST), ("egret:policies", "strict")],
            id="a key and a policy",
        ),
        pytest.param(
            "kind: Organization\nname: acme\nenabled: false\n",
            [("egret:keys", "*")],
            id="an owner of any number of keys",
        ),
        pytest.param("kind: Organization\nname: acme\n", [], id="no change"),
    ],
)
async def test_applied_files_are_published(
    egret: Egret,
    valkey: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    text: str,
    expected: list[tuple[str, str]],
) -> None:
    """The keys and policies that changed; all keys where an owner did."""
    monkeypatch.setenv("EGRET_CACHE__INVALIDATION", "pubsub")
    monkeypatch.setenv("EGRET_VALKEY__URL", valkey)
    (tmp_path / "a.yaml").write_text(text)
    options = ("--yes", "--no-wait", "-f", str(tmp_path / "a.yaml"))

    ran, messages = await heard(valkey, egret, "apply", *options)

    assert (ran.code, messages) == (0, expected)
