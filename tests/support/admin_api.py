"""The application of `egret admin` over a real database, with callers of any role."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
from fastapi import FastAPI
from pydantic import SecretStr

from sidecar.admin_api.application import create_app
from sidecar.admin_api.roles import Grant, Permission, find_grant
from sidecar.admin_api.sign_in import create_session, create_token, csrf_token, reveal_token
from sidecar.keys.credentials import generate
from sidecar.settings.administration import AdminSettings
from sidecar.settings.process import Settings
from sidecar.settings.stores import PostgresSettings
from tests.support.postgres import Database

API: Final = "/api/v1"


def admin_settings(database: Database, **changes: object) -> Settings:
    """Settings of `egret admin` on this database."""
    postgres = PostgresSettings(dsn=SecretStr(database.dsn), acquire_seconds=20)
    admin = AdminSettings.model_validate({"requests_per_second": 10000, **changes})
    return Settings(postgres=postgres, admin=admin)


@asynccontextmanager
async def running_app(settings: Settings) -> AsyncIterator[FastAPI]:
    """The application with its pool open, within this process."""
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield app


def client_of(app: FastAPI, **headers: str) -> httpx.AsyncClient:
    """A client without a session; it follows no redirect."""
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    origin = app.state.settings.admin.origin
    return httpx.AsyncClient(
        transport=transport, base_url=origin, headers={"origin": origin, **headers}
    )


async def session_client(
    app: FastAPI, *grants: str, person: str = "alice@example.com"
) -> httpx.AsyncClient:
    """A browser's session with these grants, which sends the token of its forms."""
    services = app.state.services
    async with services.pool.acquire() as connection:
        found = [await find_grant(connection, one) for one in grants]
        secret = await create_session(
            connection, person, found, source="oidc", settings=services.settings.admin
        )
    client = client_of(app, **{"x-csrf-token": csrf_token(secret)})
    client.cookies.set(services.cookie, secret)
    return client


async def token_client(
    app: FastAPI, grant: str, *, name: str = "ci", scopes: Sequence[Permission] | None = None
) -> httpx.AsyncClient:
    """A program with an API token."""
    key = generate(secrets.token_bytes)
    async with app.state.services.pool.acquire() as connection:
        found = await find_grant(connection, grant)
        narrowed = Grant(
            found.role,
            found.organization_id,
            found.team_id,
            None if scopes is None else frozenset(scopes),
        )
        await create_token(
            connection, key, name=name, grant=narrowed, created_by="tests", life=None
        )
    return client_of(app, authorization=f"Bearer {reveal_token(key)}")


async def pages_of(client: httpx.AsyncClient, path: str, **query: str | int) -> list[Any]:
    """The items of each page of a list."""
    pages, wanted = list[Any](), dict(query)
    while True:
        answer = await client.get(f"{API}{path}", params=wanted)
        page = answer.raise_for_status().json()
        pages.append(page["items"])
        if page["next"] is None:
            return pages
        wanted["after"] = page["next"]
