from __future__ import annotations

import secrets

import pytest
from fastapi import FastAPI

from sidecar.admin.owners import ExistsAlreadyError
from sidecar.admin_api import idempotency
from sidecar.admin_api.roles import Grant, Role
from sidecar.admin_api.sign_in import (
    TOKEN_PREFIX,
    begin_login,
    create_token,
    delete_expired,
    list_tokens,
    reveal_token,
    revoke_token,
    take_login,
)
from sidecar.keys.credentials import PREFIX, ApiKey, generate, parse
from tests.support.admin_api import API, client_of, session_client, token_client


async def test_a_name_of_a_token_is_free_again_once_it_is_revoked(app: FastAPI) -> None:
    """And is another's in another organization."""

    async def create(grant: Grant) -> str:
        token = await create_token(
            connection,
            generate(secrets.token_bytes),
            name="ci",
            grant=grant,
            created_by="alice",
            life=None,
        )
        return token.id

    async with app.state.pool.acquire() as connection:
        first = await create(Grant(Role.VIEWER, "org_1"))
        await create(Grant(Role.VIEWER, "org_2"))
        with pytest.raises(ExistsAlreadyError):
            await create(Grant(Role.ADMIN, "org_1"))
        revoked = await revoke_token(connection, first)
        await create(Grant(Role.ADMIN, "org_1"))
        listed = await list_tokens(connection, within=("org_1",))

    assert revoked.revoked_at is not None
    assert [(one.organization, one.role) for one in listed] == [
        ("acme", Role.ADMIN),
        ("acme", Role.VIEWER),
    ]


async def test_a_login_under_way_is_taken_once_and_only_as_its_kind(app: FastAPI) -> None:
    """A link's secret is no state of OpenID Connect."""
    async with app.state.pool.acquire() as connection:
        secret = "a-state"
        await begin_login(connection, "oidc", {"nonce": "n"}, secret=secret)

        assert await take_login(connection, "link", secret) is None
        assert await take_login(connection, "oidc", secret) == {"nonce": "n"}
        assert await take_login(connection, "oidc", secret) is None
        assert await take_login(connection, "oidc", "x" * 1000) is None


async def test_expired_rows_are_swept_and_others_stay(app: FastAPI) -> None:
    """Sessions and keys of idempotency."""
    for person in ("alice", "bob"):
        await session_client(app, "admin", person=person)
    async with app.state.pool.acquire() as connection:
        await connection.execute(
            "UPDATE admin_sessions SET expires_at = now() - interval '1 s' WHERE person = 'bob';"
            "INSERT INTO admin_idempotency_keys (key_sha256, request_sha256, created_at) VALUES"
            " (sha256('a'), sha256('b'), now() - interval '25 hours'),"
            " (sha256('c'), sha256('d'), now())"
        )
        await delete_expired(connection)
        await idempotency.delete_expired(connection)

        sessions = await connection.fetchval("SELECT array_agg(person) FROM admin_sessions")
        keys = await connection.fetchval("SELECT count(*) FROM admin_idempotency_keys")

    assert (sessions, keys) == (["alice"], 1)


async def test_a_token_is_good_with_its_own_secret_alone(app: FastAPI) -> None:
    """Its id is no secret: it is in lists and in the audit log."""
    bot = await token_client(app, "operator:acme")
    token = bot.headers["authorization"].removeprefix(f"Bearer {TOKEN_PREFIX}")
    known = parse(PREFIX + token)
    assert known is not None
    forged = ApiKey(known.key_id, generate(secrets.token_bytes).secret)
    other = client_of(app, authorization=f"Bearer {reveal_token(forged)}")

    answers = [await one.get(f"{API}/me") for one in (bot, other)]

    assert [one.status_code for one in answers] == [200, 401]
