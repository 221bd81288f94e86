"""Brings the database's schema up to date.

Alembic keeps the order of migrations and renders them; asyncpg runs them, all in one transaction
and behind a lock, so that two deployments that migrate at once do it once.

Alembic is imported when it is needed: with SQLAlchemy it costs most of a second and much memory,
which no worker and no other command should pay.
"""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable
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
    """Apply what is pending, all of it or nothing, and say what that was.

    A migration may warn of something that it could not do and that others must.

    Raises:
        UnknownRevisionError: the database was migrated by a newer Egret.
        One of `UNAVAILABLE`.
    """
    async with connect(settings) as connection, connection.transaction():
        if on_warning is not None:
            connection.add_log_listener(lambda _, message: _warn(message, on_warning))
        await connection.execute(f"SELECT pg_advisory_xact_lock({_LOCK})")
        revision = await _revision(connection)
        steps = await asyncio.to_thread(_steps_after, revision)
        if steps:
            await connection.execute(await asyncio.to_thread(_render, revision))
    return steps


async def pending(settings: PostgresSettings) -> tuple[Migration, ...]:
    """Return what `migrate` would apply. Raises as it does."""
    async with connect(settings) as connection:
        revision = await _revision(connection)
    return await asyncio.to_thread(_steps_after, revision)


async def pending_sql(settings: PostgresSettings) -> str:
    """Return the statements that `migrate` would run. Raises as it does."""
    async with connect(settings) as connection:
        revision = await _revision(connection)
    steps = await asyncio.to_thread(_steps_after, revision)
    return await asyncio.to_thread(_render, revision) if steps else ""


def _warn(message: asyncpg.PostgresLogMessage, on_warning: Callable[[str], None]) -> None:
    if message.severity_en == "WARNING":
        on_warning(str(message.message))


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
