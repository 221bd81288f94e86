"""Connections of commands to PostgreSQL and Valkey, and to a running stack."""

from __future__ import annotations

import asyncio
import os
import pwd
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NoReturn, TypeVar, cast

import asyncpg
import orjson

from sidecar.admin.audit_log import set_actor
from sidecar.admin.in_force import ChangeNotPublishedError, publish_change
from sidecar.admin.owners import ChangeRefusedError, ExistsAlreadyError
from sidecar.cli.admin_server import AdminServer, admin_server
from sidecar.cli.arguments import ACTOR, SERVER
from sidecar.cli.terminal import (
    EXISTS_ALREADY,
    FAILED,
    UNWRITABLE,
    WRONG_USAGE,
    fail,
    in_one_line,
    note,
)
from sidecar.settings.process import Settings, SettingsError, read_settings
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import (
    UNAVAILABLE,
    Connection,
    InvalidDsnError,
    connect,
    explain_unavailable,
)

Result = TypeVar("Result")

_MAX_SAID: Final = 200
"""Characters of an error of PostgreSQL: it may repeat a whole value."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangeNotice:
    """The objects that a command has changed, for workers that are notified through Valkey.

    `keys` are ids of keys, `team:<id>`, `organization:<id>` or `*`; `policies` are names.
    """

    keys: Sequence[str] = ()
    policies: Sequence[str] = ()


def on_connection(
    work: Callable[[Connection], Awaitable[Result]],
    *,
    notice: Callable[[Result], ChangeNotice] | None = None,
    remote: Callable[[AdminServer], Result] | None = None,
) -> Result:
    """Run *work* in a transaction on the database of the settings; exit with its error.

    With `--server`, *remote* does the same there; a command without it exits.

    The audit log names `ACTOR` for the change. Workers are notified by the database; if the
    settings use Valkey instead, *notice* returns the notification for a result.
    """
    if remote is not None and SERVER.get() is not None:
        return on_server(remote)

    async def run(settings: Settings) -> Result:
        async with connect(settings.postgres) as connection, connection.transaction():
            await set_actor(connection, actor())
            result = await work(connection)
        if notice is not None:
            await _publish(settings, notice(result))
        return result

    return on_settings(run)


def on_server(work: Callable[[AdminServer], Result]) -> Result:
    """Run *work* with the server of `--server`; exit with its refusal."""
    try:
        return work(admin_server())
    except ChangeRefusedError as error:
        _refuse(error)


def actor() -> str:
    """Return the name of the option `--as`, or else of the process's user."""
    if name := ACTOR.get():
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:  # in a container the number may be all there is
        return f"uid {os.getuid()}"


def on_database(work: Callable[[PostgresSettings], Awaitable[Result]]) -> Result:
    """Run *work* with the settings of the database; exit with its error."""
    return on_settings(lambda settings: work(settings.postgres))


async def _publish(settings: Settings, changed: ChangeNotice) -> None:
    try:
        await publish_change(settings, keys=changed.keys, policies=changed.policies)
    except ChangeNotPublishedError as error:
        note(
            f"warning: the change is made, but Valkey did not pass it on ({error}); workers see it"
            f" within {settings.cache.ttl_seconds:g} s, when they read anew"
        )


def on_settings(work: Callable[[Settings], Awaitable[Result]]) -> Result:
    """Run *work* with the settings; exit with an error of the database."""
    settings = settings_or_exit()

    async def run() -> Result:
        return await work(settings)

    try:
        return asyncio.run(run())
    except ChangeRefusedError as error:
        _refuse(error)
    except InvalidDsnError as error:
        fail(str(error), hint="correct it", code=WRONG_USAGE)
    except UNAVAILABLE as error:
        if isinstance(error, OSError) and error.errno in UNWRITABLE:
            raise  # of standard output, to which *work* may print
        _fail_with(error, settings.postgres)


def _refuse(error: ChangeRefusedError) -> NoReturn:
    code = EXISTS_ALREADY if isinstance(error, ExistsAlreadyError) else FAILED
    fail(error.problem, hint=error.hint, code=code)


def _fail_with(error: Exception, settings: PostgresSettings) -> NoReturn:
    """Turn an error of PostgreSQL into a message for the command line."""
    match error:
        case asyncpg.UndefinedTableError() | asyncpg.UndefinedColumnError():
            fail("the database has no schema for this version", hint="run `egret migrate`")
        case asyncpg.InsufficientPrivilegeError():
            fail(
                f"the database's role may not do this ({error})",
                hint="log in as a member of egret_admin; see `egret doctor --for admin`",
            )
        case asyncpg.IntegrityConstraintViolationError():
            fail(
                "an object that this change depends on was changed meanwhile; nothing was done",
                hint="run it again",
            )
        case asyncpg.DataError():
            reason = str(error)
            if len(reason) > _MAX_SAID:
                reason = f"{reason[:_MAX_SAID]} …"
            fail(f"PostgreSQL does not take a value ({reason})", hint="correct it")
        case _:
            problem, hint = explain_unavailable(error, settings)
            fail(problem, hint=hint)


def settings_or_exit(*, for_workers: bool = False) -> Settings:
    """Read the settings, or exit with their faults, and with `--server`, whose settings differ."""
    if SERVER.get() is not None:
        fail(
            "this command needs the database, and does not work with --server",
            hint="run it without --server",
            code=WRONG_USAGE,
        )
    try:
        settings = read_settings()
        if for_workers:
            settings.check_for_workers()
    except SettingsError as error:
        fail(in_one_line(error), hint="correct the environment", code=WRONG_USAGE)
    return settings


DEFAULT_RUN: Final = Path("run")


def metrics_url(run: Path = DEFAULT_RUN) -> str:
    """Return where the settings say that metrics are; if they do not, those of `egret up`.

    Exits if *run* is another folder than the usual one, and no stack is in it.
    """
    telemetry = settings_or_exit().telemetry
    url = f"http://{telemetry.metrics_host}:{telemetry.metrics_port}/metrics"
    if telemetry.model_fields_set.isdisjoint({"metrics_host", "metrics_port"}):
        try:
            url = str(read_facts(run)["metrics_url"])
        except (OSError, ValueError, KeyError):
            if run != DEFAULT_RUN:
                hint = "name a running stack's folder with --run, or a page with --metrics URL"
                fail(f"no stack of `egret up` in {run}", hint=hint, code=WRONG_USAGE)
    return url


def facts_file(run: Path) -> Path:
    """Return where the facts of the stack in *run* are."""
    return run / "egret.json"


def read_facts(run: Path) -> dict[str, Any]:
    """Return the facts of the stack in *run*.

    Raises:
        OSError: there is none, or it belongs to another user.
        ValueError: the file is damaged.
    """
    facts: object = orjson.loads(facts_file(run).read_bytes())
    if not isinstance(facts, dict):
        raise ValueError("no object")  # noqa: TRY004 - as of text that is not JSON
    return cast("dict[str, Any]", facts)
