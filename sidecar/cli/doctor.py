"""`egret doctor`: is the set-up whole, and what is to be mended."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Annotated, Final

import typer

from sidecar.cli.output import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    note,
    print_rows,
)
from sidecar.guardrails.extras import missing_extras
from sidecar.settings.environment import inherited_environment
from sidecar.settings.process import Settings, SettingsError, read_settings
from sidecar.settings.strangers import strangers
from sidecar.storage.checkup import Checked, CheckState, Use, ok, warning

_COLUMNS: Final = ("check", "state", "found", "mend")
_PACKAGES: Final = "guardrail packages"


def doctor(
    use: Annotated[
        Use,
        typer.Option(
            "--for", help="What the database's role is for: workers, or this command line."
        ),
    ] = Use.WORKER,
    output: OutputOption = Output.TABLE,
) -> None:
    """Look at databases, clocks, sockets, packages and variables, and say what to mend.

    Changes nothing. Exits with 1 if a check failed; a warning is none.

    Example: egret doctor --for admin
    """
    try:
        settings = read_settings()
    except SettingsError as error:
        fail(str(error), mend="correct the environment", code=WRONG_USAGE)
    found = asyncio.run(_check(settings, use=use))
    print_rows([_row(one) for one in found], columns=_COLUMNS, output=output)
    broken = sum(one.state is CheckState.FAILED for one in found)
    if broken:
        note(f"{broken} of {len(found)} checks failed")
        raise typer.Exit(FAILED)


async def _check(settings: Settings, *, use: Use) -> tuple[Checked, ...]:
    # Here, since no other command should wait for the import of redis.
    from sidecar.cli.socket_checkup import check_sockets  # noqa: PLC0415
    from sidecar.storage.checkup_postgres import check_postgres  # noqa: PLC0415
    from sidecar.storage.checkup_valkey import check_valkey  # noqa: PLC0415

    return (
        *await check_postgres(
            settings.postgres, use=use, listens=settings.cache.invalidation.listens
        ),
        *await check_valkey(settings.valkey),
        *await check_sockets(settings.server),
        _check_environment(),
        _packages(missing_extras()),
    )


def _packages(missing: Mapping[str, str]) -> Checked:
    if not missing:
        return ok(_PACKAGES, "all present")
    extras = ",".join(sorted(missing.values()))
    return warning(
        _PACKAGES,
        f"missing for {' and '.join(sorted(missing))}, which cannot judge without",
        mend=f"install Egret's wheel with its extras {extras}, or have no policy with these",
    )


def _check_environment() -> Checked:
    check, found = "environment", strangers(inherited_environment())
    if not found:
        return ok(check, "no variable that is no setting")
    names = ", ".join(one.variable for one in found)
    meant = " or ".join(sorted({one.meant for one in found if one.meant}))
    mend = f"is {meant} meant?" if meant else "see docs/deploy.md for all settings"
    return warning(check, f"no such setting, ignored: {names}", mend=mend)


def _row(one: Checked) -> Row:
    return {
        "check": one.check,
        "state": one.state.value,
        "found": one.found,
        "mend": one.mend,
    }
