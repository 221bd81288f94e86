"""`egret admin`: the process, its one-time links and its tokens."""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from sidecar.settings.sections import inherited_environment
from tests.support.command_line import Egret
from tests.support.postgres import Database

UNREADABLE = "correct the path, or let the user of `egret admin` read the file"
EMPTY = "write the client's secret into it, or unset the variable for a public client"


def free_port() -> int:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port: int = listener.getsockname()[1]
        return port


async def test_the_process_serves_a_first_login_and_ends_gracefully(database: Database) -> None:
    """From the link that the command prints to the page, and SIGTERM is no failure."""
    port = free_port()
    egret = Egret(database.dsn)
    settings = {"EGRET_ADMIN__PORT": str(port), "EGRET_POSTGRES__DSN": database.dsn}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "admin", env=inherited_environment() | settings,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    assert b"admin.started" in await process.stderr.readline()
    made = await asyncio.to_thread(egret, "--as", "alice", "admin", "login-link", "-o", "json")
    assert made.json["person"] == "alice"
    link = httpx.URL(made.json["link"])
    async with httpx.AsyncClient(
        base_url=f"http://127.0.0.1:{port}",
        transport=httpx.AsyncHTTPTransport(retries=5),
        headers={"origin": f"http://127.0.0.1:{port}"},
    ) as browser:
        async with asyncio.timeout(60):
            while True:
                with contextlib.suppress(httpx.ConnectError):
                    await browser.get("/healthz")
                    break
        entered = await browser.post("/login/link", data={"token": link.params["token"]})
        me = await browser.get("/api/v1/me")
    process.send_signal(signal.SIGTERM)

    assert made.code == 0
    assert entered.status_code == 303
    assert me.json()["person"] == "alice"
    assert await process.wait() == 0


async def test_a_start_behind_an_unnamed_proxy_warns(database: Database) -> None:
    """All people would share the bounds of one address."""
    settings = {
        "EGRET_ADMIN__PORT": str(free_port()),
        "EGRET_ADMIN__PUBLIC_URL": "https://egret.example.com",
        "EGRET_POSTGRES__DSN": database.dsn,
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "sidecar", "admin", env=inherited_environment() | settings,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stderr is not None
    async with asyncio.timeout(60):
        lines = [await process.stderr.readline() for _ in range(2)]
    process.send_signal(signal.SIGTERM)

    assert b"admin.started" in lines[0]
    assert b"admin.proxies_unset" in lines[1]
    assert b"EGRET_ADMIN__PROXIES" in lines[1]
    assert await process.wait() == 0


def test_a_port_in_use_is_named_and_nothing_is_logged_as_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Wrong usage, as for `egret serve`."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        monkeypatch.setenv("EGRET_ADMIN__PORT", str(port))
        ran = Egret("postgresql://nobody@127.0.0.1:1/none")("admin")

    problem = f"error: cannot listen on 127.0.0.1:{port} (Address already in use)"
    hint = "free it or set EGRET_ADMIN__HOST and EGRET_ADMIN__PORT"
    assert (ran.code, ran.out, ran.err) == (2, "", f"{problem}; {hint}\n")


@pytest.mark.parametrize(
    ("grant", "fault"),
    [
        ("chief", "there is no role 'chief'; there are viewer, team_lead, operator, admin"),
        ("viewer:", "'viewer:' names no organization: write operator:acme"),
        ("admin:acme/web", "role admin is for organizations: write admin:acme"),
    ],
)
def test_roles_of_people_that_are_none_are_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, grant: str, fault: str
) -> None:
    """Else a misspelt one would be found by whoever cannot log in."""
    monkeypatch.setenv("EGRET_ADMIN__OIDC_ROLES", json.dumps({"ops": ["viewer:acme", grant]}))

    ran = Egret("postgresql://nobody@127.0.0.1:1/none")("admin")

    problem = f"error: EGRET_ADMIN__OIDC_ROLES: {fault}"
    assert (ran.code, ran.out, ran.err) == (2, "", f"{problem}; correct the environment\n")


@pytest.mark.parametrize(
    ("content", "fault", "hint"),
    [
        (None, "cannot be read (No such file or directory)", UNREADABLE),
        (b"\xff", "cannot be read (it is not UTF-8)", UNREADABLE),
        (b" \n", "is empty", EMPTY),
    ],
    ids=["missing", "binary", "empty"],
)
def test_a_client_secret_that_cannot_be_read_is_refused_at_the_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: bytes | None, fault: str, hint: str
) -> None:
    """Else every login would fail, as if the identity provider were away."""
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("EGRET_ADMIN__OIDC_CLIENT_SECRET_FILE", str(file))

    ran = Egret("postgresql://nobody@127.0.0.1:1/none")("admin")

    problem = f"error: EGRET_ADMIN__OIDC_CLIENT_SECRET_FILE: {file} {fault}; {hint}\n"
    assert (ran.code, ran.out, ran.err) == (2, "", problem)


async def test_tokens_are_made_listed_and_revoked(database: Database) -> None:
    """Standard output is the token alone; the log-out of a person ends nothing else."""
    egret = Egret(database.dsn)

    async def run(*arguments: str) -> tuple[int, str, str]:
        ran = await asyncio.to_thread(egret, "admin", *arguments)
        return ran.code, ran.out, ran.err

    made = await run("create-token", "ci", "--grant", "viewer", "--scope", "view")
    unknown = await run("create-token", "ci2", "--grant", "operator:none")
    team = await run("create-token", "ci2", "--grant", "chief")
    as_json = await run("create-token", "deploy", "--grant", "viewer", "--output", "json")
    listed = await run("tokens", "--output", "json")
    token_id = made[1][4:16]
    revoked = await run("revoke-token", token_id, "--output", "json")
    ended = await run("log-out", "alice", "-o", "json")

    assert made[0] == 0
    assert made[1].startswith("ega_")
    assert json.loads(as_json[1])["token"][4:16] == json.loads(as_json[1])["id"]
    assert "there is no organization none" in unknown[2]
    assert (unknown[0], team[0]) == (2, 2)
    assert token_id in listed[1]
    assert made[1].strip() not in listed[1]
    assert '"revoked_at": null' not in revoked[1]
    assert json.loads(ended[1]) == {"person": "alice", "sessions": 0}
    assert ended[2] == "Ended 0 sessions.\n"
