"""`egret --server URL`: the same commands by the administration API, without the database."""

from __future__ import annotations

import asyncio
import json

import pytest

from sidecar import __version__
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


async def test_more_rows_than_an_answer_has_are_read_page_by_page(
    by_server: ByServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a warning for lists that have no pages."""
    await by_server("orgs", "create", "acme")
    for name in ("one", "three", "two"):
        await by_server("teams", "create", name, "--org", "acme")
        await by_server("keys", "create", "--team", "acme/one", "--name", name)
    monkeypatch.setattr("sidecar.cli.admin_server.MAX_ROWS", 2)
    teams = await by_server("teams", "list", "--output", "json")
    keys = await by_server("keys", "list", "--limit", "3", "--output", "json")
    first = await by_server("keys", "list", "--limit", "2", "--output", "json")
    rest = await by_server("keys", "list", "--after", first.json[-1]["key_id"], "-o", "json")
    audit = await by_server("audit", "list", "--limit", "5", "--output", "json")
    alerts = await by_server("alerts", "history", "--limit", "3")
    findings = await by_server("guardrails", "audit", "--limit", "3")

    assert [one["team"] for one in teams.json] == ["acme/one", "acme/three", "acme/two"]
    assert [one["name"] for one in keys.json] == ["one", "three", "two"]
    assert ([one["name"] for one in first.json], keys.err) == (["one", "three"], "")
    assert f"there are more: --after {first.json[-1]['key_id']}" in first.err
    assert [one["name"] for one in rest.json] == ["two"]
    assert len(audit.json) == 5
    for limited in (alerts, findings):
        assert "warning: a server lists 2 rows at most" in limited.err


async def test_an_audit_of_an_unknown_policy_by_the_server_fails(by_server: ByServer) -> None:
    """As without a server."""
    ran = await by_server("guardrails", "audit", "--policy", "nope")
    assert (ran.code, ran.out) == (1, "")
    assert "there is no such policy" in ran.err


async def test_lists_that_servers_may_send_whole_are_read_page_by_page(
    by_server: ByServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tokens, versions, prices, limits and budgets, with the same rows."""
    await by_server("orgs", "create", "acme")
    for name in ("one", "three", "two"):
        await by_server("teams", "create", name, "--org", "acme")
        await by_server("limits", "set", "--team", f"acme/{name}", "cost/day=1")
        await by_server("admin", "create-token", name, "--grant", "viewer")
        await by_server("price", "set", name, "--input", "1", "--output-tokens", "1")
        text = POLICY.replace("bluebird", name)
        await by_server("policy", "apply", "-f", "-", "--yes", stdin=text)
    monkeypatch.setattr("sidecar.cli.admin_server.MAX_ROWS", 2)

    tokens = await by_server("admin", "tokens", "-o", "json")
    versions = await by_server("policy", "history", "strict", "-o", "json")
    prices = await by_server("price", "list", "-o", "json")
    limits = await by_server("limits", "list", "-o", "json")
    budgets = await by_server("budget", "report", "-o", "json")

    assert {"one", "three", "two"} <= {one["name"] for one in tokens.json}
    assert [one["version"] for one in versions.json] == [3, 2, 1]
    assert [one["model"] for one in prices.json] == ["one", "three", "two"]
    for found in (limits, budgets):
        assert [one["whose"] for one in found.json] == ["acme/one", "acme/three", "acme/two"]
    assert "no price is set" not in limits.err


POLICY = """\
name: strict
guardrails:
  - {name: words, type: denied_terms, terms: [bluebird]}
"""


async def test_policies_are_administered_by_the_server(by_server: ByServer) -> None:
    """The plan that was shown is the one that is applied, with the same rows and messages."""
    changed = POLICY.replace("bluebird", "albatross")
    apply = ("policy", "apply", "-f", "-", "--yes")
    dry = await by_server("policy", "apply", "-f", "-", "--dry-run", "-o", "json", stdin=POLICY)
    first = await by_server(*apply, "--note", "one", stdin=POLICY)
    second = await by_server(*apply, stdin=changed)
    faulty = await by_server(*apply, stdin=POLICY.replace("denied_terms", "nothing"))
    diff = await by_server("policy", "diff", "strict", "-o", "json")
    compared = await by_server("policy", "diff", "-f", "-", "-o", "json", stdin=changed)
    back = await by_server("policy", "rollback", "strict", "--yes", "-o", "json")
    demoted = await by_server("policy", "demote", "strict", "words", "--yes")
    unsure = await by_server("policy", "promote", "strict", "words", "--yes")
    nowhere = ("--metrics", "http://127.0.0.1:1/metrics", "--dry-run")
    unknown = await by_server("policy", "promote", "strict", "word", *nowhere)
    tried = await by_server("policy", "promote", "strict", "words", *nowhere)
    promoted = await by_server(
        "policy", "promote", "strict", "words", "--yes", "--without-results"
    )
    history = await by_server("policy", "history", "strict", "-o", "json")
    shown = await by_server("policy", "show", "strict", "--version", "2")
    await by_server("orgs", "create", "acme")
    bound = await by_server("policy", "bind", "strict", "--org", "acme", "-o", "json")
    listed = await by_server("policy", "list", "-o", "json")

    assert [(one["change"], one["to_version"]) for one in dry.json] == [("create", 1)]
    assert "strict: version 1 is stored; no worker is running" in first.err
    assert (second.code, "+  - albatross" in second.out) == (0, True)
    assert (faulty.code, "holds no valid policies" in faulty.err) == (1, True)
    assert (diff.json["from_version"], diff.json["to_version"]) == (1, 2)
    assert compared.json[0]["change"] == "none"
    assert [(one["from_version"], one["to_version"]) for one in back.json] == [(2, 3)]
    assert (demoted.code, promoted.code) == (0, 0)
    assert (unknown.code, unknown.err.count("\n")) == (1, 1)
    assert unknown.err.startswith("error: ")
    assert (tried.code, "results in shadow are unknown" in tried.err) == (0, True)
    assert (unsure.code, "--without-results" in unsure.err) == (2, True)
    assert [(one["version"], one["note"]) for one in history.json] == [
        (5, "promote words"),
        (4, "demote words"),
        (3, "rollback to version 1"),
        (2, None),
        (1, "one"),
    ]
    assert "albatross" in shown.out
    assert bound.json == {"org": "acme", "policy": "strict"}
    assert [(one["name"], one["organizations"]) for one in listed.json] == [("strict", 1)]


async def test_reports_prices_tokens_and_alerts_come_from_the_server(
    by_server: ByServer, database: Database
) -> None:
    """With the rows of the same commands on the database."""
    price = ("price", "set", "gpt-*", "--input", "2.5", "--output-tokens", "10")
    dear = await by_server(*price, "-o", "json")
    made = await by_server("admin", "create-token", "deploy", "--grant", "viewer")
    hours = await by_server(
        "admin", "create-token", "short", "--grant", "viewer", "--expires", "12h"
    )
    tokens = await by_server("admin", "tokens", "-o", "json")
    token = next(one for one in tokens.json if one["name"] == "deploy")
    await by_server("admin", "revoke-token", token["id"])
    unknown = await by_server("alerts", "test", "on-call")
    no_team = await by_server("keys", "list", "--team", "acme/none")

    assert made.out.startswith("ega_")
    assert (hours.code, "whole days" in hours.err) == (2, True)
    assert "or you may not see it; correct the name" in no_team.err
    assert (unknown.code, "there is no alert route on-call" in unknown.err) == (1, True)
    for words in (
        ("price", "list"), ("admin", "tokens"), ("usage", "report"), ("audit", "list"),
        ("guardrails", "audit"), ("alerts", "list"), ("alerts", "history"),
        ("usage", "report", "--by", "key", "--top", "1"),
    ):  # fmt: skip
        there = await by_server(*words, "-o", "json")
        local = await asyncio.to_thread(Egret(database.dsn), *words, "-o", "json")
        assert (there.code, local.code) == (0, 0), there.err
        if words != ("admin", "tokens"):  # its last use is stored as it is used
            assert there.json == local.json
    assert dear.json["input"] == "2.5"


async def test_what_the_server_does_not_do_is_refused_before_anything(
    by_server: ByServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never by the database instead; nor without a token, or over plain http."""
    unsupported = await by_server("usage", "drop", "--keep-months", "1")
    monkeypatch.delenv("EGRET_SERVER_TOKEN")
    tokenless = await by_server("orgs", "list")
    unfit = [
        await asyncio.to_thread(Egret(NO_DATABASE), "--server", url, "orgs", "list")
        for url in (
            "http://egret.example.com",
            "https://[egret",
            "https://user@egret.example.com",
            "https://egret.example.com?team=acme",
        )
    ]

    assert unsupported.code == 2
    assert unsupported.err == (
        "error: `egret usage drop` does not work with --server: the role of `egret admin` cannot"
        " delete usage; run it without --server\n"
    )
    assert (tokenless.code, "EGRET_SERVER_TOKEN is not set" in tokenless.err) == (2, True)
    for one in unfit:
        assert (one.code, one.out) == (2, "")
        assert one.err.startswith("error: --server is no https address; ")


@pytest.mark.parametrize("words", [("orgs", "list"), ("orgs", "create", "acme")])
async def test_a_server_that_is_away_is_named_as_such(
    monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    """Nothing was sent, so no change may have been made."""
    monkeypatch.setenv("EGRET_SERVER_TOKEN", "ega_x")
    away = await asyncio.to_thread(Egret(NO_DATABASE), "--server", "http://127.0.0.1:1", *words)

    assert (away.code, away.err) == (
        1,
        "error: the server gave no answer (ConnectError); check the address of --server\n",
    )


@pytest.mark.parametrize(
    ("answer", "words", "error"),
    [
        (
            b"",
            ("orgs", "create", "acme"),
            (
                "the server gave no answer (RemoteProtocolError); check the address of --server;"
                " a change may have been made: look first"
            ),
        ),
        (
            b"",
            ("orgs", "list"),
            "the server gave no answer (RemoteProtocolError); check the address of --server",
        ),
        (
            b"HTTP/1.1 404 Not Found\r\ncontent-length: 5\r\n\r\n<htm>",
            ("orgs", "list"),
            (
                "the answer of the server is not JSON (status 404); check that the address of"
                " --server is that of `egret admin`"
            ),
        ),
        (
            b'HTTP/1.1 502 Bad Gateway\r\ncontent-length: 20\r\n\r\n{"errors": ["down"]}',
            ("orgs", "create", "acme"),
            (
                "the answer of the server has no `detail` of an error (status 502); check that the"
                " address of --server is that of `egret admin`; a change may have been made: look"
                " first"
            ),
        ),
    ],
)
async def test_a_change_may_have_been_made_only_if_a_command_that_changes_was_sent(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, words: tuple[str, ...], error: str
) -> None:
    monkeypatch.setenv("EGRET_SERVER_TOKEN", "ega_x")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answer)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        ran = await asyncio.to_thread(Egret(NO_DATABASE), "--server", url, *words)

    assert (ran.code, ran.err) == (1, f"error: {error}\n")


@pytest.mark.parametrize(
    ("status", "page", "problem"),
    [
        (
            "422 Unprocessable Content",
            {
                "type": "about:blank",
                "title": "t",
                "status": 422,
                "detail": "the request is not valid",
                "hint": "known parameters: none",
                "errors": [{"in": "query.limit", "fault": "is not a known parameter"}],
            },
            "the server does not know `limit`",
        ),
        ("200 OK", [{"name": "acme"}], "the answer of the server has another form"),
        ("200 OK", {"items": [7], "next": None}, "the answer of the server has another form"),
        ("200 OK", {"items": []}, "the answer of the server has another form"),
    ],
    ids=["no pages", "whole list", "other items", "no next"],
)
@pytest.mark.parametrize("version", ["0.0.9", None])
async def test_a_server_of_another_version_is_named_with_both_versions(
    monkeypatch: pytest.MonkeyPatch, status: str, page: object, problem: str, version: str | None
) -> None:
    """A list that it sends without pages, for one."""
    monkeypatch.setenv("EGRET_SERVER_TOKEN", "ega_x")
    document = {} if version is None else {"info": {"version": version}}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = (await reader.readuntil(b"\r\n\r\n")).split(b"\r\n")[0]
        is_document = line == b"GET /api/v1/openapi.json HTTP/1.1"
        body = json.dumps(document if is_document else page).encode()
        head = f"HTTP/1.1 {'200 OK' if is_document else status}\r\ncontent-length: {len(body)}"
        writer.write(head.encode() + b"\r\nconnection: close\r\n\r\n" + body)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        ran = await asyncio.to_thread(Egret(NO_DATABASE), "--server", url, "orgs", "list")

    versions = f"version {version or 'unknown'} there, version {__version__} here"
    assert (ran.code, ran.err) == (
        1,
        f"error: {problem} ({versions}); use an `egret` of the server's version\n",
    )


@pytest.mark.parametrize("token", ["ega_a\nb", "“ega_a”", "ega_a b"])
async def test_a_token_that_no_header_holds_is_not_sent(
    monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    """It is not repeated either."""
    monkeypatch.setenv("EGRET_SERVER_TOKEN", token)
    ran = await asyncio.to_thread(
        Egret(NO_DATABASE), "--server", "http://127.0.0.1:1", "orgs", "list"
    )

    assert ran.code == 2
    assert ran.err == (
        "error: EGRET_SERVER_TOKEN is not a token: it has a space, a line end or a character"
        " beyond ASCII; copy the token again\n"
    )


async def test_an_unknown_token_is_to_be_checked(
    by_server: ByServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGRET_SERVER_TOKEN", "ega_unknown")

    ran = await by_server("orgs", "list")

    assert (ran.code, ran.err) == (
        1,
        "error: the token is not known, expired or revoked; check EGRET_SERVER_TOKEN\n",
    )
