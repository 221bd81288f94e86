"""`egret limits`: set, list, show and remove limits."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import typer
from rich.text import Text

from sidecar.admin.limits import (
    Holder,
    LiveLimit,
    LiveLimits,
    OwnedLimits,
    Owner,
    Source,
    change_limits,
    has_prices,
    holders_of_limits,
    live_limits,
    owned_limits,
    readable_holders_for,
    remove_all_limits,
)
from sidecar.admin.owners import ChangeRefusedError, InvalidValueError
from sidecar.cli.admin_server import AdminServer
from sidecar.cli.arguments import KeyOption, OrgOption, TeamOption
from sidecar.cli.connection import ChangeNotice, on_connection, settings_or_exit
from sidecar.cli.keys import public_id
from sidecar.cli.limits_server import (
    change_limits_there,
    holders_there,
    live_limits_there,
    owned_limits_there,
)
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    bar,
    fail,
    note,
    print_json,
    print_rows,
    print_table,
)
from sidecar.domain.limits import Level, Limit, Measure, sliding_seconds
from sidecar.limits.limit_syntax import (
    LimitWordsError,
    Selectors,
    parse_kind,
    parse_limit,
    shown,
    shown_amount,
    shown_for,
    shown_kind,
    shown_span,
    shown_whose,
)
from sidecar.storage.pool import Connection


def owner_of(*, key: str | None, team: str | None, org: str | None) -> Owner:
    """Return the one owner that was named, or exit."""
    owner = owner_or_all(key=key, team=team, org=org)
    if owner is None:
        problem = "no key, team or organization is named"
        fail(problem, hint="give one of --key, --team and --org", code=WRONG_USAGE)
    return owner


def owner_or_all(*, key: str | None, team: str | None, org: str | None) -> Owner | None:
    """Return the owner that was named, None where none was, or exit where several were."""
    named = [
        Owner(level, name)
        for level, name in zip(Level, (key, team, org), strict=True)
        if name is not None
    ]
    if len(named) > 1:
        levels = ", ".join(owner.level.value for owner in named)
        number = ("none", "one", "two", "three")[len(named)]
        fail(f"{number} are named ({levels})", hint="give one", code=WRONG_USAGE)
    if not named:
        return None
    owner = named[0]
    return Owner(owner.level, public_id(owner.name)) if owner.level is Level.KEY else owner


limits = typer.Typer(help="How much keys, teams and organizations may use.", no_args_is_help=True)

_FIELDS: Final = (
    "level", "whose", "limit", "measure", "window", "amount", "burst", "at_once", "models",
    "operations", "time_zone",
)  # fmt: skip
"""Of the list of all limits."""
_COLUMNS: Final = ("limit", "at_once", "models", "operations", "time_zone")


@limits.command("set")
def set_(  # noqa: PLR0913, PLR0917 - options of a command
    words: Annotated[
        list[str],
        typer.Argument(metavar="LIMIT…", help="MEASURE/WINDOW=AMOUNT, money in US dollars."),
    ],
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", metavar="GLOB", help="For these models alone.")
    ] = None,
    operation: Annotated[
        list[str] | None,
        typer.Option("--operation", metavar="NAME", help="For these operations alone: chat, …"),
    ] = None,
    burst: Annotated[
        int | None, typer.Option("--burst", min=1, help="How much of a second or minute at once.")
    ] = None,
    time_zone: Annotated[
        str, typer.Option("--time-zone", help="Where days, weeks and months begin.")
    ] = "UTC",
    output: OutputOption = Output.TABLE,
) -> None:
    """Set limits; one that measures the same for the same is replaced. Acts within a second.

    Measures: requests, tokens, input_tokens, output_tokens a second, minute or day; cost a day,
    week or month; concurrent, request_bytes and max_output_tokens without a window.

    Example: egret limits set --team acme/search requests/minute=600 cost/month=250
    """
    owner = owner_of(key=key, team=team, org=org)
    selectors = Selectors(
        models=tuple(model) if model else None,
        operations=tuple(operation) if operation else None,
        time_zone=time_zone,
        burst=burst,
    )

    def change(before: OwnedLimits) -> tuple[Limit, ...]:
        added: dict[str, Limit] = {}
        for word in words:
            one = parse_limit(word, level=owner.level, owner=before.owner_id, selectors=selectors)
            if one.id in added:
                raise LimitWordsError(f"{shown_kind(one.measure, one.window)} is given twice")
            added[one.id] = one
        return tuple(({one.id: one for one in before.limits} | added).values())

    _change(owner, change, output)


@limits.command()
def remove(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="LIMIT…", help="MEASURE/WINDOW, whatever it is for."),
    ] = None,
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    every: Annotated[
        bool, typer.Option("--all", help="All of them, also such as cannot be read.")
    ] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Take limits away.

    Example: egret limits remove --team acme/search requests/minute
    """
    owner = owner_of(key=key, team=team, org=org)
    if bool(words) is every:
        fail("say which", hint="give limits, or --all", code=WRONG_USAGE)

    def change(before: OwnedLimits) -> tuple[Limit, ...]:
        if every:
            return ()
        kinds = {parse_kind(word) for word in words or ()}
        missing = kinds - {(one.measure, one.window) for one in before.limits}
        if missing:
            name = min(shown_kind(*one) for one in missing)
            raise ChangeRefusedError(f"there is no limit {name}", hint="nothing was changed")
        return tuple(one for one in before.limits if (one.measure, one.window) not in kinds)

    _change(owner, change, output, removes_all=every)


@limits.command("list")
def list_(
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List the limits that are set at one level; without an owner, all limits and their owners.

    Example: egret limits list --team acme/search
    """
    owner = owner_or_all(key=key, team=team, org=org)
    if owner is not None:
        found = on_connection(
            lambda connection: owned_limits(connection, owner),
            remote=lambda server: owned_limits_there(server, owner),
        )
        _print(found.limits, output)
        return
    holders = on_connection(holders_of_limits, remote=holders_there)
    rows: list[Row] = [
        {
            "level": one.level.value,
            "whose": one.name,
            **_row(limit),
            "unreadable": None,
        }
        for one in holders
        for limit in one.limits
    ]
    if output is Output.JSON:
        rows += unreadable_rows(holders, _FIELDS)
    print_rows(rows, columns=("level", "whose", *_COLUMNS), output=output)
    warn_of_unreadable(holders)
    _warn_of_no_price([limit for one in holders for limit in one.limits])


def unreadable_rows(holders: Sequence[Holder], fields: Sequence[str]) -> list[Row]:
    """Return a row of *fields* for each owner whose limits cannot be read, empty but for its name.

    The error is in a further field.
    """
    rows: list[Row] = []
    for one in holders:
        if one.unreadable is not None:
            known = {"level": one.level.value, "whose": one.name, "id": one.id}
            row = {name: known.get(name) for name in fields}
            rows.append({**row, "unreadable": one.unreadable.problem})
    return rows


def warn_of_unreadable(holders: Sequence[Holder]) -> None:
    """Name each owner whose limits cannot be read."""
    for one in holders:
        if one.unreadable is not None:
            note(f"warning: {one.unreadable.problem}; {one.unreadable.hint}")


def _change(
    owner: Owner,
    change: Callable[[OwnedLimits], tuple[Limit, ...]],
    output: Output,
    *,
    removes_all: bool = False,
) -> None:
    """Change the limits of *owner*; with *removes_all* also such as cannot be read."""
    prefix = "" if owner.level is Level.KEY else f"{owner.level.value}:"

    async def work(connection: Connection) -> OwnedLimits:
        if removes_all:
            return await remove_all_limits(connection, owner)
        with _faults_of_words():
            return await change_limits(connection, owner, change)

    def remote(server: AdminServer) -> OwnedLimits:
        with _faults_of_words():
            return change_limits_there(server, owner, change)

    try:
        found = on_connection(
            work,
            notice=lambda changed: ChangeNotice(keys=(f"{prefix}{changed.owner_id}",)),
            remote=remote,
        )
    except LimitWordsError as error:
        fail(str(error), hint="nothing was changed", code=WRONG_USAGE)
    _print(found.limits, output)


@contextmanager
def _faults_of_words() -> Iterator[None]:
    """Exit with `WRONG_USAGE` for a limit that cannot be, as for words that are none."""
    try:
        yield
    except InvalidValueError as error:
        fail(error.problem, hint=error.hint, code=WRONG_USAGE)


def _print(found: tuple[Limit, ...], output: Output) -> None:
    print_rows([_row(limit) for limit in found], columns=_COLUMNS, output=output)
    alike: dict[object, list[str]] = {}
    for one in found:
        kind = (one.measure, one.window, one.models, one.operations)
        alike.setdefault(kind, []).append(shown(one))
    for limits_shown in alike.values():
        if len(limits_shown) > 1:
            note(
                f"warning: {' and '.join(limits_shown)} differ in their time zone alone, and each"
                " holds; to keep one, take both away with `egret limits remove` and set it again"
            )
    _warn_of_no_price(found)


def _warn_of_no_price(limits: Sequence[Limit]) -> None:
    if any(one.measure is Measure.COST for one in limits) and not on_connection(
        has_prices, remote=lambda server: any(server.pages(dict[str, Any], "/prices", most=1))
    ):
        note(
            "warning: no price is set, so a budget refuses every request;"
            " run `egret price import FILE` or `egret price set`"
        )


def _row(limit: Limit) -> Row:
    return {
        "limit": shown(limit),
        "measure": limit.measure.value,
        "window": limit.window.value,
        "amount": limit.amount,
        "burst": limit.burst,
        "at_once": None if sliding_seconds(limit.window) is None else limit.at_once,
        "models": limit.models,
        "operations": limit.operations,
        "time_zone": limit.time_zone,
    }


def show(
    key: Annotated[
        str | None, typer.Argument(metavar="KEY_ID", help="A key: its public id.")
    ] = None,
    same_key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show how limits stand now: those of a key, of its team and of its organization.

    Reads what workers count in Valkey and changes nothing. Where Valkey does not answer, days,
    weeks and months come from the usage records.

    Example: egret limits show 5OKO8h6jGWNP
    """
    if key is not None and same_key is not None:
        fail("KEY_ID and --key name two keys", hint="give one", code=WRONG_USAGE)
    owner = owner_of(key=same_key if key is None else key, team=team, org=org)
    now = time.time()

    async def look(connection: Connection) -> LiveLimits:
        holders = await readable_holders_for(connection, owner)
        return await live_limits(connection, settings_or_exit().valkey, holders, now=now)

    found = on_connection(look, remote=lambda server: live_limits_there(server, owner))
    if found.away is not None:
        note(
            f"warning: Valkey gave no answer ({found.away}); days, weeks and months are by the"
            " records of usage, of the rest nothing is known"
        )
    if output is Output.JSON:
        rows = [
            {
                "level": limit.level.value,
                "whose": live.holder.name,
                "limit": shown(limit),
                "measure": limit.measure.value,
                "window": limit.window.value,
                "models": limit.models,
                "operations": limit.operations,
                "time_zone": limit.time_zone,
                "amount": limit.amount,
                "at_once": live.room,
                "used": live.used,
                "remaining": live.remaining,
                "resets_at": live.resets_at and datetime.fromtimestamp(live.resets_at, UTC),
                "source": live.source.value,
            }
            for live in found.limits
            for limit in (live.limit,)
        ]
        print_json(rows)
    else:
        _print_table(found.limits, now=now)
        if any(one.room != one.limit.amount for one in found.limits):
            note(
                "at once: the burst, the most that a second or minute allows at one time; it"
                " refills evenly. Set it with --burst."
            )


def _print_table(found: tuple[LiveLimit, ...], *, now: float) -> None:
    rows = [
        (
            Text(shown_whose(live.limit.level, live.holder.name)),
            Text(shown(live.limit)),
            Text(shown_for(live.limit)),
            bar(live.used, live.room),
            Text(_remaining(live)),
            Text("-" if live.resets_at is None else shown_span(max(0.0, live.resets_at - now))),
        )
        for live in found
    ]
    print_table(rows, columns=("whose", "limit", "for", "used", "remaining", "resets in"))


def _remaining(live: LiveLimit) -> str:
    measure = live.limit.measure
    if live.remaining is None:
        return "-"
    left = f"{shown_amount(measure, live.remaining)} of {shown_amount(measure, live.room)}"
    if live.room != live.limit.amount:
        left += " at once"
    return f"{left} (by records)" if live.source is Source.RECORDS else left
