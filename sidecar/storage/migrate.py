"""Migrates the database schema, and checks its version."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import asyncpg

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import Connection, connect

if TYPE_CHECKING:
    from alembic.config import Config


_LOCK: Final = 0x6567726574
"""`egret` in ASCII: an advisory lock of our own."""

_PACKAGED: Final = Path(__file__).parents[1] / "_db"
_CHECKOUT: Final = Path(__file__).parents[2] / "db"


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    revision: str
    summary: str


class UnknownRevisionError(Exception):
    """The database is at a revision that this version of Egret does not know."""

    def __init__(self, revision: str) -> None:
        super().__init__(f"the schema is at {revision}, which this version of Egret does not know")
        self.revision = revision


async def migrate(
    settings: PostgresSettings, *, on_warning: Callable[[str], None] | None = None
) -> tuple[Migration, ...]:
    """Apply all pending migrations or none, and return them.

    A migration may warn of a step that it could not do and that an administrator has to.

    Raises:
        UnknownRevisionError: the database was migrated by a newer Egret.
        One of `UNAVAILABLE`.
    """
    async with connect(settings) as connection, connection.transaction():
        if on_warning is not None:

            def warn(_: object, message: asyncpg.PostgresLogMessage) -> None:
                if message.severity_en == "WARNING":
                    on_warning(str(message.message))

            connection.add_log_listener(warn)
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        revision = await _revision(connection)
        steps = await asyncio.to_thread(_steps_after, revision)
        if steps:
            await connection.execute(await asyncio.to_thread(_render, revision))
    return steps


async def pending(settings: PostgresSettings) -> tuple[Migration, ...]:
    """Return the migrations that `migrate` would apply. Raises as it does."""
    async with connect(settings) as connection:
        revision = await _revision(connection)
    return await asyncio.to_thread(_steps_after, revision)


async def pending_sql(settings: PostgresSettings) -> str:
    """Return the statements that `migrate` would run. Raises as it does."""
    async with connect(settings) as connection:
        revision = await _revision(connection)
    steps = await asyncio.to_thread(_steps_after, revision)
    return await asyncio.to_thread(_render, revision) if steps else ""


async def _revision(connection: Connection) -> str | None:
    try:
        async with connection.transaction():  # a savepoint: the error must not end the outer one
            revision: str | None = await connection.fetchval(
                "SELECT version_num FROM alembic_version"
            )
    except asyncpg.UndefinedTableError:
        return None
    return revision


def _steps_after(revision: str | None) -> tuple[Migration, ...]:
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - see above
    from alembic.script.revision import RevisionError  # noqa: PLC0415

    scripts = ScriptDirectory.from_config(_config(io.StringIO()))
    try:
        found = list(scripts.iterate_revisions("heads", revision or "base"))
    except RevisionError:
        raise UnknownRevisionError(str(revision)) from None
    return tuple(Migration(step.revision, step.doc) for step in reversed(found))


def _render(revision: str | None) -> str:
    from alembic import command  # noqa: PLC0415 - see above

    statements = io.StringIO()
    command.upgrade(_config(statements), f"{revision or 'base'}:head", sql=True)
    return statements.getvalue()


def _config(output: io.StringIO) -> Config:
    from alembic.config import Config  # noqa: PLC0415 - see above

    directory = _PACKAGED if _PACKAGED.is_dir() else _CHECKOUT
    return Config(directory / "alembic.ini", output_buffer=output)


REVISION: Final = "0027"
"""The last of db/versions: the schema that this version of Egret is written for."""

KEYS_CHANNEL: Final = "egret_keys"
"""Payload: the public id of a key, or a scope that holds keys: `team:<id>`, `organization:<id>`,
`*` for all; then, with most changes, a comma and when it was made, in microseconds since the
epoch by the database's clock, a moment before its commit."""

POLICIES_CHANNEL: Final = "egret_policies"
"""Payload: the name of a policy, or `*` for all."""

BARRIERS_CHANNEL: Final = "egret_barriers"
"""Payload: a token that a worker acknowledges in its row of `workers`. Notifications arrive in the
order of their commits, so it has then received every change from before it."""

ROLES: Final = ("egret_sidecar", "egret_admin")
"""Groups of logins: of workers, and of users of the command line."""

INDEXES: Final = (
    "idx_admin_tokens_name",
    "idx_alert_messages_alerts",
    "idx_alert_messages_next_try_at",
    "idx_alert_routes_organization_id",
    "idx_alerts_raised_at",
    "idx_api_keys_policy_name",
    "idx_api_keys_replaced_by",
    "idx_api_keys_tags",
    "idx_api_keys_team_id",
    "idx_api_keys_team_id_name",
    "idx_audit_log_at",
    "idx_audit_log_object_id",
    "idx_audit_log_transaction",
    "idx_organizations_policy_name",
    "idx_teams_policy_name",
    "idx_usage_by_day_key_id",
    "idx_usage_by_day_organization_id",
    "idx_usage_by_day_team_id",
    "idx_usage_by_hour_key_id",
    "idx_usage_by_hour_organization_id",
    "idx_usage_by_hour_team_id",
    "idx_usage_failed_open",
    "idx_usage_key_id_occurred_at",
    "idx_usage_team_id_occurred_at",
)

_AUDITED: Final = (
    "api_keys", "organizations", "policies", "policy_versions", "prices", "teams",
)  # fmt: skip

_AUDITED_ROWS: Final = (*_AUDITED, "admin_sessions", "admin_tokens", "alert_routes")
AUDITED_TABLES: Final = (*_AUDITED_ROWS, "admin_logins", "usage")
"""Tables whose changes are in the audit log; of `admin_logins` new links, of `usage` months."""

TRIGGERS: Final = (
    *(
        f"{table}_audit_{change}"
        for table in _AUDITED_ROWS
        for change in ("delete", "insert", "truncate", "update")
        if (table, change) != ("admin_sessions", "update")  # each use of a session is one
    ),
    "admin_logins_audit_insert",
    "api_keys_forget_activity",
    *(f"api_keys_notify_{change}" for change in ("delete", "insert", "truncate", "update")),
    *(f"organizations_notify_{change}" for change in ("delete", "update")),
    *(f"teams_notify_{change}" for change in ("delete", "update")),
    "policies_notify",
    "policies_notify_truncate",
    "usage_roll_up_delete",
    "usage_roll_up_insert",
    "usage_roll_up_latency",
    "workers_count_death",
)

_READ_BY_ALL: Final = ("alembic_version", *_AUDITED, "workers")

_ADDED_UP: Final = ("key_activity", "findings_by_hour", "findings_by_team")
"""Workers add to rows of these, which takes reading them."""

_READ_BY_ADMINISTRATORS: Final = (
    *_READ_BY_ALL, *_ADDED_UP, "usage", "usage_by_hour", "usage_by_day", "latency_by_hour",
    "audit_log",
)  # fmt: skip

_ALERTING: Final = ("alert_routes", "alerts", "alert_messages")
_SIGN_IN: Final = (
    "admin_sessions", "admin_logins", "admin_tokens", "admin_token_use", "admin_idempotency_keys",
)  # fmt: skip

GRANTS: Final[Mapping[str, tuple[tuple[str, str], ...]]] = {
    "egret_sidecar": (
        *((table, "SELECT") for table in _READ_BY_ALL),
        ("usage", "INSERT"),
        *((table, right) for table in _ADDED_UP for right in ("SELECT", "INSERT", "UPDATE")),
        *(("workers", change) for change in ("INSERT", "UPDATE", "DELETE")),
    ),
    "egret_admin": (
        *((table, "SELECT") for table in _READ_BY_ADMINISTRATORS),
        *((table, change) for table in _AUDITED for change in ("INSERT", "UPDATE", "DELETE")),
        *(
            (table, right)
            for table in (*_ALERTING, "admin_sessions", "admin_logins", "admin_tokens")
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        ),
        *(
            (table, right)
            for table in ("admin_token_use", "admin_idempotency_keys")
            for right in ("SELECT", "DELETE")
        ),
    ),
    "egret_console": (
        *((table, "SELECT") for table in _READ_BY_ADMINISTRATORS),
        *((table, change) for table in _AUDITED for change in ("INSERT", "UPDATE", "DELETE")),
        *(
            (table, right)
            for table in (*_ALERTING, *_SIGN_IN)
            for right in ("SELECT", "INSERT", "UPDATE", "DELETE")
        ),
    ),
}
"""Privileges of each role, as table and privilege; `egret_grant` and `egret_grant_console` grant
them."""

CALLS: Final[Mapping[str, tuple[str, ...]]] = {
    "egret_sidecar": (
        "egret_last_change()",
        "egret_prepare_usage(integer)",
        "egret_usage_found(timestamptz[], text[])",
        "egret_used(text, text, timestamptz)",
    ),
    "egret_admin": (
        "egret_drop_hours(integer)",
        "egret_drop_usage(integer)",
        "egret_prepare_usage(integer)",
        "egret_used(text, text, timestamptz)",
    ),
    "egret_console": ("egret_used(text, text, timestamptz)",),
}
"""Functions that each role may execute, granted by the same."""
