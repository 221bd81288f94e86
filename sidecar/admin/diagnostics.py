"""Diagnostics of PostgreSQL and Valkey for `egret doctor`."""

from __future__ import annotations

import asyncio
import enum
import secrets
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import asyncpg
from redis.asyncio import RedisCluster

from sidecar.settings.stores import PostgresSettings, UsageSource, ValkeySettings
from sidecar.storage.migrate import (
    CALLS,
    GRANTS,
    INDEXES,
    ROLES,
    TRIGGERS,
    UnknownRevisionError,
    pending,
)
from sidecar.storage.pool import (
    UNAVAILABLE,
    Connection,
    InvalidDsnError,
    connect,
    explain_unavailable,
)
from sidecar.storage.valkey import VALKEY_UNAVAILABLE, Client, open_valkey

MAX_SKEW_SECONDS: Final = 1.0
"""Expiry is judged by the worker's clock, and written by another machine's."""


class CheckState(enum.Enum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    """It works, and yet something should be different."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """There was nothing to look at, or something before it failed."""


class Use(enum.Enum):
    """The purpose of the database's role: a worker, the command line, or `egret admin`."""

    WORKER = "worker"
    ADMIN = "admin"
    CONSOLE = "console"


@dataclass(frozen=True, slots=True)
class Checked:
    """One check: its name, state, finding and hint."""

    check: str
    state: CheckState
    found: str
    hint: str | None = None


def ok(check: str, found: str) -> Checked:
    """Return a check that found all as it should be."""
    return Checked(check, CheckState.OK, found)


def failed(check: str, found: str, *, hint: str) -> Checked:
    """Return a check that found a fault that must be fixed."""
    return Checked(check, CheckState.FAILED, found, hint)


def warning(check: str, found: str, *, hint: str) -> Checked:
    """Return a check that found a fault that should be fixed."""
    return Checked(check, CheckState.WARNING, found, hint)


def skipped(check: str, why: str) -> Checked:
    """Return a check that was not made."""
    return Checked(check, CheckState.SKIPPED, why)


def clock(check: str, *, server: float, sent: float, received: float) -> Checked:
    """Compare a server's clock with ours, which it read at some time between two of our times.

    All in seconds since the epoch; only skew beyond the round trip counts.
    """
    skew = server - sent if server < sent else max(0.0, server - received)
    where = "behind" if skew < 0 else "ahead of"
    found = (
        f"{abs(skew):.3f} s {where} this machine's clock" if skew else "as this machine's clock"
    )
    if abs(skew) > MAX_SKEW_SECONDS:
        return failed(check, found, hint="run NTP (chrony, systemd-timesyncd) on both machines")
    return ok(check, found)


CONNECTION: Final = "postgres connection"
MIGRATIONS: Final = "postgres migrations"
NOTIFICATIONS: Final = "postgres notifications"
PARTITIONS: Final = "postgres usage partitions"
_AFTER_CONNECTION: Final = (NOTIFICATIONS, "postgres clock", MIGRATIONS)
_AFTER_MIGRATIONS: Final = (
    "postgres indexes", "postgres triggers", "postgres roles", "postgres grants",
    PARTITIONS,
)  # fmt: skip
_NOTIFY_SECONDS: Final = 2.0
_SHOWN: Final = 5
_CREATION: Final = "create them as db/versions has them"

_INDEX_STATES: Final = """
SELECT c.relname AS name, i.indisvalid AND i.indisready AS is_valid
FROM pg_index AS i JOIN pg_class AS c ON c.oid = i.indexrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema()
"""

_TRIGGER_STATES: Final = """
SELECT g.tgname AS name, g.tgenabled IN ('O', 'A') AS is_valid
FROM pg_trigger AS g JOIN pg_class AS c ON c.oid = g.tgrelid
JOIN pg_namespace AS n ON n.oid = c.relnamespace
WHERE NOT g.tgisinternal AND n.nspname = current_schema()
"""

_LACKING: Final = """
SELECT privilege || ' on ' || relation
FROM unnest($1::text[], $2::text[]) AS needed (relation, privilege)
WHERE NOT has_table_privilege($3, relation, privilege)
ORDER BY 1
"""

# A function that is not there counts as one that may not be called.
_NOT_TO_CALL: Final = """
SELECT 'EXECUTE on ' || called FROM unnest($1::text[]) AS called
WHERE to_regprocedure(called) IS NULL
    OR NOT has_function_privilege($2, to_regprocedure(called), 'EXECUTE')
ORDER BY 1
"""

_ARE_PREPARED: Final = """
SELECT to_regclass('usage_' || to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')) IS NOT NULL
           AND to_regclass('usage_' || to_char(now() AT TIME ZONE 'UTC' + interval '1 month',
                                               'YYYY_MM')) IS NOT NULL AS is_prepared
"""


async def check_postgres(
    settings: PostgresSettings,
    *,
    use: Use,
    listens: bool = True,
    wall: Callable[[], float] = time.time,
) -> tuple[Checked, ...]:
    """Run all checks; those that depend on a failed one are skipped.

    `listens` is set if workers receive changes by LISTEN.
    """
    try:
        async with connect(settings) as connection:
            first = [
                await _connection(connection),
                await _notifications(connection, settings)
                if listens
                else skipped(NOTIFICATIONS, "the settings do without"),
                await _clock(connection, wall=wall),
            ]
            migrations = await _migrations(settings)
            if migrations.hint is not None:
                return (*first, migrations, *_skipped(_AFTER_MIGRATIONS, MIGRATIONS))
            return (
                *first,
                migrations,
                await _states(
                    connection,
                    ("postgres indexes", _INDEX_STATES),
                    expected=INDEXES,
                    hints=(_CREATION, "REINDEX INDEX CONCURRENTLY each"),
                ),
                await _states(
                    connection,
                    ("postgres triggers", _TRIGGER_STATES),
                    expected=TRIGGERS,
                    hints=(_CREATION, "ALTER TABLE … ENABLE TRIGGER each"),
                ),
                await _roles(connection),
                await _grants(connection, use=use),
                ok(PARTITIONS, "this month and the next are prepared")
                if await connection.fetchval(_ARE_PREPARED)
                else warning(
                    PARTITIONS,
                    "this month or the next has no partition, so that usage goes to usage_default",
                    hint="SELECT egret_prepare_usage(12)",
                ),
            )
    except InvalidDsnError as error:
        broken = failed(CONNECTION, str(error), hint="correct it")
    except UNAVAILABLE as error:
        problem, hint = explain_unavailable(error, settings)
        broken = failed(CONNECTION, problem, hint=hint)
    return (broken, *_skipped((*_AFTER_CONNECTION, *_AFTER_MIGRATIONS), CONNECTION))


def _skipped(checks: Sequence[str], cause: str) -> list[Checked]:
    return [skipped(check, f"waits for {cause}") for check in checks]


async def _connection(connection: Connection) -> Checked:
    row = await connection.fetchrow(
        "SELECT current_setting('server_version') AS version, current_database() AS database,"
        " current_user AS role, pg_is_in_recovery() AS is_standby"
    )
    assert row is not None  # noqa: S101 - a SELECT without FROM has one row
    found = f"PostgreSQL {row['version']}, database {row['database']} as {row['role']}"
    if row["is_standby"]:
        return failed(CONNECTION, f"{found}, a standby", hint="name the primary in the DSN")
    return ok(CONNECTION, found)


async def _notifications(connection: Connection, settings: PostgresSettings) -> Checked:
    """Receive one notification from another connection, as workers receive revocations."""
    check, received = NOTIFICATIONS, asyncio.Event()
    channel = f"egret_doctor_{secrets.token_hex(8)}"
    async with connect(settings) as sender:
        await connection.add_listener(channel, lambda *_: received.set())
        await sender.execute("SELECT pg_notify($1, '')", channel)
        try:
            async with asyncio.timeout(_NOTIFY_SECONDS):
                await received.wait()
        except TimeoutError:
            return failed(
                check,
                "a notification was not received",
                hint="connect without a pooler or with one in session mode, or set"
                " EGRET_CACHE__INVALIDATION=pubsub",
            )
    return ok(check, "received")


async def _clock(connection: Connection, *, wall: Callable[[], float]) -> Checked:
    await connection.execute("SELECT 1")
    sent = wall()
    server = await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::float8")
    return clock("postgres clock", server=server, sent=sent, received=wall())


async def _migrations(settings: PostgresSettings) -> Checked:
    try:
        steps = await pending(settings)
    except UnknownRevisionError as error:
        return failed(MIGRATIONS, str(error), hint="upgrade Egret")
    except asyncpg.InsufficientPrivilegeError as error:
        return failed(
            MIGRATIONS, str(error), hint="GRANT egret_sidecar (or egret_admin) TO this role"
        )
    if steps:
        found = f"pending: {', '.join(step.revision for step in steps)}"
        return failed(MIGRATIONS, found, hint="run `egret migrate`")
    return ok(MIGRATIONS, "none pending")


async def _states(
    connection: Connection,
    query: tuple[str, str],
    *,
    expected: Sequence[str],
    hints: tuple[str, str],
) -> Checked:
    check, statement = query
    states = {row["name"]: row["is_valid"] for row in await connection.fetch(statement)}
    missing = [name for name in expected if name not in states]
    broken = [name for name in expected if not states.get(name, True)]
    if missing:
        return failed(check, f"missing: {_few(missing)}", hint=hints[0])
    if broken:
        return failed(check, f"out of use: {_few(broken)}", hint=hints[1])
    return ok(check, f"all {len(expected)} present and in use")


async def _roles(connection: Connection) -> Checked:
    check = "postgres roles"
    rows = await connection.fetch("SELECT rolname FROM pg_roles WHERE rolname = ANY($1)", ROLES)
    missing = [role for role in ROLES if role not in {row["rolname"] for row in rows}]
    if missing:
        creation = "; ".join(f"CREATE ROLE {role} NOLOGIN" for role in missing)
        return failed(
            check,
            f"missing: {', '.join(missing)}",
            hint=f"{creation}; then SELECT egret_set_up_roles() as the tables' owner",
        )
    for role in ROLES:
        lacking = await _lacking(connection, role, wanted=role)
        if lacking:
            return failed(
                check,
                f"{role} lacks {_few(lacking)}",
                hint="SELECT egret_set_up_roles() as the tables' owner",
            )
    return ok(check, f"{' and '.join(ROLES)} have their grants")


_GROUPS: Final = {
    Use.WORKER: ("egret_sidecar", "a worker"),
    Use.ADMIN: ("egret_admin", "an admin"),
    Use.CONSOLE: ("egret_console", "`egret admin`"),
}


async def _grants(connection: Connection, *, use: Use) -> Checked:
    check = "postgres grants"
    role: str = await connection.fetchval("SELECT current_user")
    group, whose = _GROUPS[use]
    lacking = await _lacking(connection, role, wanted=group)
    if lacking:
        return failed(check, f"{role} lacks {_few(lacking)}", hint=f"GRANT {group} TO {role}")
    if use is Use.WORKER and await connection.fetchval(
        "SELECT has_table_privilege('api_keys', 'INSERT, UPDATE, DELETE')"
    ):
        return warning(
            check,
            f"{role} can write keys, which no worker needs",
            hint="let workers log in as a member of egret_sidecar alone",
        )
    return ok(check, f"{role} has the grants that {whose} needs")


async def _lacking(connection: Connection, role: str, *, wanted: str) -> list[str]:
    needed = GRANTS[wanted]
    rows = await connection.fetch(
        _LACKING, [table for table, _ in needed], [privilege for _, privilege in needed], role
    )
    calls = await connection.fetch(_NOT_TO_CALL, CALLS[wanted], role)
    return [row[0] for row in (*rows, *calls)]


USAGE: Final = "usage source"
_IDLE_SECONDS: Final = 600.0
"""Usage is stored some seconds after an answer's end, and an answer may take minutes."""
_USED: Final = """
SELECT (SELECT extract(epoch FROM max(last_used_at)) FROM key_activity)::float8 AS used_at,
       extract(epoch FROM max(began_at))::float8 AS hour,
       coalesce(sum(requests), 0)::bigint AS requests,
       coalesce(sum(estimated), 0)::bigint AS estimated
FROM usage_by_hour WHERE began_at > now() - interval '25 hours'
"""


async def check_usage(settings: PostgresSettings, source: UsageSource, *, use: Use) -> Checked:
    """Look whether usage is recorded for keys that are in use; a worker's role cannot see it."""
    if source is UsageSource.OFF:
        return ok(USAGE, "off: no tokens, no money, no budgets")
    if use is Use.WORKER:
        return ok(USAGE, source.value)
    try:
        async with connect(settings) as connection:
            row = await connection.fetchrow(_USED)
    except (asyncpg.PostgresError, InvalidDsnError, *UNAVAILABLE):
        return skipped(USAGE, f"waits for {MIGRATIONS}")
    assert row is not None  # noqa: S101 - a SELECT of sums has one row
    used_at, hour = row["used_at"] or 0.0, row["hour"]
    if used_at > (0.0 if hour is None else hour + 3600.0) + _IDLE_SECONDS:
        since = "in 25 hours" if hour is None else "since the last use of a key"
        return warning(
            USAGE,
            f"{source.value}: keys are in use, and no usage was recorded {since}",
            hint="check that this source is set up in Envoy (docs/usage.md), or set"
            " EGRET_USAGE__SOURCE=answers",
        )
    found = f"{row['requests']} requests in 25 hours, {row['estimated']} of them estimated"
    return ok(USAGE, f"{source.value}: {found}")


def _few(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


VALKEY_CONNECTION: Final = "valkey connection"
CLOCK: Final = "valkey clock"
_NO_EVICTION: Final = "noeviction"
_SECONDS: Final = 3.0
"""Far more than a worker waits: here the question is whether there is an answer at all."""


async def check_valkey(
    settings: ValkeySettings, *, wall: Callable[[], float] = time.time
) -> tuple[Checked, ...]:
    """Look at the server that the settings name; without one there is nothing to look at."""
    if settings.url is None:
        why = "no EGRET_VALKEY__URL is set"
        return skipped(VALKEY_CONNECTION, why), skipped(CLOCK, why)
    patient = settings.model_copy(update={"operation_seconds": _SECONDS})
    try:
        async with asyncio.timeout(3 * _SECONDS), open_valkey(patient) as client:
            return await _check(client, wall=wall)
    except VALKEY_UNAVAILABLE as error:
        # Without its text: for a URL that cannot be read it may hold a password.
        broken = failed(
            VALKEY_CONNECTION,
            f"no answer ({type(error).__name__})",
            hint="check that Valkey runs, user and host in EGRET_VALKEY__URL, and the password",
        )
        return broken, skipped(CLOCK, f"waits for {VALKEY_CONNECTION}")


async def _check(client: Client, *, wall: Callable[[], float]) -> tuple[Checked, ...]:
    server = await _run(client, "INFO", "server")
    replication = await _run(client, "INFO", "replication")
    sent = wall()
    seconds, micros = await _run(client, "TIME")
    clocks = clock(CLOCK, server=seconds + micros / 1e6, sent=sent, received=wall())
    found = f"Valkey {server.get('valkey_version') or server.get('redis_version')}"
    if replication.get("role") != "master":
        hint = "name the primary in EGRET_VALKEY__URL, or use Sentinel"
        return failed(VALKEY_CONNECTION, f"{found}, a replica", hint=hint), clocks
    memory = await _run(client, "INFO", "memory")
    limit, policy = memory.get("maxmemory", 0), memory.get("maxmemory_policy", _NO_EVICTION)
    if limit and policy == _NO_EVICTION and memory["used_memory"] >= limit:
        hint = "raise maxmemory, or remove the keys of other programs"
        full = f"{found}, full: it refuses writes, and limits are local"
        return failed(VALKEY_CONNECTION, full, hint=hint), clocks
    if limit and policy != _NO_EVICTION:
        hint = f"maxmemory-policy {_NO_EVICTION}, and alerts on its memory"
        evicting = f"{found}, {policy}: when it is full, counters of limits are lost"
        return warning(VALKEY_CONNECTION, evicting, hint=hint), clocks
    return ok(VALKEY_CONNECTION, found), clocks


async def _run(client: Client, *command: str) -> Any:
    execute: Callable[..., Awaitable[Any]] = client.execute_command
    if isinstance(client, RedisCluster):
        await client.initialize()
        return await execute(*command, target_nodes=client.get_default_node())
    return await execute(*command)
