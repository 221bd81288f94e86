from __future__ import annotations

import asyncio
import json
import time
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from fastapi import FastAPI
from joserfc import jwt
from joserfc.jwk import KeySet, RSAKey

from sidecar.admin_api.oidc import _verified
from sidecar.admin_api.problems import Problem
from sidecar.settings.administration import AdminSettings
from tests.integration.admin_api.conftest import OWNERS
from tests.support.admin_api import (
    API,
    admin_settings,
    client_of,
    running_app,
    session_client,
)
from tests.support.postgres import Database

with warnings.catch_warnings(record=True):
    # The provider of the tests still imports authlib.jose, which insists on its warning.
    import oidc_provider_mock

# And its own use of authlib, within its thread.
pytestmark = pytest.mark.filterwarnings("ignore:get_jwt_config:DeprecationWarning")

ROLES = {"acme-ops": ["operator:acme"], "all": ["admin"], "gone": ["operator:none"]}


@pytest.fixture(scope="module")
def issuer() -> Iterator[str]:
    """A provider with four people."""
    users = [
        oidc_provider_mock.User(sub=name, claims={"email": f"{name}@example.com", **info})
        for name, info in (
            ("alice", {"groups": ["acme-ops", "other"]}),
            ("mallory", {"groups": ["other"]}),
            ("gone", {"groups": ["gone"]}),
            ("eve", {"groups": ["acme-ops"], "email": "token ci AAAAAAAAAAA1"}),
        )
    ]
    with oidc_provider_mock.run_server_in_thread(user_claims=users) as server:
        yield f"http://localhost:{server.server_port}"


@pytest.fixture
async def app(database: Database, issuer: str, tmp_path: Path) -> AsyncIterator[FastAPI]:
    """The application with this provider."""
    secret = tmp_path / "secret"
    secret.write_text("the client's\n")
    await database.execute(OWNERS)
    settings = admin_settings(
        database,
        oidc_issuer=issuer,
        oidc_client_id="egret",
        oidc_client_secret_file=secret,
        oidc_roles=ROLES,
        logins_per_minute=1000,
    )
    async with running_app(settings) as running:
        yield running


async def answer_of(browser: httpx.AsyncClient, person: str) -> str:
    """The address to which the provider sends a browser back after the login of *person*."""
    begun = await browser.get("/login/oidc", params={"next": "/keys"})
    assert begun.status_code == 303
    async with httpx.AsyncClient() as provider:
        done = await provider.post(begun.headers["location"], data={"sub": person})
    return str(done.headers["location"])


async def test_a_person_logs_in_with_the_roles_of_their_claims(app: FastAPI) -> None:
    """And comes back to the page that they wanted."""
    browser = client_of(app)

    answer = await answer_of(browser, "alice")
    entered = await browser.get(answer)
    me = (await browser.get(f"{API}/me")).json()

    assert (entered.status_code, entered.headers["location"]) == (303, "/keys")
    assert me["person"] == "alice@example.com"
    assert [(one["role"], one["organization"]) for one in me["grants"]] == [("operator", "acme")]


async def test_a_callback_is_good_once_and_in_the_browser_that_began(app: FastAPI) -> None:
    """A replayed one, one sent to a victim, and one without a state are refused."""
    browser = client_of(app)
    answer = await answer_of(browser, "alice")
    foreign = await answer_of(client_of(app), "alice")

    first, replayed = [await browser.get(answer) for _ in range(2)]
    planted = await client_of(app).get(foreign)
    bare = await browser.get("/login/callback", params={"code": "x"})
    denied = await browser.get(
        "/login/callback",
        params={
            "error": "access_denied",
            "state": parse_qs(urlsplit(await answer_of(browser, "alice")).query)["state"][0],
        },
    )

    codes = [one.status_code for one in (first, replayed, planted, bare, denied)]
    assert codes == [303, 400, 400, 400, 400]


async def test_no_person_has_the_name_of_a_token(app: FastAPI) -> None:
    """The audit log would name the wrong one."""
    browser = client_of(app)

    await browser.get(await answer_of(browser, "eve"))

    assert (await browser.get(f"{API}/me")).json()["person"] == "eve"


@pytest.mark.parametrize("person", ["mallory", "gone"])
async def test_a_person_without_a_role_gets_no_session(app: FastAPI, person: str) -> None:
    """Also one whose role is for an organization that is gone."""
    browser = client_of(app)

    refused = await browser.get(await answer_of(browser, person))

    assert refused.status_code == 403
    assert (await browser.get(f"{API}/me")).status_code == 401


async def test_without_the_provider_there_is_a_problem_to_try_again(database: Database) -> None:
    """The one-time link still works."""
    settings = admin_settings(
        database, oidc_issuer="http://localhost:1", oidc_client_id="egret", oidc_roles=ROLES
    )
    async with running_app(settings) as app:
        answer = await client_of(app).get("/login/oidc")

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize("field", ["authorization_endpoint", "token_endpoint", "jwks_uri"])
async def test_an_incomplete_discovery_document_is_a_problem_that_names_the_field(
    database: Database, field: str
) -> None:
    async def discovery(_: web.Request) -> web.Response:
        known = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        document = {one: f"{issuer}/{one}" for one in known if one != field}
        return web.json_response({"issuer": issuer, **document})

    application = web.Application()
    application.router.add_get("/.well-known/openid-configuration", discovery)
    async with TestServer(application) as server:
        issuer = str(server.make_url("")).rstrip("/")
        settings = admin_settings(
            database, oidc_issuer=issuer, oidc_client_id="egret", oidc_roles=ROLES
        )
        async with running_app(settings) as app:
            answer = await client_of(app).get("/login/oidc")

    assert answer.status_code == 503
    assert f"has no `{field}`" in answer.text


KEY = RSAKey.generate_key(2048, {"kid": "1", "alg": "RS256", "use": "sig"})
SETTINGS = AdminSettings(oidc_issuer="https://id.example.com", oidc_client_id="egret")


def id_token(**changes: Any) -> str:
    now = int(time.time())
    claims = {
        "iss": "https://id.example.com",
        "aud": "egret",
        "sub": "alice",
        "iat": now,
        "exp": now + 60,
        "nonce": "n",
    } | changes
    return jwt.encode({"alg": "RS256", "kid": "1"}, claims, KEY)


def verified(token: str) -> dict[str, Any]:
    keys = KeySet([KEY]).as_dict(private=False)
    return _verified(token, keys, SETTINGS, nonce="n")


def test_clocks_may_differ_by_two_minutes() -> None:
    """Either way."""
    now = int(time.time())

    assert verified(id_token(exp=now - 100))["sub"] == "alice"
    assert verified(id_token(iat=now + 100, exp=now + 200))["sub"] == "alice"


@pytest.mark.parametrize(
    "other", [{"kty": "EC", "crv": "P-999", "x": "AA", "y": "AA"}, {"kty": "new"}, {}, "none"]
)
def test_keys_of_unknown_kinds_are_ignored(other: object) -> None:
    """As RFC 7517 has it in section 5: a provider may have newer ones beside those in use."""
    keys = {"keys": [other, *KeySet([KEY]).as_dict(private=False)["keys"]]}

    assert _verified(id_token(), keys, SETTINGS, nonce="n")["sub"] == "alice"


@pytest.mark.parametrize(
    "changes",
    [
        {"iss": "https://evil.example.com"},
        {"aud": "another"},
        {"aud": ["egret", "another"], "azp": "another"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1},
        {"iat": int(time.time()) + 3600},
        {"sub": 7},
    ],
)
def test_an_id_token_for_another_or_from_another_is_refused(changes: dict[str, Any]) -> None:
    """Each claim alone is enough."""
    with pytest.raises(Problem):
        verified(id_token(**changes))


def test_an_id_token_without_a_signature_of_the_providers_is_refused() -> None:
    """None at all, another key's, and one made with the public key as a secret."""
    other = RSAKey.generate_key(2048, {"kid": "1"})
    claims = jwt.decode(id_token(), KEY).claims
    header, body, _ = id_token().split(".")

    for token in (
        f"{header}.{body}.",
        f"eyJhbGciOiJub25lIn0.{body}.",
        jwt.encode({"alg": "RS256", "kid": "1"}, claims, other),
        "",
        "None",
    ):
        with pytest.raises(Problem):
            verified(token)


async def test_a_provider_that_hangs_holds_no_connection_of_the_database(
    database: Database,
) -> None:
    """Others go on meanwhile, and the one-time link is good; ten logins had the whole pool."""
    both_asked, goes_on = asyncio.Barrier(3), asyncio.Event()

    async def provide(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if head.startswith(b"POST /token"):
            await both_asked.wait()
            await goes_on.wait()
        origin = f"http://localhost:{port}"
        names = ("authorization_endpoint", "token_endpoint", "jwks_uri")
        body = json.dumps({"issuer": origin, **dict.fromkeys(names, f"{origin}/token")}).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nconnection: close\r\n")
        writer.write(b"content-length: %d\r\n\r\n%s" % (len(body), body))
        writer.close()

    async with await asyncio.start_server(provide, "localhost", 0) as server:
        port = server.sockets[0].getsockname()[1]
        settings = admin_settings(
            database, oidc_issuer=f"http://localhost:{port}", oidc_client_id="egret", pool_size=2
        )
        async with running_app(settings) as app:
            alice = await session_client(app, "admin")

            async def log_in() -> int:
                browser = client_of(app)
                begun = await browser.get("/login/oidc")
                (state,) = parse_qs(urlsplit(begun.headers["location"]).query)["state"]
                answer = {"code": "x", "state": state}
                return (await browser.get("/login/callback", params=answer)).status_code

            async with asyncio.TaskGroup() as tasks:
                logins = [tasks.create_task(log_in()) for _ in range(settings.admin.pool_size)]
                await both_asked.wait()
                me = await alice.get(f"{API}/me")
                are_waiting = not any(one.done() for one in logins)
                goes_on.set()

    assert (me.status_code, are_waiting) == (200, True)
    assert [one.result() for one in logins] == [400, 400]
