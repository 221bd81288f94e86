"""What a key is for, on the command line; and `egret keys set`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import typer

from sidecar.authorization.scopes import (
    ScopeError,
    Scopes,
    parse_operations,
    parse_sources,
    parse_tags,
)
from sidecar.cli.database import on_connection
from sidecar.cli.key_output import key_row, public_id, told_of
from sidecar.cli.moments import MomentError, parse_moment
from sidecar.cli.output import WRONG_USAGE, Output, OutputOption, fail, print_record
from sidecar.cli.owners import ModelOption
from sidecar.domain.limits import Priority
from sidecar.domain.principal import Network
from sidecar.storage.key_administration import AS_IT_IS, KeyChange, Unchanged, change_key

Parsed = TypeVar("Parsed")

MOMENT_HELP: Final = "30d, 12h, 2027-01-31T12:00:00Z, now or never."

OperationOption = Annotated[
    list[str] | None,
    typer.Option("--operation", help="Allowed operation, such as chat; repeat for more."),
]
SourceOption = Annotated[
    list[str] | None,
    typer.Option("--source", help="Network clients may be in, 192.0.2.0/24; repeat for more."),
]
TagOption = Annotated[
    list[str] | None, typer.Option("--tag", help="A tag, such as env=prod; repeat for more.")
]
NotBeforeOption = Annotated[
    str | None, typer.Option("--not-before", help=f"When it becomes good: {MOMENT_HELP}")
]


def parsed(parser: Callable[[], Parsed], *, option: str) -> Parsed:
    """Return what *parser* reads, or exit with what it says of *option*."""
    try:
        return parser()
    except (MomentError, ScopeError) as error:
        fail(f"{option}: {error}", mend="nothing was changed", code=WRONG_USAGE)


def scopes_from(
    operations: list[str] | None,
    sources: list[str] | None,
    tags: list[str] | None,
    *,
    not_before: str | None,
) -> Scopes:
    """Return what the options say; none given is no bound."""
    return Scopes(
        operations=_operations(operations) if operations else None,
        sources=_sources(sources) if sources else None,
        not_before=None if not_before is None else _not_before(not_before),
        tags=_tags(tags or []),
    )


def set_(  # noqa: PLR0913, PLR0917 - options of a command
    key_id: Annotated[
        str,
        typer.Argument(metavar="KEY_ID", help="The key's public id, as `egret keys list` shows."),
    ],
    model: ModelOption = None,
    any_model: Annotated[
        bool, typer.Option("--any-model", help="As its team, organization or policy allow.")
    ] = False,
    operation: OperationOption = None,
    any_operation: Annotated[
        bool, typer.Option("--any-operation", help="No bound on operations.")
    ] = False,
    source: SourceOption = None,
    any_source: Annotated[
        bool, typer.Option("--any-source", help="No bound on addresses.")
    ] = False,
    tag: TagOption = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all tags away.")] = False,
    not_before: NotBeforeOption = None,
    priority: Annotated[
        Priority | None,
        typer.Option("--priority", help="Who keeps capacity when a shared limit runs short."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change what a key is for, everywhere within a second or so; a list replaces the one before.

    Example: egret keys set 5OKO8h6jGWNP --operation chat --source 192.0.2.0/24 --tag env=prod
    """
    key_id = public_id(key_id)
    change = KeyChange(
        allowed_models=_chosen(("--model", model), ("--any-model", any_model), tuple),
        allowed_operations=_chosen(
            ("--operation", operation), ("--any-operation", any_operation), _operations
        ),
        allowed_sources=_chosen(("--source", source), ("--any-source", any_source), _sources),
        tags=_chosen(("--tag", tag), ("--no-tags", no_tags), _tags) or (),
        not_before=AS_IT_IS if not_before is None else _not_before(not_before),
        priority=AS_IT_IS if priority is None else priority.value,
    )
    if all(getattr(change, field.name) is AS_IT_IS for field in fields(change)):
        fail("nothing to set", mend="see `egret keys set --help`", code=WRONG_USAGE)
    changed = on_connection(
        lambda connection: change_key(connection, key_id, change=change), tells=told_of
    )
    print_record(key_row(changed), output=output)


def _chosen(
    some: tuple[str, list[str] | None],
    none: tuple[str, bool],
    parse: Callable[[list[str]], tuple[Parsed, ...]],
) -> tuple[Parsed, ...] | Unchanged | None:
    (option, given), (opposite, is_none) = some, none
    if given and is_none:
        fail(f"{option} and {opposite} exclude each other", mend="choose one", code=WRONG_USAGE)
    if is_none:
        return None
    return parse(given) if given else AS_IT_IS


def _operations(names: list[str]) -> tuple[str, ...]:
    return parsed(lambda: parse_operations(names), option="--operation")


def _sources(texts: list[str]) -> tuple[Network, ...]:
    return parsed(lambda: parse_sources(texts), option="--source")


def _not_before(text: str) -> datetime | None:
    return parsed(lambda: parse_moment(text, now=datetime.now(UTC)), option="--not-before")


def _tags(texts: list[str]) -> tuple[str, ...]:
    return parsed(lambda: parse_tags(texts), option="--tag")
