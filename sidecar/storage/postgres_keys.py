"""Loads key records from PostgreSQL, and listens for changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final, Never

import asyncpg
import structlog

from sidecar.domain.limits import Level, Limit, Priority
from sidecar.domain.principal import KeyRecord, PolicyBinding, Principal
from sidecar.keys.credentials import KEY_ID_LENGTH
from sidecar.keys.ports import (
    Fence,
    KeyReading,
    KeyStoreUnavailableError,
    KeyUnreadableError,
)
from sidecar.limits.serialization import read_limits
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.migrate import BARRIERS_CHANNEL, KEYS_CHANNEL, POLICIES_CHANNEL
from sidecar.storage.pool import UNAVAILABLE, Connection, Pool, as_tuple, connect, fetch

_LOAD_KEY: Final = """
SELECT k.public_id,
       k.secret_sha256,
       k.enabled,
       t.enabled AS team_enabled,
       o.enabled AS organization_enabled,
       extract(epoch FROM k.not_before)::float8 AS not_before,
       extract(epoch FROM k.expires_at)::float8 AS expires_at,
       extract(epoch FROM k.revoked_at)::float8 AS revoked_at,
       COALESCE(k.allowed_models, t.allowed_models, o.allowed_models) AS allowed_models,
       k.policy_name AS key_policy,
       t.policy_name AS team_policy,
       o.policy_name AS organization_policy,
       t.id AS team_id,
       t.name AS team_name,
       o.id AS organization_id,
       o.name AS organization_name,
       k.allowed_operations,
       k.allowed_sources::text[] AS allowed_sources,
       k.limits AS key_limits,
       t.limits AS team_limits,
       o.limits AS organization_limits,
       k.priority,
       pg_snapshot_xmax(pg_current_snapshot())::text::bigint AS horizon,
       pg_snapshot_xmin(pg_current_snapshot())::text::bigint AS settled
FROM api_keys AS k
JOIN teams AS t ON t.id = k.team_id
JOIN organizations AS o ON o.id = t.organization_id
WHERE k.public_id = $1
"""
# As text: asyncpg would ask the server for the type of an array of cidr, once a connection.
# The end of the statement's own snapshot: it sees all that ended before that id was allocated; and
# its beginning: it sees all that has a lower id.

_LOAD_OWNERS: Final = """
SELECT t.limits AS team_limits, o.limits AS organization_limits
FROM organizations AS o
LEFT JOIN teams AS t ON t.id = $1 AND t.organization_id = o.id
WHERE o.id = $2
"""

_FENCE: Final = """
SELECT pg_current_xact_id()::text::bigint AS transaction,
       ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::bigint
           AS timeline,
       egret_last_change() AS last_change
"""
# An allocated id is a fence: snapshots from before have their horizon below it. The
# first eight hexadecimal digits of a WAL file's name are its timeline (PostgreSQL 18, 28.6).


class PostgresKeyStore:
    """Implements `KeySource`."""

    def __init__(self, pool: Pool, settings: PostgresSettings) -> None:
        self._pool = pool
        self._settings = settings

    async def load(self, key_id: str) -> KeyRecord | None:
        """Return the record of *key_id* alone; otherwise like `read`."""
        return (await self.read(key_id)).record

    async def read(self, key_id: str) -> KeyReading:
        """Return the record of *key_id* as it is committed now.

        Raises:
            KeyStoreUnavailableError: no connection, no answer in time, or no such schema yet.
            KeyUnreadableError: a newer Egret or a hand has written what this one cannot read.
        """
        rows = await self._fetch(_LOAD_KEY, key_id)
        if not rows:
            return KeyReading(None, horizon=0, settled=0)
        (row,) = rows
        try:
            record = _record(row)
        except ValueError as error:
            raise KeyUnreadableError("a key has limits that cannot be read") from error
        return KeyReading(record, horizon=row["horizon"], settled=row["settled"])

    async def owner_limits(self, team_id: str, organization_id: str) -> tuple[Limit, ...]:
        """Return the limits of a team and its organization; none of one that was deleted.

        Raises:
            KeyStoreUnavailableError: no connection, or no answer in time.
        """
        for row in await self._fetch(_LOAD_OWNERS, team_id, organization_id):
            with contextlib.suppress(ValueError):  # written by a newer Egret, or by hand
                return _limits(
                    (Level.TEAM, team_id, row["team_limits"] or "[]"),
                    (Level.ORGANIZATION, organization_id, row["organization_limits"]),
                )
        return ()

    async def fence(self) -> Fence:
        """Return a fence behind everything that is committed now.

        Raises:
            KeyStoreUnavailableError: no connection, no answer in time, or a standby server.
        """
        (row,) = await self._fetch(_FENCE)
        return Fence(row["timeline"], row["transaction"], last_change=row["last_change"])

    async def _fetch(self, statement: str, *arguments: object) -> list[asyncpg.Record]:
        try:
            return await fetch(self._pool, statement, *arguments, settings=self._settings)
        except UNAVAILABLE as error:
            raise KeyStoreUnavailableError(
                f"PostgreSQL gave no answer about keys: {type(error).__name__}"
            ) from error


def _record(row: asyncpg.Record) -> KeyRecord:
    sources = row["allowed_sources"]
    return KeyRecord(
        principal=Principal(
            key_id=row["public_id"],
            team_id=row["team_id"],
            team_name=row["team_name"],
            organization_id=row["organization_id"],
            organization_name=row["organization_name"],
        ),
        secret_sha256=row["secret_sha256"],
        enabled=row["enabled"],
        team_enabled=row["team_enabled"],
        organization_enabled=row["organization_enabled"],
        not_before=row["not_before"],
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        allowed_models=as_tuple(row["allowed_models"]),
        policies=PolicyBinding(
            key=row["key_policy"], team=row["team_policy"], organization=row["organization_policy"]
        ),
        allowed_operations=as_tuple(row["allowed_operations"]),
        allowed_sources=None if sources is None else tuple(map(ip_network, sources)),
        limits=_limits(
            (Level.KEY, row["public_id"], row["key_limits"]),
            (Level.TEAM, row["team_id"], row["team_limits"]),
            (Level.ORGANIZATION, row["organization_id"], row["organization_limits"]),
        ),
        priority=Priority(row["priority"]),
    )


def _limits(*owners: tuple[Level, str, str]) -> tuple[Limit, ...]:
    return tuple(
        limit
        for level, owner, text in owners
        for limit in read_limits(text, level=level, owner=owner)
    )


_FIRST_DELAY_SECONDS: Final = 0.1
_LONGEST_DELAY_SECONDS: Final = 5.0
_HEARTBEAT_SECONDS: Final = 5.0
"""A connection can die without notice (a NAT entry that timed out, a node that vanished)."""

_LONGEST_MICROS: Final = 17
"""Digits of microseconds since the epoch until the year 5138."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeCallbacks:
    """Receivers of changes. They are called in the event loop and must not block or raise.

    `on_key` gets a key's public id, `on_scope` everything else that a payload names: an owner of
    keys, or `*`. `on_listening` is called when changes are received from here on and earlier ones
    were missed, `on_lost` when they are no longer. `on_barrier` gets a token, once every change
    from before it was passed on. `on_latency` gets the age of a change in
    seconds, once the callback for it has returned; the clocks of two machines are compared, and a
    change in the future counts as 0.
    """

    on_key: Callable[[str], None]
    on_scope: Callable[[str], None]
    on_listening: Callable[[], None]
    on_lost: Callable[[], None]
    on_policies: Callable[[], None]
    on_barrier: Callable[[str], None] = lambda _: None
    on_latency: Callable[[float], None] | None = None

    def receive(self, payload: str, *, now: float) -> None:
        """Pass on a payload of `KEYS_CHANNEL`; *now* is in seconds since the epoch."""
        name, changed_at = parse_change(payload)
        if len(name) == KEY_ID_LENGTH and name.isalnum():
            self.on_key(name)
        else:
            self.on_scope(name)
        if changed_at is not None and self.on_latency is not None:
            self.on_latency(max(0.0, now - changed_at))


class ChangeListener:
    """Listens on a connection of its own, and on a new one each time that is lost."""

    def __init__(
        self,
        settings: PostgresSettings,
        callbacks: ChangeCallbacks,
        *,
        heartbeat_seconds: float = _HEARTBEAT_SECONDS,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._callbacks = callbacks
        self._heartbeat_seconds = heartbeat_seconds
        self._wall = wall
        self._is_listening = False

    @property
    def is_listening(self) -> bool:
        """Whether a change made now would be received."""
        return self._is_listening

    async def run(self) -> Never:
        """Listen until cancelled."""
        delay_seconds = _FIRST_DELAY_SECONDS
        while True:
            try:
                async with connect(self._settings) as connection:
                    await self._subscribe(connection)
                    delay_seconds = _FIRST_DELAY_SECONDS
                    await self._wait_for_loss(connection)
            except UNAVAILABLE as error:
                _log.warning(
                    "changes.not_listening",
                    error_type=type(error).__name__,
                    retry_seconds=delay_seconds,
                )
            finally:
                if self._is_listening:
                    self._is_listening = False
                    self._callbacks.on_lost()
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(2 * delay_seconds, _LONGEST_DELAY_SECONDS)

    async def _subscribe(self, connection: Connection) -> None:
        def on_key(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
            self._callbacks.receive(str(payload), now=self._wall())

        def on_barrier(_connection: Any, _pid: int, _channel: str, payload: object) -> None:
            if self._is_listening:  # else changes from before LISTEN are not handled as missed yet
                self._callbacks.on_barrier(str(payload))

        async with asyncio.timeout(self._settings.query_seconds):
            await connection.add_listener(KEYS_CHANNEL, on_key)
            await connection.add_listener(
                POLICIES_CHANNEL, lambda *_: self._callbacks.on_policies()
            )
            await connection.add_listener(BARRIERS_CHANNEL, on_barrier)
        self._is_listening = True
        _log.info("changes.listening")
        # Only now: a change before LISTEN was missed, one after it will be received.
        self._callbacks.on_listening()
        self._callbacks.on_policies()

    async def _wait_for_loss(self, connection: Connection) -> Never:
        lost = asyncio.Event()
        connection.add_termination_listener(lambda _connection: lost.set())
        while not (lost.is_set() or connection.is_closed()):
            try:
                async with asyncio.timeout(self._heartbeat_seconds):
                    await lost.wait()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=self._settings.query_seconds)
        raise ConnectionResetError("the connection was closed")


def parse_change(payload: str) -> tuple[str, float | None]:
    """Split a payload of `KEYS_CHANNEL` into a name and a time, in seconds since the epoch.

    The time is None if there is none (as before migration 0004, or in a NOTIFY by hand).
    """
    name, _, micros = payload.partition(",")
    is_time = micros.isascii() and micros.isdigit() and len(micros) <= _LONGEST_MICROS
    return name, int(micros) / 1_000_000 if is_time else None
