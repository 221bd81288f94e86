"""Sets up a database for the first request: schema, policies, an owner and a key."""

from __future__ import annotations

import secrets
from contextlib import suppress
from importlib import resources
from typing import Final

from pydantic import SecretStr

from sidecar.admin.keys import create_key, find_key, revoke_key
from sidecar.admin.limits import OwnedLimits, Owner, change_limits
from sidecar.admin.owners import (
    ChangeRefusedError,
    Rules,
    create_organization,
    create_team,
    organizations,
)
from sidecar.domain.limits import Level, Limit
from sidecar.keys.credentials import ApiKey, generate, parse
from sidecar.limits.limit_syntax import Selectors, parse_limit
from sidecar.policy.parse import parse_documents
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import migrate
from sidecar.storage.pool import Connection, connect
from sidecar.storage.postgres_policies import apply_policy, load_policy

ORGANIZATION: Final = "demo"
TEAM: Final = "demo"
POLICY: Final = "demo"
POLICIES_FILE: Final = "demo_policies.yaml"

NO_RULES: Final = Rules()


async def set_up(dsn: SecretStr, *, known: str | None = None) -> SecretStr:
    """Create what the first request needs and is missing; return the key.

    *known* is the key of an earlier run. It is returned if it is still in use, else a new one.

    Raises:
        UnknownRevisionError: the data is of a newer version of Egret.
        One of `sidecar.storage.pool.UNAVAILABLE`.
    """
    settings = PostgresSettings(dsn=dsn)
    await migrate(settings)
    async with connect(settings) as connection:
        if known is not None and await _is_in_use(connection, known):
            return SecretStr(known)
        await _apply_policies(connection)
        # They exist already if an earlier set-up was interrupted, or its key revoked.
        with suppress(ChangeRefusedError):
            await create_organization(connection, ORGANIZATION, rules=Rules(policy=POLICY))
        with suppress(ChangeRefusedError):
            await create_team(connection, TEAM, organization=ORGANIZATION, rules=NO_RULES)
        try:
            key = await _new_key(connection, name="demo", rules=NO_RULES)
        except ChangeRefusedError:
            key = await _new_key(connection, name=f"demo-{secrets.token_hex(3)}", rules=NO_RULES)
    return SecretStr(key.reveal())


EXAMPLES: Final = {
    "heron": {"checkout": "cost/month=250", "support": "requests/minute=60"},
    "ibis": {"research": "tokens/day=2000000"},
}
"""Organizations, their teams and a limit of each: a console with nothing in it shows little."""


async def set_up_examples(dsn: SecretStr) -> None:
    """Create the organizations of `EXAMPLES`, unless one of them is there."""
    async with connect(PostgresSettings(dsn=dsn)) as connection, connection.transaction():
        if {one.name for one in await organizations(connection)} & set(EXAMPLES):
            return
        for organization, teams in EXAMPLES.items():
            await create_organization(connection, organization, rules=Rules(policy=POLICY))
            for team, words in teams.items():
                await create_team(connection, team, organization=organization, rules=NO_RULES)
                owner = Owner(Level.TEAM, f"{organization}/{team}")

                def limits(before: OwnedLimits, words: str = words) -> tuple[Limit, ...]:
                    owner_id = before.owner_id
                    return (
                        parse_limit(
                            words, level=Level.TEAM, owner=owner_id, selectors=Selectors()
                        ),
                    )

                await change_limits(connection, owner, limits)


async def _is_in_use(connection: Connection, text: str) -> bool:
    key = parse(text)
    try:
        return key is not None and (await find_key(connection, key.key_id)).revoked_at is None
    except ChangeRefusedError:
        return False


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
        if await load_policy(connection, document.policy.name) is None:
            await apply_policy(
                connection, document.policy.name, document=document.text, expected_version=0
            )


async def _new_key(connection: Connection, *, name: str, rules: Rules) -> ApiKey:
    key = generate(secrets.token_bytes)
    owner = (f"{ORGANIZATION}/{TEAM}", name)
    await create_key(connection, key, owner=owner, expires_at=None, rules=rules)
    return key
