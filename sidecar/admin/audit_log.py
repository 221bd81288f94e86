"""The audit log: each change of an object, its author and its reason."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import asyncpg

from sidecar.admin.owners import InvalidValueError
from sidecar.storage.migrate import AUDITED_TABLES
from sidecar.storage.pool import Connection

ACTOR_SETTING: Final = "egret.actor"
"""Setting of a transaction: the author, as given to the command. The login is logged as well."""
NOTE_SETTING: Final = "egret.note"
"""Setting of a transaction: the reason of its changes."""


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change. `before` and `after` hold the columns that changed; secrets are masked.

    An entry without an `object_id` stands for `rows` rows that one statement wrote; it is found
    by the id of each of them, but does not repeat them all.
    """

    id: int
    at: datetime
    database_role: str
    actor: str | None
    action: str
    object_type: str
    object_id: str | None
    rows: int
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditFilter:
    """Which entries; None leaves a question open.

    `before` is the id of the last entry of the page before. `within` are ids of organizations:
    entries of their objects alone, as far as these are there, or their entry names their owner.
    """

    since: datetime | None = None
    object_type: str | None = None
    object_id: str | None = None
    before: int | None = None
    within: tuple[str, ...] | None = None
    limit: int = 50


_ENTRIES: Final = """
SELECT id, at, database_role, actor, action, object_type, object_id, rows, before,
       CASE WHEN object_id IS NOT NULL THEN after END AS after, note
FROM audit_log
"""

_WITHIN: Final = """(${place}::text[] IS NULL
    OR (object_type = 'organizations' AND object_id = ANY(${place}))
    OR (object_type IN ('teams', 'admin_tokens')
        AND COALESCE(after, before) ->> 'organization_id' = ANY(${place}))
    OR (object_type = 'teams'
        AND object_id IN (SELECT id FROM teams WHERE organization_id = ANY(${place})))
    OR (object_type = 'admin_tokens'
        AND object_id IN (SELECT id FROM admin_tokens WHERE organization_id = ANY(${place})))
    OR (object_type = 'api_keys'
        AND COALESCE(
            COALESCE(after, before) ->> 'team_id',
            (SELECT k.team_id FROM api_keys AS k WHERE k.public_id = object_id)
        ) IN (SELECT id FROM teams WHERE organization_id = ANY(${place}))))"""

_OF_ONE_OBJECT: Final = f"""{_ENTRIES}
WHERE (object_id = $1 OR (object_id IS NULL AND after -> 'ids' ? $1))
  AND ($2::timestamptz IS NULL OR at >= $2)
  AND ($3::text IS NULL OR object_type = $3) AND ($5::bigint IS NULL OR id < $5)
  AND {_WITHIN.format(place=6)}
ORDER BY id DESC LIMIT $4
"""

_LATEST: Final = f"""{_ENTRIES}
WHERE ($1::timestamptz IS NULL OR at >= $1) AND ($2::text IS NULL OR object_type = $2)
  AND ($4::bigint IS NULL OR (at, id) < (SELECT at, id FROM audit_log WHERE id = $4))
  AND {_WITHIN.format(place=5)}
ORDER BY at DESC, id DESC LIMIT $3
"""  # noqa: S608 - made of constants

# Not `id <> ALL`, which compares each entry with each: a look took seconds after 20,000 changes.
_AFTER: Final = f"""{_ENTRIES}
WHERE at >= $1
    AND NOT EXISTS (SELECT FROM unnest($2::bigint[]) AS seen (id) WHERE seen.id = audit_log.id)
ORDER BY at, id LIMIT 10000
"""

LATE_SECONDS: Final = 3600
"""How long after it was written an entry may appear: its transaction was open until then."""


class AuditTail:
    """Entries as they appear, each once, from a moment on, by default from the first look on.

    Ids are no order: of two transactions the one with the later id may end first. The first look
    is at the time of the database: entries have that time, and a machine's clock may differ.
    """

    def __init__(self, since: datetime | None) -> None:
        self._since = since
        self._seen: dict[int, datetime] = {}

    async def more(self, connection: Connection) -> tuple[AuditEntry, ...]:
        """Return the entries since the last call, the earliest first."""
        if self._since is None:
            self._since = await connection.fetchval("SELECT clock_timestamp()")
        rows = await connection.fetch(_AFTER, self._since, list(self._seen))
        entries = tuple(_entry(row) for row in rows)
        if entries:
            self._seen |= {entry.id: entry.at for entry in entries}
            horizon = max(self._seen.values()) - timedelta(seconds=LATE_SECONDS)
            self._since = max(self._since, horizon)
            self._seen = {id_: at for id_, at in self._seen.items() if at >= self._since}
        return entries


async def set_actor(connection: Connection, actor: str) -> None:
    """Set the author of the changes of this transaction.

    Not of the session: a pooler would hand it to another client.
    """
    await connection.execute(f"SELECT set_config('{ACTOR_SETTING}', $1, true)", actor)


async def set_note(connection: Connection, note: str | None) -> None:
    """Set the reason of the changes of this transaction: the log has it with each."""
    await connection.execute(f"SELECT set_config('{NOTE_SETTING}', $1, true)", note or "")


async def audit_entries(connection: Connection, wanted: AuditFilter) -> tuple[AuditEntry, ...]:
    """Return the latest entries that match, the latest first.

    Raises:
        InvalidValueError: the log has no entries of such a table.
    """
    if wanted.object_type not in {None, *AUDITED_TABLES}:
        raise InvalidValueError(
            f"the audit log has no table {wanted.object_type!r}",
            hint=f"give one of {', '.join(AUDITED_TABLES)}",
        )
    if wanted.object_id is not None:
        rows = await connection.fetch(
            _OF_ONE_OBJECT, wanted.object_id, wanted.since, wanted.object_type, wanted.limit,
            wanted.before, wanted.within,
        )  # fmt: skip
    else:
        rows = await connection.fetch(
            _LATEST, wanted.since, wanted.object_type, wanted.limit, wanted.before, wanted.within
        )
    return tuple(_entry(row) for row in rows)


def _entry(row: asyncpg.Record) -> AuditEntry:
    texts = {side: row[side] for side in ("before", "after")}
    sides = {side: None if text is None else json.loads(text) for side, text in texts.items()}
    return AuditEntry(**dict(row) | sides)
