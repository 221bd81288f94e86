"""Sessions, logins under way and API tokens in PostgreSQL, each found by the digest of a secret.

Times are those of the database: clocks of processes and browsers decide nothing.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg
import orjson

from sidecar.admin.owners import ChangeRefusedError, refusals
from sidecar.admin_api.roles import Grant, Permission, Role
from sidecar.keys import credentials
from sidecar.settings.administration import AdminSettings
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import Connection, Pool, as_tuple, fetch

TOKEN_PREFIX: Final = "ega_"  # noqa: S105 - public
TOKEN_ACTOR: Final = "token "  # noqa: S105 - public
"""Names of programs in the audit log begin with it, those of people do not."""
MAX_SECRET_CHARACTERS: Final = 128
LOGIN_SECONDS: Final = 300.0
"""Life of a one-time link, and of the state of a login at an identity provider."""
MAX_PERSON_CHARACTERS: Final = 200
SEEN_SECONDS: Final = 60
"""A session's last use is written at most this often."""


@dataclass(frozen=True, slots=True)
class Identity:
    """A person with a session, or a program with a token.

    `name` is that of the audit log, of rate limits and of idempotency keys, so no two have the
    same: tokens of two organizations may have one name, so theirs has the id.
    """

    name: str
    grants: tuple[Grant, ...]
    expires_at: datetime | None = None
    """The end of a token; None for a session."""


@dataclass(frozen=True, slots=True)
class Token:
    """A row of `admin_tokens` with its owner's names; holds nothing secret."""

    id: str
    name: str
    role: Role
    organization: str | None
    team: str | None
    scopes: tuple[str, ...] | None
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True)
class CreatedToken:
    """A new token with its text, which is shown this once."""

    token: str
    details: Token


def digest(secret: str) -> bytes:
    """Return the form in which a secret is stored."""
    return hashlib.sha256(secret.encode()).digest()


def csrf_token(session_secret: str) -> str:
    """Return the token of a session's forms, which only the holder of its cookie can compute."""
    return hashlib.sha256(f"csrf {session_secret}".encode()).hexdigest()


_CREATE_SESSION: Final = """
INSERT INTO admin_sessions (secret_sha256, person, source, grants, expires_at)
VALUES ($1, $2, $3, $4::jsonb, now() + make_interval(secs => $5))
"""

_FIND_SESSION: Final = """
WITH found AS (
    SELECT secret_sha256, person, grants::text AS grants, seen_at FROM admin_sessions
    WHERE secret_sha256 = $1 AND expires_at > now()
        AND seen_at > now() - make_interval(secs => $2)
), seen AS (
    UPDATE admin_sessions AS s SET seen_at = now() FROM found AS f
    WHERE s.secret_sha256 = f.secret_sha256 AND f.seen_at < now() - make_interval(secs => $3)
)
SELECT person, grants FROM found
"""


async def create_session(
    connection: Connection,
    person: str,
    grants: Iterable[Grant],
    *,
    source: str,
    settings: AdminSettings,
) -> str:
    """Store a session and return its secret, which the browser keeps in a cookie."""
    secret = secrets.token_urlsafe(32)
    await connection.execute(
        _CREATE_SESSION, digest(secret), person[:MAX_PERSON_CHARACTERS], source,
        _written(grants), settings.session_seconds,
    )  # fmt: skip
    return secret


async def find_session(
    pool: Pool, secret: str, *, postgres: PostgresSettings, idle_seconds: float
) -> Identity | None:
    """Return the person of a session in use; None if there is none, or it has expired."""
    if len(secret) > MAX_SECRET_CHARACTERS:
        return None
    # Well within the time of idleness, or a session would end in the middle of its use.
    seen_after = min(SEEN_SECONDS, idle_seconds / 10)
    rows = await fetch(
        pool, _FIND_SESSION, digest(secret), idle_seconds, seen_after, settings=postgres
    )
    if not rows:
        return None
    return Identity(rows[0]["person"], _read(rows[0]["grants"]))


async def end_session(connection: Connection, secret: str) -> None:
    """Delete a session."""
    await connection.execute("DELETE FROM admin_sessions WHERE secret_sha256 = $1", digest(secret))


async def end_sessions_of(connection: Connection, person: str) -> int:
    """Delete all sessions of a person, and return their number."""
    rows = await connection.fetch(
        "DELETE FROM admin_sessions WHERE person = $1 RETURNING true", person
    )
    return len(rows)


async def delete_expired(connection: Connection) -> None:
    """Delete sessions and logins that are over."""
    await connection.execute("DELETE FROM admin_sessions WHERE expires_at < now()")
    await connection.execute("DELETE FROM admin_logins WHERE expires_at < now()")


def _written(grants: Iterable[Grant]) -> str:
    return orjson.dumps(
        [
            {"role": one.role.value, "organization": one.organization_id, "team": one.team_id}
            for one in grants
        ]
    ).decode()


def _read(text: str) -> tuple[Grant, ...]:
    return tuple(
        Grant(Role(one["role"]), one["organization"], one["team"]) for one in orjson.loads(text)
    )


_CREATE_LOGIN: Final = """
INSERT INTO admin_logins (secret_sha256, kind, details, expires_at)
VALUES ($1, $2, $3::jsonb, now() + make_interval(secs => $4))
"""

_TAKE_LOGIN: Final = """
DELETE FROM admin_logins WHERE secret_sha256 = $1 AND kind = $2
RETURNING details::text AS details, expires_at > now() AS is_good
"""


async def begin_login(
    connection: Connection, kind: str, details: Mapping[str, Any], *, secret: str
) -> None:
    """Store a login under way, to be found by *secret*."""
    await connection.execute(
        _CREATE_LOGIN, digest(secret), kind, orjson.dumps(dict(details)).decode(), LOGIN_SECONDS
    )


async def begin_link_login(connection: Connection, person: str, grants: Iterable[Grant]) -> str:
    """Store a one-time login of *person* and return the secret of its link."""
    details = {"person": person[:MAX_PERSON_CHARACTERS], "grants": _written(grants)}
    secret = secrets.token_urlsafe(32)
    await begin_login(connection, "link", details, secret=secret)
    return secret


async def take_login(connection: Connection, kind: str, secret: str) -> Mapping[str, Any] | None:
    """Delete a login under way and return its details; None if it was used or is too old."""
    if len(secret) > MAX_SECRET_CHARACTERS:
        return None
    row = await connection.fetchrow(_TAKE_LOGIN, digest(secret), kind)
    if row is None or not row["is_good"]:
        return None
    details: Mapping[str, Any] = orjson.loads(row["details"])
    return details


async def take_link_login(
    connection: Connection, secret: str
) -> tuple[str, tuple[Grant, ...]] | None:
    """Return the person and grants of a one-time link, once."""
    details = await take_login(connection, "link", secret)
    return None if details is None else (details["person"], _read(details["grants"]))


_TOKENS: Final = """
SELECT a.id, a.name, a.role, o.name AS organization, o.name || '/' || t.name AS team, a.scopes,
       a.created_at, a.created_by, a.expires_at, a.revoked_at, u.last_used_at
FROM admin_tokens AS a
LEFT JOIN organizations AS o ON o.id = a.organization_id
LEFT JOIN teams AS t ON t.id = a.team_id
LEFT JOIN admin_token_use AS u ON u.token_id = a.id
"""

_INSERT_GRANT: Final = """
INSERT INTO admin_tokens (id, secret_sha256, name, role, organization_id, team_id, scopes,
                          created_by, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""

_FIND_GRANT: Final = """
WITH found AS (
    SELECT id, secret_sha256, name, role, organization_id, team_id, scopes, expires_at
    FROM admin_tokens
    WHERE id = $1 AND secret_sha256 = $2 AND revoked_at IS NULL
        AND (expires_at IS NULL OR expires_at > now())
), used AS (
    INSERT INTO admin_token_use (token_id, last_used_at) SELECT id, now() FROM found
    ON CONFLICT (token_id) DO UPDATE SET last_used_at = now()
    WHERE admin_token_use.last_used_at < now() - make_interval(secs => $3)
)
SELECT id, name, role, organization_id, team_id, scopes, expires_at FROM found
"""


def reveal_token(key: credentials.ApiKey) -> str:
    """Return the text of a token, to be shown once: a key of another prefix."""
    return TOKEN_PREFIX + key.reveal().removeprefix(credentials.PREFIX)


async def create_token(
    connection: Connection,
    key: credentials.ApiKey,
    *,
    name: str,
    grant: Grant,
    created_by: str,
    life: timedelta | None,
) -> Token:
    """Store *key*'s digest as an API token.

    Raises:
        ChangeRefusedError: a token of that name is in use, or it is no name.
    """
    scopes = None if grant.scopes is None else sorted(one.value for one in grant.scopes)
    expires_at = None
    if life is not None:
        expires_at = await connection.fetchval("SELECT now() + $1::interval", life)
    async with refusals(f"token {name}"):
        await connection.execute(
            _INSERT_GRANT, key.key_id, key.secret_sha256, name, grant.role.value,
            grant.organization_id, grant.team_id, scopes, created_by[:MAX_PERSON_CHARACTERS],
            expires_at,
        )  # fmt: skip
    return await show_token(connection, key.key_id)


async def list_tokens(
    connection: Connection,
    *,
    within: tuple[str, ...] | None = None,
    after: tuple[bool, str, str] | None = None,
    most: int | None = None,
) -> tuple[Token, ...]:
    """Return the tokens by name, revoked ones last, or the *most* of them behind *after*.

    With *within*, those of these organizations and teams alone. A place is whether the token is
    revoked, its name and its id.
    """
    rows = await connection.fetch(
        f"{_TOKENS} WHERE ($1::text[] IS NULL OR a.organization_id = ANY($1)"
        "     OR a.team_id = ANY($1))"
        " AND ($3::boolean IS NULL OR (a.revoked_at IS NOT NULL, a.name, a.id) > ($3, $4, $5))"
        " ORDER BY a.revoked_at IS NOT NULL, a.name, a.id LIMIT $2",
        within,
        most,
        *(after or (None, None, None)),
    )
    return tuple(_token(row) for row in rows)


async def may_reach(
    connection: Connection, token_id: str, *, within: tuple[str, ...] | None
) -> bool:
    """Return whether a token is there, and of these organizations and teams if they are given."""
    return bool(
        await connection.fetchval(
            "SELECT EXISTS (SELECT FROM admin_tokens AS a WHERE a.id = $2 AND ($1::text[] IS NULL"
            " OR a.organization_id = ANY($1) OR a.team_id = ANY($1)))",
            within,
            token_id,
        )
    )


async def show_token(connection: Connection, token_id: str) -> Token:
    """Return one token.

    Raises:
        ChangeRefusedError: there is no such token.
    """
    row = await connection.fetchrow(f"{_TOKENS} WHERE a.id = $1", token_id)
    if row is None:
        raise ChangeRefusedError(f"there is no token {token_id}", hint="see `egret admin tokens`")
    return _token(row)


async def revoke_token(connection: Connection, token_id: str) -> Token:
    """Revoke a token for good; the first revocation's time stays.

    Raises:
        ChangeRefusedError: there is no such token.
    """
    await connection.execute(
        "UPDATE admin_tokens SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL", token_id
    )
    return await show_token(connection, token_id)


async def find_token(pool: Pool, text: str, *, postgres: PostgresSettings) -> Identity | None:
    """Return the program that *text* is the token of; None if it is none, or no longer good."""
    if not text.startswith(TOKEN_PREFIX):
        return None
    key = credentials.parse(credentials.PREFIX + text.removeprefix(TOKEN_PREFIX))
    if key is None:
        return None
    rows = await fetch(
        pool, _FIND_GRANT, key.key_id, key.secret_sha256, SEEN_SECONDS, settings=postgres
    )
    if not rows:
        return None
    row = rows[0]
    scopes = None if row["scopes"] is None else frozenset(map(Permission, row["scopes"]))
    grant = Grant(Role(row["role"]), row["organization_id"], row["team_id"], scopes)
    name = f"{TOKEN_ACTOR}{row['name']} {row['id']}"
    return Identity(name, (grant,), expires_at=row["expires_at"])


def _token(row: asyncpg.Record) -> Token:
    return Token(**dict(row) | {"role": Role(row["role"]), "scopes": as_tuple(row["scopes"])})
