"""Runs a command's work on one connection and turns what goes wrong into one line."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import asyncpg

from sidecar.cli.output import WRONG_USAGE, fail
from sidecar.settings import PostgresSettings, SettingsError, read_settings
from sidecar.storage.administration import ChangeRefusedError
from sidecar.storage.pool import UNAVAILABLE, Connection, InvalidDsnError, connect

Result = TypeVar("Result")


def on_connection(work: Callable[[Connection], Awaitable[Result]]) -> Result:
    """Run *work* on a connection to the database of the settings; exit with its error."""

    async def run(settings: PostgresSettings) -> Result:
        async with connect(settings) as connection:
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
    except UNAVAILABLE as error:
        fail(
            f"PostgreSQL gave no answer ({type(error).__name__}: {str(error) or 'timed out'})",
            mend="check that it runs and that EGRET_POSTGRES__DSN leads to it",
        )


def _settings() -> PostgresSettings:
    try:
        return read_settings().postgres
    except SettingsError as error:
        fail(str(error), mend="correct the environment", code=WRONG_USAGE)
