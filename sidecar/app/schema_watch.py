"""Whether the database's schema is the one that this version of Egret was written for."""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Never

import asyncpg

from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import UNAVAILABLE, Pool, fetch
from sidecar.storage.schema import REVISION
from sidecar.telemetry.logs import get_logger

WATCH_SECONDS: Final = 60.0


class SchemaState(enum.Enum):
    """BEHIND: what this version reads or writes may be missing, and is refused or lost.

    AHEAD: a newer version has migrated; what this one needs is still there.
    """

    NONE = "none"
    BEHIND = "behind"
    CURRENT = "current"
    AHEAD = "ahead"


def state_of(revision: str) -> SchemaState:
    """Revisions are numbers of four digits, in the order in which they are applied."""
    if not revision:
        return SchemaState.NONE
    if revision == REVISION:
        return SchemaState.CURRENT
    return SchemaState.BEHIND if revision < REVISION else SchemaState.AHEAD


def log_schema(revision: str) -> None:
    """Say how the schema stands, and what to do about it."""
    log, state = get_logger(), state_of(revision)
    event = f"schema.{state.value}"
    match state:
        case SchemaState.CURRENT:
            log.info(event, revision=revision)
        case SchemaState.AHEAD:
            log.warning(event, revision=revision, wanted=REVISION, mend="upgrade Egret")
        case SchemaState.NONE | SchemaState.BEHIND:
            log.error(event, revision=revision, wanted=REVISION, mend="run `egret migrate`")


@dataclass(frozen=True, slots=True)
class SchemaWatch:
    """Tells how the schema stands, at the start and whenever that changes."""

    pool: Pool
    settings: PostgresSettings
    on_change: Callable[[str], None] = log_schema
    seconds: float = WATCH_SECONDS

    async def run(self) -> Never:
        """Watch until cancelled."""
        known: str | None = None
        while True:
            try:
                found = await self._revision()
            except UNAVAILABLE:
                pass  # told by everything else that needs the database
            else:
                if found != known:
                    self.on_change(found)
                known = found
            await asyncio.sleep(self.seconds)

    async def _revision(self) -> str:
        """Return the revision, empty where there is no schema."""
        try:
            rows = await fetch(
                self.pool, "SELECT version_num FROM alembic_version", settings=self.settings
            )
        except asyncpg.UndefinedTableError:
            return ""
        return str(rows[0][0]) if rows else ""
