"""Creates, changes and lists API keys in PostgreSQL."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import asyncpg

from sidecar.admin.owners import (
    AS_IT_IS,
    ChangeRefusedError,
    InvalidValueError,
    Rules,
    Unchanged,
    as_array,
    find_team_id,
    models_array,
    refusals,
)
from sidecar.domain.principal import Network
from sidecar.keys.credentials import ApiKey
from sidecar.keys.scopes import Scopes
from sidecar.storage.pool import Connection, as_tuple


class KeyState(enum.Enum):
    """Whether a request with the key would be let in now, or why not."""

    ACTIVE = "active"
    REVOKED = "revoked"
    EXPIRED = "expired"
    NOT_YET = "not_yet"
    DISABLED = "disabled"


@dataclass(frozen=True, slots=True)
class Key:
    """A row of `api_keys` with its owners' names; holds nothing secret.

    Uses are some seconds late; `refused` counts those among the `requests`.
    """

    key_id: str
    name: str
    team: str
    state: KeyState
    not_before: datetime | None
    expires_at: datetime | None
    revoked_at: datetime | None
    replaced_by: str | None
    policy: str | None
    allowed_models: tuple[str, ...] | None
    allowed_operations: tuple[str, ...] | None
    allowed_sources: tuple[str, ...] | None
    tags: tuple[str, ...]
    priority: str
    created_at: datetime
    last_used_at: datetime | None
    requests: int
    refused: int


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """A new key with its text, which is shown this once."""

    key: str
    details: Key
    replaces: Key | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """Which keys, and how many; None does not choose.

    `after` is the id of the last key of the page before. `within` are ids of organizations and
    teams whose keys alone are listed.
    """

    within: tuple[str, ...] | None = None
    team: str | None = None
    organization: str | None = None
    state: KeyState | None = None
    tag: str | None = None
    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class KeyPage:
    """Keys by team, and by name in a team; `has_more` if others follow."""

    keys: tuple[Key, ...]
    has_more: bool


_STATE: Final = """
CASE
    WHEN k.revoked_at IS NOT NULL THEN 'revoked'
    WHEN k.expires_at <= now() THEN 'expired'
    WHEN k.not_before > now() THEN 'not_yet'
    WHEN NOT (k.enabled AND t.enabled AND o.enabled) THEN 'disabled'
    ELSE 'active'
END"""

_KEYS: Final = f"""
SELECT k.public_id AS key_id, k.name, o.name || '/' || t.name AS team, k.not_before, k.expires_at,
       k.revoked_at, k.replaced_by, k.allowed_models, k.allowed_operations,
       k.allowed_sources::text[] AS allowed_sources, k.tags, k.priority,
       k.policy_name AS policy, k.created_at,
       a.last_used_at, COALESCE(a.requests, 0) AS requests, COALESCE(a.refused, 0) AS refused,
       {_STATE} AS state
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id
JOIN organizations AS o ON o.id = t.organization_id
LEFT JOIN key_activity AS a ON a.key_id = k.public_id
"""  # noqa: S608 - made of constants

_ONE: Final = f"{_KEYS} WHERE k.public_id = $1"

_TEAMS_WITHIN: Final = """
SELECT id FROM teams WHERE organization_id = ANY($1::text[]) OR id = ANY($1::text[])
"""

_ORGANIZATION_WITHIN: Final = """
SELECT EXISTS (SELECT FROM organizations AS o WHERE o.name = $1 AND (
    $2::text[] IS NULL OR o.id = ANY($2)
    OR EXISTS (SELECT FROM teams AS t WHERE t.organization_id = o.id AND t.id = ANY($2))))
"""

_PLACE: Final = """
SELECT team_id, name, public_id FROM (
    SELECT team_id, name, public_id, 0 AS deletion FROM api_keys WHERE public_id = $1
    UNION ALL
    SELECT before ->> 'team_id', before ->> 'name', object_id, id FROM audit_log
    WHERE object_id = $1 AND object_type = 'api_keys' AND action = 'delete'
) AS k
WHERE $2::text[] IS NULL OR team_id = ANY($2)
    OR EXISTS (SELECT FROM teams AS t WHERE t.id = k.team_id AND t.organization_id = ANY($2))
ORDER BY deletion <> 0, deletion DESC LIMIT 1
"""
"""A key that was deleted since its page was read has its place in the audit log."""


async def find_key(connection: Connection, key_id: str) -> Key:
    """Return one key.

    Raises:
        ChangeRefusedError: there is no such key.
    """
    row = await connection.fetchrow(_ONE, key_id)
    if row is None:
        raise ChangeRefusedError(f"there is no key {key_id}", hint="see `egret keys list`")
    return _key(row)


async def list_keys(connection: Connection, listing: Listing) -> KeyPage:
    """Return one page of keys.

    A page goes on after its last key's place, so that it costs the same however far down it is,
    and keys that come or go meanwhile shift nothing.

    Raises:
        ChangeRefusedError: there is no such team, organization or key to go on after, or it is
            not *within* those that are listed, which must not tell whether it is there.
    """
    within = listing.within
    team_id = None
    if listing.team is not None:
        team_id = await find_team_id(connection, listing.team, within=within)
    if (name := listing.organization) is not None and not await connection.fetchval(
        _ORGANIZATION_WITHIN, name, within
    ):
        raise ChangeRefusedError(f"there is no organization {name}", hint="see `egret orgs list`")
    after: tuple[str, str, str] | None = None
    if listing.after is not None:
        row = await connection.fetchrow(_PLACE, listing.after, within)
        if row is None:
            raise InvalidValueError(
                f"there is no key {listing.after} to go on after",
                hint="begin again without `after`",
            )
        after = row["team_id"], row["name"], row["public_id"]
    if within is not None:
        # Teams alone, so that the index of the page's order finds their keys.
        rows = await connection.fetch(_TEAMS_WITHIN, within)
        listing = replace(listing, within=tuple(row["id"] for row in rows))
    statement, arguments = page_statement(listing, team_id=team_id, after=after)
    rows = await connection.fetch(statement, *arguments)
    keys = tuple(_key(row) for row in rows[: listing.limit])
    return KeyPage(keys, has_more=len(rows) > listing.limit)


def page_statement(
    listing: Listing, *, team_id: str | None, after: tuple[str, str, str] | None
) -> tuple[str, list[object]]:
    """Return the statement of a page, which reads one key more, and its arguments.

    `within` holds ids of teams here. A filter that is not set is left out: a plan for
    `$1 IS NULL OR …` could use no index.
    """
    arguments: list[object] = []

    def parameter(value: object) -> str:
        arguments.append(value)
        return f"${len(arguments)}"

    conditions = ["true"]
    if team_id is not None:
        conditions.append(f"k.team_id = {parameter(team_id)}")
    if listing.organization is not None:
        conditions.append(f"o.name = {parameter(listing.organization)}")
    if listing.within is not None:
        conditions.append(f"k.team_id = ANY({parameter(listing.within)}::text[])")
    if listing.state is not None:
        conditions.append(f"{_STATE} = {parameter(listing.state.value)}")
    if listing.tag is not None:
        # The second half is the condition of the index.
        conditions.append(f"k.tags @> ARRAY[{parameter(listing.tag)}::text] AND k.tags <> '{{}}'")
    if after is not None:
        place = ", ".join(parameter(part) for part in after)
        conditions.append(f"(k.team_id, k.name, k.public_id) > ({place})")
    statement = (
        f"{_KEYS} WHERE {' AND '.join(conditions)}"
        f" ORDER BY k.team_id, k.name, k.public_id LIMIT {parameter(listing.limit + 1)}"
    )
    return statement, arguments


def _key(row: asyncpg.Record) -> Key:
    arrays = ("allowed_models", "allowed_operations", "allowed_sources", "tags")
    tuples = {name: as_tuple(row[name]) for name in arrays}
    return Key(**dict(row) | tuples | {"state": KeyState(row["state"])})


class Expiry(enum.Enum):
    """Stands where a time could be given."""

    KEEP = "keep"
    """As it is with the key that is replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyChange:
    """The bounds of a key to change; None is no bound."""

    allowed_models: tuple[str, ...] | Unchanged | None = AS_IT_IS
    allowed_operations: tuple[str, ...] | Unchanged | None = AS_IT_IS
    allowed_sources: tuple[Network, ...] | Unchanged | None = AS_IT_IS
    tags: tuple[str, ...] | Unchanged = AS_IT_IS
    not_before: datetime | Unchanged | None = AS_IT_IS
    expires_at: datetime | Unchanged | None = AS_IT_IS
    priority: str | Unchanged = AS_IT_IS


_CASTS: Final = {"allowed_sources": "::text[]::cidr[]"}
"""As in `postgres_keys`: asyncpg needs no codec for cidr."""
_ANY_USE: Final = Scopes()

_CREATE_KEY: Final = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, expires_at, allowed_models,
                      policy_name, allowed_operations, allowed_sources, tags, not_before)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9::text[]::cidr[], $10, $11)
"""

_COPY_KEY: Final = """
INSERT INTO api_keys (public_id, secret_sha256, team_id, name, enabled, not_before, expires_at,
                      allowed_models, policy_name, allowed_operations, allowed_sources, tags,
                      limits, priority)
SELECT $2, $3, team_id, name, enabled, not_before, $4, allowed_models, policy_name,
       allowed_operations, allowed_sources, tags, limits, priority
FROM api_keys WHERE public_id = $1
"""


async def create_key(
    connection: Connection,
    key: ApiKey,
    *,
    owner: tuple[str, str],
    expires_at: datetime | None,
    rules: Rules,
    scopes: Scopes = _ANY_USE,
) -> Key:
    """Store *key*'s digest for `owner`, a team and the key's name in it.

    Raises:
        ChangeRefusedError: no such team or policy, the team has a key of that name in use, a glob
            can be no model's, or the key would never be good.
    """
    team, name = owner
    team_id = await find_team_id(connection, team)
    async with (
        connection.transaction(),
        refusals(f"key {name} of team {team}", policy=rules.policy),
    ):
        await connection.execute(
            _CREATE_KEY,
            key.key_id,
            key.secret_sha256,
            team_id,
            name,
            expires_at,
            models_array(rules.allowed_models),
            rules.policy,
            as_array(scopes.operations),
            _texts(scopes.sources),
            as_array(scopes.tags),
            scopes.not_before,
        )
        return _new(await find_key(connection, key.key_id))


async def revoke_key(connection: Connection, key_id: str) -> Key:
    """Revoke a key for good; the first revocation's time stays.

    Raises:
        ChangeRefusedError: there is no such key.
    """
    await connection.execute(
        "UPDATE api_keys SET revoked_at = now() WHERE public_id = $1 AND revoked_at IS NULL",
        key_id,
    )
    return await find_key(connection, key_id)


async def switch_key(connection: Connection, key_id: str, *, enabled: bool) -> Key:
    """Let the key in, or refuse it until it is enabled again.

    Raises:
        ChangeRefusedError: there is no such key, or it is revoked.
    """
    return await _update(connection, key_id, {"enabled": enabled})


async def change_key(connection: Connection, key_id: str, *, change: KeyChange) -> Key:
    """Change the scopes or the expiry of a key.

    Raises:
        ChangeRefusedError: there is no such key, it is revoked, a glob can be no model's, or it
            would begin to be good after it expires.
    """
    values = {
        field.name: value
        for field in dataclasses.fields(change)
        if not isinstance(value := getattr(change, field.name), Unchanged)
    }
    if "allowed_models" in values:
        values["allowed_models"] = models_array(values["allowed_models"])
    if "allowed_sources" in values:
        values["allowed_sources"] = _texts(values["allowed_sources"])
    async with connection.transaction():
        key = await _update(connection, key_id, values)
        # An expiry that is past ends a key at once, also one that has not begun to be good.
        ends_later = "expires_at" in values and key.state is not KeyState.EXPIRED
        return _in_order(key) if "not_before" in values or ends_later else key


async def _update(connection: Connection, key_id: str, values: Mapping[str, Any]) -> Key:
    async with connection.transaction():
        await _lock_usable(connection, key_id)
        columns = ", ".join(
            f"{name} = ${place}{_CASTS.get(name, '')}"
            for place, name in enumerate(values, start=2)
        )
        await connection.execute(
            f"UPDATE api_keys SET {columns} WHERE public_id = $1",  # noqa: S608 - our own names
            key_id,
            *values.values(),
        )
    return await find_key(connection, key_id)


async def bind_key(connection: Connection, key_id: str, *, policy: str | None) -> Key:
    """Bind *policy* to a key, or none.

    Raises:
        ChangeRefusedError: there is no such key or policy, or the key is revoked.
    """
    async with refusals(f"key {key_id}", policy=policy):
        return await _update(connection, key_id, {"policy_name": policy})


async def expire_key(connection: Connection, key_id: str, *, at: datetime | None) -> Key:
    """Set when a key stops being good; None is never.

    Raises:
        ChangeRefusedError: as `change_key` does.
    """
    return await change_key(connection, key_id, change=KeyChange(expires_at=at))


async def rotate_key(
    connection: Connection,
    key_id: str,
    *,
    key: ApiKey,
    grace: timedelta,
    expires_at: datetime | Expiry | None,
) -> tuple[Key, Key]:
    """Put *key* in the place of *key_id*, which stays good for *grace* at most.

    The new one takes over all but id, secret and expiry. Returns the new and the old.

    Raises:
        ChangeRefusedError: there is no such key, it is revoked, was rotated before, is expired and
            nothing says how long the new one lives, or the new one would never be good.
    """
    async with connection.transaction():
        # The name is unique among keys in use: it is free once the old one names its successor,
        # which must be there by the end of the transaction only.
        await connection.execute("SET CONSTRAINTS api_keys_replaced_by_fkey DEFERRED")
        old = await _lock_usable(connection, key_id)
        if old.replaced_by is not None:
            raise ChangeRefusedError(
                f"key {key_id} was rotated before", hint=f"rotate {old.replaced_by} instead"
            )
        if isinstance(expires_at, Expiry):
            if old.state is KeyState.EXPIRED:
                raise ChangeRefusedError(
                    f"key {key_id} is expired",
                    hint="say how long the new one lives: --expires 30d,"
                    " or `expires_at` in the API",
                )
            expires_at = old.expires_at
        await connection.execute(
            "UPDATE api_keys SET replaced_by = $2,"
            " expires_at = LEAST(expires_at, now() + $3::interval) WHERE public_id = $1",
            key_id,
            key.key_id,
            grace,
        )
        await connection.execute(_COPY_KEY, key_id, key.key_id, key.secret_sha256, expires_at)
        new = _new(await find_key(connection, key.key_id))
    return new, await find_key(connection, key_id)


def _new(key: Key) -> Key:
    """Return a key that was just made; one that is expired already is refused."""
    if key.state is KeyState.EXPIRED:
        raise InvalidValueError(
            f"key {key.name} would never be good: its expiry, {_shown(key.expires_at)}, is past",
            hint="give one that is to come, such as in 30 days",
        )
    return _in_order(key)


def _in_order(key: Key) -> Key:
    """Return *key*; one that expires before it begins to be good is refused."""
    begins, ends = key.not_before, key.expires_at
    if begins is None or ends is None:
        return key
    # asyncpg returns times in UTC, and infinity, which SQL may have set, without a time zone.
    if begins.replace(tzinfo=UTC) >= ends.replace(tzinfo=UTC):
        raise InvalidValueError(
            f"key {key.name} would never be good: it begins at {_shown(begins)}, and expires at"
            f" {_shown(ends)}",
            hint="give a later expiry, or an earlier start",
        )
    return key


def _shown(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%SZ}"


async def _lock_usable(connection: Connection, key_id: str) -> Key:
    await connection.execute("SELECT 1 FROM api_keys WHERE public_id = $1 FOR UPDATE", key_id)
    key = await find_key(connection, key_id)
    if key.revoked_at is not None:
        raise ChangeRefusedError(
            f"key {key_id} is revoked", hint="create another with `egret keys create`"
        )
    return key


def _texts(networks: tuple[Network, ...] | None) -> list[str] | None:
    return None if networks is None else [str(network) for network in networks]
