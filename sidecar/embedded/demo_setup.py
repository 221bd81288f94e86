"""What a new database needs before the first request: schema, policies, an owner and a key."""

from __future__ import annotations

import secrets
from importlib import resources
from typing import Final

from pydantic import SecretStr

from sidecar.authorization.api_key import ApiKey, generate
from sidecar.guardrails.policy_document import parse_documents
from sidecar.settings import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import Connection, connect
from sidecar.storage.postgres_policies import apply_policy

ORGANIZATION: Final = "demo"
TEAM: Final = "demo"
POLICY: Final = "demo"
KEY_NAME: Final = "demo"
TOUR_KEY: Final = "tour"
REVOKED_KEY: Final = "tour-revoked"
POLICIES_FILE: Final = "demo_policies.yaml"


async def set_up(dsn: SecretStr) -> SecretStr:
    """Fill an empty database and return the key, the only time it is known.

    Raises:
        One of `sidecar.storage.pool.UNAVAILABLE`.
    """
    settings = PostgresSettings(dsn=dsn)
    await migrate(settings)
    async with connect(settings) as connection:
        await _apply_policies(connection)
        team_id = await _create_team(connection)
        return await create_key(connection, team_id=team_id, name=KEY_NAME)


async def _apply_policies(connection: Connection) -> None:
    text = resources.files("sidecar.embedded").joinpath(POLICIES_FILE).read_text("utf-8")
    for document in parse_documents(text):
        await apply_policy(
            connection, document.policy.name, document=document.text, expected_version=0
        )


async def _create_team(connection: Connection) -> str:
    organization_id = await connection.fetchval(
        "INSERT INTO organizations (name, policy_name) VALUES ($1, $2) RETURNING id",
        ORGANIZATION,
        POLICY,
    )
    team_id: str = await connection.fetchval(
        "INSERT INTO teams (organization_id, name) VALUES ($1, $2) RETURNING id",
        organization_id,
        TEAM,
    )
    return team_id


async def create_key(
    connection: Connection,
    *,
    team_id: str,
    name: str,
    allowed_models: tuple[str, ...] | None = None,
) -> SecretStr:
    """Create a key and return it in the clear."""
    key: ApiKey = generate(secrets.token_bytes)
    await connection.execute(
        "INSERT INTO api_keys (public_id, secret_sha256, team_id, name, allowed_models)"
        " VALUES ($1, $2, $3, $4, $5)",
        key.key_id,
        key.secret_sha256,
        team_id,
        name,
        None if allowed_models is None else list(allowed_models),
    )
    return SecretStr(key.reveal())


class DemoKeys:
    """The keys of the tour: one for a single model, and one that is revoked."""

    def __init__(self, dsn: str) -> None:
        self._settings = PostgresSettings(dsn=SecretStr(dsn))

    async def create(self, *, model: str) -> tuple[SecretStr, SecretStr]:
        """Return the key that is good for *model* and the one to be revoked."""
        async with connect(self._settings) as connection:
            team_id: str = await connection.fetchval("SELECT id FROM teams WHERE name = $1", TEAM)
            good = await create_key(
                connection, team_id=team_id, name=TOUR_KEY, allowed_models=(model,)
            )
            revoked = await create_key(connection, team_id=team_id, name=REVOKED_KEY)
        return good, revoked

    async def revoke(self) -> None:
        """Revoke the second key."""
        async with connect(self._settings) as connection:
            await connection.execute(
                "UPDATE api_keys SET revoked_at = now() WHERE name = $1", REVOKED_KEY
            )
