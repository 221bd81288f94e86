"""Runs a command's work on one connection and turns what goes wrong into one line."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Final, TypeVar

import asyncpg

from sidecar.cli.output import WRONG_USAGE, fail
from sidecar.settings import PostgresSettings, SettingsError, read_settings
from sidecar.storage.administration import ChangeRefusedError
from sidecar.storage.audit import set_actor
from sidecar.storage.pool import UNAVAILABLE, Connection, InvalidDsnError, connect

Result = TypeVar("Result")

ACTOR: Final[ContextVar[str | None]] = ContextVar("ACTOR", default=None)
"""Who runs the command, for the audit log; None is the user of the operating system."""


def on_connection(work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run *work* on a connection to the database of the settings; exit with its error.

    What it changes is logged as done by whom `ACTOR` names.
    """

    async def run(settings: PostgresSettings) -> Result:
        async with connect(settings) as connection:
            await set_actor(connection, ACTOR.get() or _os_user())
            return await work(connection)

    return on_database(run)


def on_database(work: Callable[[PostgresSettings], Awaitable[Result]]) -> Result:
    """Run *work* with the settings of the database; exit with its error."""

    async def run() -> Result:
        return await work(_settings())

    try:
        return asyncio.run(run())
    except ChangeRefusedError as error:
        fail(error.problem, mend=error.mend)
    except InvalidDsnError as error:
        fail(str(error), mend="correct it", code=WRONG_USAGE)
    except (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError):
        fail("the database has no schema for this version", mend="run `egret migrate`")
    except asyncpg.InsufficientPrivilegeError as error:
        fail(
            f"the database's role may not do this ({error})",
            mend="log in as a member of egret_admin; see `egret doctor --for admin`",
        )
    except UNAVAILABLE as error:
        fail(
            f"PostgreSQL gave no answer ({type(error).__name__}: {str(error) or 'timed out'})",
            mend="check that it runs and that EGRET_POSTGRES__DSN leads to it",
        )


def _os_user() -> str:
    """Return the name of the process's user, not what the environment says it is."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container the number may be all there is
        return f"uid {os.getuid()}"


def _settings() -> PostgresSettings:
    try:
        return read_settings().postgres
    except SettingsError as error:
        fail(str(error), mend="correct the environment", code=WRONG_USAGE)
