"""`egret keys`. A secret is shown by `create` and `rotate`, once."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import Annotated, Final

import typer

from sidecar.authorization.api_key import ApiKey, generate
from sidecar.cli.database import Told, on_connection
from sidecar.cli.key_output import key_row, public_id, told_of
from sidecar.cli.key_scopes import (
    MOMENT_HELP,
    NotBeforeOption,
    OperationOption,
    SourceOption,
    TagOption,
    parsed,
    scopes_from,
)
from sidecar.cli.moments import parse_moment, parse_span_ahead
from sidecar.cli.output import Output, OutputOption, Row, note, print_record, print_rows, shown
from sidecar.cli.owners import ModelOption, PolicyOption, rules_from
from sidecar.storage import key_administration
from sidecar.storage.key_administration import Expiry
from sidecar.storage.key_listing import KeyState, Listing, find_key
from sidecar.storage.key_listing import list_keys as list_page

keys = typer.Typer(no_args_is_help=True, help="API keys: who may call, with what, until when.")

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY_ID", help="The key's public id, as `egret keys list` shows.")
]
TEAM_HELP: Final = "ORGANIZATION/TEAM, or the team's name if no other has it."
MAX_LIMIT: Final = 100_000
"""More at once is what `egret keys export` is for."""

_COLUMNS: Final = (
    "key_id", "name", "team", "state", "expires_at", "policy", "allowed_models", "created_at",
)  # fmt: skip


@keys.command("create")
def create(  # noqa: PLR0913, PLR0917 - options of a command
    team: Annotated[str, typer.Option("--team", help=TEAM_HELP)],
    name: Annotated[str, typer.Option("--name", help="What it is for; unique in its team.")],
    expires: Annotated[str, typer.Option("--expires", help=MOMENT_HELP)] = "never",
    model: ModelOption = None,
    policy: PolicyOption = None,
    operation: OperationOption = None,
    source: SourceOption = None,
    tag: TagOption = None,
    not_before: NotBeforeOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a key and print it, the only time it is shown.

    Standard output holds the key alone, so that it can be piped to where secrets are kept.

    Example: egret keys create --team acme/search --name laptop --expires 30d --model 'gpt-*'
    """
    expires_at = parsed(lambda: parse_moment(expires, now=datetime.now(UTC)), option="--expires")
    key, rules = generate(secrets.token_bytes), rules_from(model, policy)
    scopes = scopes_from(operation, source, tag, not_before=not_before)
    created = on_connection(
        lambda connection: key_administration.create_key(
            connection,
            key,
            owner=(team, name),
            expires_at=expires_at,
            rules=rules,
            scopes=scopes,
        ),
        tells=told_of,
    )
    _print_secret(key, row=key_row(created), output=output)


@keys.command("list")
def list_keys(  # noqa: PLR0913, PLR0917 - options of a command
    team: Annotated[str | None, typer.Option("--team", help=f"Of one team: {TEAM_HELP}")] = None,
    organization: Annotated[
        str | None,
        typer.Option("--organization", "--org", metavar="NAME", help="Of one organization."),
    ] = None,
    state: Annotated[
        KeyState | None, typer.Option("--state", help="Those that would be answered so now.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", help="Those with this tag.")] = None,
    limit: Annotated[
        int, typer.Option("--limit", min=1, max=MAX_LIMIT, help="How many at most.")
    ] = 100,
    after: Annotated[
        str | None,
        typer.Option("--after", metavar="KEY_ID", help="Go on after the last one of a page."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List keys by team and name, revoked and expired ones included.

    Example: egret keys list --team acme/search --state active --limit 20
    """
    listing = Listing(
        team=team,
        organization=organization,
        state=state,
        tag=tag,
        after=None if after is None else public_id(after),
        limit=limit,
    )
    page = on_connection(lambda connection: list_page(connection, listing))
    print_rows([key_row(key) for key in page.keys], columns=_COLUMNS, output=output)
    if page.has_more:
        note(f"there are more: --after {page.keys[-1].key_id}")


@keys.command("show")
def show(key_id: KeyArgument, output: OutputOption = Output.TABLE) -> None:
    """Show one key and how it was used, without its secret: nobody has that but its owner.

    Example: egret keys show 5OKO8h6jGWNP
    """
    key_id = public_id(key_id)
    found = on_connection(lambda connection: find_key(connection, key_id))
    print_record(key_row(found), output=output)


@keys.command("revoke")
def revoke(key_id: KeyArgument, output: OutputOption = Output.TABLE) -> None:
    """Revoke a key for good, everywhere within a second or so.

    Example: egret keys revoke 5OKO8h6jGWNP
    """
    key_id = public_id(key_id)
    revoked = on_connection(
        lambda connection: key_administration.revoke_key(connection, key_id), tells=told_of
    )
    print_record(key_row(revoked), output=output)


@keys.command("disable")
def disable(key_id: KeyArgument, output: OutputOption = Output.TABLE) -> None:
    """Refuse a key until it is enabled again, everywhere within a second or so.

    Example: egret keys disable 5OKO8h6jGWNP
    """
    _switch(key_id, enabled=False, output=output)


@keys.command("enable")
def enable(key_id: KeyArgument, output: OutputOption = Output.TABLE) -> None:
    """Let a key in that was disabled; what is revoked or expired stays so.

    Example: egret keys enable 5OKO8h6jGWNP
    """
    _switch(key_id, enabled=True, output=output)


@keys.command("rotate")
def rotate(
    key_id: KeyArgument,
    grace: Annotated[
        str, typer.Option("--grace", help="How long the old one stays good.")
    ] = "24h",
    expires: Annotated[
        str | None,
        typer.Option("--expires", help=f"For the new one (else as it was): {MOMENT_HELP}"),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a new key in the place of an old one, and print it, the only time it is shown.

    The new one has an id and a secret of its own; all else is as it was with the old one.

    Example: egret keys rotate 5OKO8h6jGWNP --grace 2h
    """
    key_id = public_id(key_id)
    now = datetime.now(UTC)
    span = parsed(lambda: parse_span_ahead(grace, now=now), option="--grace")
    expires_at = parsed(
        lambda: Expiry.KEEP if expires is None else parse_moment(expires, now=now),
        option="--expires",
    )
    key = generate(secrets.token_bytes)
    new, old = on_connection(
        lambda connection: key_administration.rotate_key(
            connection, key_id, key=key, grace=span, expires_at=expires_at
        ),
        tells=lambda changed: Told(keys=[one.key_id for one in changed]),
    )
    row = {**key_row(new), "replaces": old.key_id, "replaced_expires_at": old.expires_at}
    _print_secret(key, row=row, output=output)


@keys.command("expire")
def expire(
    key_id: KeyArgument,
    when: Annotated[str, typer.Argument(metavar="WHEN", help=MOMENT_HELP)] = "now",
    output: OutputOption = Output.TABLE,
) -> None:
    """Set when a key stops being good; unlike a revocation this can be changed again.

    Example: egret keys expire 5OKO8h6jGWNP 7d
    """
    key_id = public_id(key_id)
    at = parsed(lambda: parse_moment(when, now=datetime.now(UTC)), option="WHEN")
    changed = on_connection(
        lambda connection: key_administration.expire_key(connection, key_id, at=at),
        tells=told_of,
    )
    print_record(key_row(changed), output=output)


def _switch(key_id: str, *, enabled: bool, output: Output) -> None:
    key_id = public_id(key_id)
    switched = on_connection(
        lambda connection: key_administration.switch_key(connection, key_id, enabled=enabled),
        tells=told_of,
    )
    print_record(key_row(switched), output=output)


def _print_secret(key: ApiKey, *, row: Row, output: Output) -> None:
    if output is Output.JSON:
        print_record({"key": key.reveal(), **row}, output=output)
        return
    for name in ("key_id", "name", "team", "expires_at", "replaces", "replaced_expires_at"):
        if row.get(name) is not None:
            note(f"{name.replace('_', ' ')}: {shown(row[name])}")
    note("Keep it now: it is shown this once.")
    typer.echo(key.reveal())
