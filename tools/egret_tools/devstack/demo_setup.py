"""Sets up a new database for the first request: schema, policies, an owner and a key."""

from __future__ import annotations

import secrets
from importlib import resources
from typing import Final

from pydantic import SecretStr

from sidecar.admin.keys import create_key, revoke_key
from sidecar.admin.owners import Rules, create_organization, create_team
from sidecar.keys.credentials import ApiKey, generate
from sidecar.policy.parse import parse_documents
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import Connection, connect
from sidecar.storage.postgres_policies import apply_policy

ORGANIZATION: Final = "demo"
TEAM: Final = "demo"
POLICY: Final = "demo"
POLICIES_FILE: Final = "demo_policies.yaml"

NO_RULES: Final = Rules()


async def set_up(dsn: SecretStr) -> SecretStr:
    """Fill an empty database and return the key, the only time it is known.

    Raises:
        One of `sidecar.storage.pool.UNAVAILABLE`.
    """
    settings = PostgresSettings(dsn=dsn)
    await migrate(settings)
    async with connect(settings) as connection:
        await _apply_policies(connection)
        await create_organization(connection, ORGANIZATION, rules=Rules(policy=POLICY))
        await create_team(connection, TEAM, organization=ORGANIZATION, rules=NO_RULES)
        key = await _new_key(connection, name="demo", rules=NO_RULES)
    return SecretStr(key.reveal())


class TourKeys:
    """The keys of the tour: one for a single model, and one that is revoked on the way."""

    def __init__(self, dsn: str) -> None:
        self._settings = PostgresSettings(dsn=SecretStr(dsn))

    async def create(self, *, model: str) -> tuple[ApiKey, ApiKey]:
        """Return the key that is good for *model* and the one to be revoked."""
        async with connect(self._settings) as connection:
            rules = Rules(allowed_models=(model,))
            good = await _new_key(connection, name="tour", rules=rules)
            return good, await _new_key(connection, name="tour-revoked", rules=NO_RULES)

    async def revoke(self, key: ApiKey) -> None:
        """Take a key away."""
        async with connect(self._settings) as connection:
            await revoke_key(connection, key.key_id)


async def _apply_policies(connection: Connection) -> None:
    text = resources.files("egret_tools.devstack").joinpath(POLICIES_FILE).read_text("utf-8")
    for document in parse_documents(text):
        await apply_policy(
            connection, document.policy.name, document=document.text, expected_version=0
        )


async def _new_key(connection: Connection, *, name: str, rules: Rules) -> ApiKey:
    key = generate(secrets.token_bytes)
    owner = (f"{ORGANIZATION}/{TEAM}", name)
    await create_key(connection, key, owner=owner, expires_at=None, rules=rules)
    return key
