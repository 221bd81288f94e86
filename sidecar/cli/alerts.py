"""`egret alerts`: the process that raises and sends alerts, its routes, tests and history."""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer

from sidecar.admin.installation.objects import AlertRouteDocument
from sidecar.admin.owners import find_organization_id
from sidecar.alerts.outbox import (
    HistoryEntry,
    alert_history,
    alert_routes,
    message_state,
    raise_test,
)
from sidecar.cli.admin_server import AdminServer, address, most_rows
from sidecar.cli.arguments import SERVER, since_or_exit
from sidecar.cli.connection import on_connection, on_database, on_server, settings_or_exit
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    fail,
    install_hint,
    note,
    print_json,
    print_rows,
)
from sidecar.settings.stores import PostgresSettings
from sidecar.storage.pool import Connection, connect

alerts = typer.Typer(no_args_is_help=True, help="Alerts: routes, tests and history.")

_ROUTES: Final = (
    "name", "enabled", "channel", "organization", "severity", "rules", "quiet_hours", "digest",
)  # fmt: skip
_HISTORY: Final = ("raised_at", "severity", "rule", "summary", "route", "state", "at", "error")
_WAITS_SECONDS: Final = 1.0

State = tuple[bool, str | None]
"""Whether a message was delivered, and the error of its last attempt."""


@alerts.command("run")
def run() -> None:
    """Check the rules of alerts and send messages, until SIGTERM. Several replicas may run.

    Secrets of routes are in its environment (ALERT_…) or in EGRET_ALERTS__SECRETS_DIRECTORY.

    Example: ALERT_SLACK=https://hooks.slack.com/services/… egret alerts run
    """
    from sidecar.telemetry.logs import configure_logs, get_logger  # noqa: PLC0415

    try:
        # Its packages are an extra, and no other command needs them.
        from sidecar.alerts.service import AlertService  # noqa: PLC0415
    except ModuleNotFoundError as error:
        problem = f"`egret alerts run` needs {(error.name or '').partition('.')[0]}"
        fail(problem, hint=install_hint("admin"), code=WRONG_USAGE)
    settings = settings_or_exit()
    configure_logs(settings.telemetry.log_level)

    async def until_signal() -> None:
        service = AlertService(settings.postgres, settings.alerts)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, service.stop)
        get_logger().info("alerts.started", check_seconds=settings.alerts.check_seconds)
        await service.run()

    asyncio.run(until_signal())


@alerts.command("list")
def list_(output: OutputOption = Output.TABLE) -> None:
    """List the routes of alerts. `egret apply` makes them, from documents of kind AlertRoute.

    Example: egret alerts list
    """
    found = on_connection(
        alert_routes,
        remote=lambda server: tuple(
            server.call(list[AlertRouteDocument], "GET", "/alerts/routes")
        ),
    )
    rows = [one.model_dump(mode="json") for one in found]
    print_rows(rows, columns=_ROUTES, output=output)


@alerts.command("test")
def send_test(
    route: Annotated[str, typer.Argument(metavar="ROUTE", help="Name of the route.")],
    wait_seconds: Annotated[
        int, typer.Option("--wait", min=0, max=600, help="Seconds to wait for the outcome.")
    ] = 30,
    output: OutputOption = Output.TABLE,
) -> None:
    """Send a test by one route, at once even in quiet hours, and wait until it is delivered.

    It is sent by `egret admin` or `egret alerts run`, which have the secrets.

    Example: egret alerts test on-call
    """
    message = on_connection(
        lambda connection: raise_test(connection, route, now=datetime.now(UTC)),
        remote=lambda server: server.call(
            dict[str, str], "POST", address("alerts", "routes", route, "test")
        )["message_id"],
    )

    async def outcome(state: Callable[[], Awaitable[State]]) -> State:
        ends_at = time.monotonic() + wait_seconds
        while True:
            is_delivered, error = await state()
            if is_delivered or error is not None or time.monotonic() >= ends_at:
                return is_delivered, error
            await asyncio.sleep(_WAITS_SECONDS)

    async def here(settings: PostgresSettings) -> State:
        async with connect(settings) as connection:

            async def state() -> State:
                found = await message_state(connection, message)
                return found or (False, "the route was deleted")

            return await outcome(state)

    def there(server: AdminServer) -> State:
        async def state() -> State:
            found = server.call(dict[str, Any], "GET", address("alerts", "messages", message))
            return found["is_delivered"], found["error"]

        return asyncio.run(outcome(state))

    is_delivered, error = on_database(here) if SERVER.get() is None else on_server(there)
    if is_delivered:
        if output is Output.JSON:
            print_json({"route": route, "message_id": message})
        note(f"The test was delivered: {message}.")
    elif error is not None:
        reader = "`egret admin` or `egret alerts run`"
        hint = f"correct the route, or its secret where {reader} runs; it is sent again for a day"
        fail(f"the test was not delivered ({error})", hint=hint)
    else:
        hint = "check that `egret admin` or `egret alerts run` runs on this database"
        fail(f"the test was not sent for {wait_seconds} s", hint=hint)


@alerts.command("history")
def history(
    since: Annotated[
        str | None, typer.Option("--since", help="How long ago (7d), or a time (2027-01-31).")
    ] = None,
    org: Annotated[
        str | None, typer.Option("--org", metavar="NAME", help="Of one organization.")
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """List alerts with the routes that took them, the latest first.

    Example: egret alerts history --since 7d
    """
    began = since_or_exit(since)

    async def here(connection: Connection) -> list[HistoryEntry]:
        if org is not None:
            await find_organization_id(connection, org)
        return await alert_history(connection, since=began, organization=org, limit=limit)

    found = on_connection(
        here,
        remote=lambda server: server.call(
            list[HistoryEntry],
            "GET",
            "/alerts",
            query={"since": began, "organization": org, "limit": most_rows(limit)},
        ),
    )
    rows = [
        {
            **asdict(one.alert),
            "route": one.route,
            "state": one.state,
            "attempts": one.attempts,
            "at": one.at,
            "error": one.error,
        }
        for one in found
    ]
    print_rows(rows, columns=_HISTORY, output=output)
