"""`egret keys`. A secret is shown by `create` and `rotate`, once."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import typer

from sidecar.authorization.api_key import KEY_ID_LENGTH, PREFIX, ApiKey, generate, parse
from sidecar.cli.database import Told, on_connection
from sidecar.cli.moments import MomentError, parse_moment, parse_span
from sidecar.cli.output import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    note,
    print_record,
    print_rows,
    shown,
)
from sidecar.cli.owners import ModelOption, PolicyOption, rules_from
from sidecar.storage import key_administration
from sidecar.storage.key_administration import Expiry, Key

keys = typer.Typer(no_args_is_help=True, help="API keys: who may call, with what, until when.")

Parsed = TypeVar("Parsed")

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY_ID", help="The key's public id, as `egret keys list` shows.")
]
TeamHelp: Final = "ORGANIZATION/TEAM, or the team's name if no other has it."
MomentHelp: Final = "30d, 12h, 2027-01-31T12:00:00Z, now or never."

_COLUMNS: Final = (
    "key_id", "name", "team", "state", "expires_at", "policy", "allowed_models", "created_at",
)  # fmt: skip


@keys.command("create")
def create(  # noqa: PLR0913, PLR0917 - options of a command
    team: Annotated[str, typer.Option("--team", help=TeamHelp)],
    name: Annotated[str, typer.Option("--name", help="What it is for; unique in its team.")],
    expires: Annotated[str, typer.Option("--expires", help=MomentHelp)] = "never",
    model: ModelOption = None,
    policy: PolicyOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a key and print it, the only time it is shown.

    Standard output holds the key alone, so that it can be piped to where secrets are kept.

    Example: egret keys create --team acme/search --name laptop --expires 30d --model 'gpt-*'
    """
    expires_at = _read(lambda: parse_moment(expires, now=datetime.now(UTC)), option="--expires")
    key, rules = generate(secrets.token_bytes), rules_from(model, policy)
    created = on_connection(
        lambda connection: key_administration.create_key(
            connection, key, owner=(team, name), expires_at=expires_at, rules=rules
        ),
        tells=told_of,
    )
    _print_secret(key, row=key_row(created), output=output)


@keys.command("list")
def list_keys(
    team: Annotated[str | None, typer.Option("--team", help=f"Of one team: {TeamHelp}")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List keys, revoked and expired ones included.

    Example: egret keys list --team acme/search
    """
    found = on_connection(lambda connection: key_administration.keys(connection, team=team))
    print_rows([key_row(key) for key in found], columns=_COLUMNS, output=output)


@keys.command("show")
def show(key_id: KeyArgument, output: OutputOption = Output.TABLE) -> None:
    """Show one key and how it was used, without its secret: nobody has that but its owner.

    Example: egret keys show 5OKO8h6jGWNP
    """
    key_id = public_id(key_id)
    found = on_connection(lambda connection: key_administration.find_key(connection, key_id))
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
        typer.Option("--expires", help=f"For the new one (else as it was): {MomentHelp}"),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Make a new key in the place of an old one, and print it, the only time it is shown.

    The new one has an id and a secret of its own, and the old one's team, name, models and policy.

    Example: egret keys rotate 5OKO8h6jGWNP --grace 2h
    """
    key_id = public_id(key_id)
    span = _read(lambda: parse_span(grace), option="--grace")
    expires_at = _read(
        lambda: Expiry.KEEP if expires is None else parse_moment(expires, now=datetime.now(UTC)),
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
    when: Annotated[str, typer.Argument(metavar="WHEN", help=MomentHelp)] = "now",
    output: OutputOption = Output.TABLE,
) -> None:
    """Set when a key stops being good; unlike a revocation this can be changed again.

    Example: egret keys expire 5OKO8h6jGWNP 7d
    """
    key_id = public_id(key_id)
    at = _read(lambda: parse_moment(when, now=datetime.now(UTC)), option="WHEN")
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


def told_of(key: Key) -> Told:
    """Return what workers are told of a change to one key."""
    return Told(keys=(key.key_id,))


def public_id(text: str) -> str:
    """Take `egk_<id>` as well, and a whole key, whose secret is let go at once."""
    key = parse(text)
    if key is not None:
        return key.key_id
    key_id = text.removeprefix(PREFIX)
    if not (len(key_id) == KEY_ID_LENGTH and key_id.isascii() and key_id.isalnum()):
        # It may be a mistyped key or a secret: it is not repeated.
        fail("KEY_ID is not the id of a key", mend="see `egret keys list`", code=WRONG_USAGE)
    return key_id


def _read(parser: Callable[[], Parsed], *, option: str) -> Parsed:
    try:
        return parser()
    except MomentError as error:
        fail(f"{option}: {error}", mend="nothing was changed", code=WRONG_USAGE)


def _print_secret(key: ApiKey, *, row: Row, output: Output) -> None:
    if output is Output.JSON:
        print_record({"key": key.reveal(), **row}, output=output)
        return
    for name in ("key_id", "name", "team", "expires_at", "replaces", "replaced_expires_at"):
        if row.get(name) is not None:
            note(f"{name.replace('_', ' ')}: {shown(row[name])}")
    note("Keep it now: it is shown this once.")
    typer.echo(key.reveal())


def key_row(key: Key) -> Row:
    """Return what is told of a key."""
    return {
        "key_id": key.key_id,
        "name": key.name,
        "team": key.team,
        "state": key.state.value,
        "expires_at": key.expires_at,
        "revoked_at": key.revoked_at,
        "replaced_by": key.replaced_by,
        "policy": key.policy,
        "allowed_models": key.allowed_models,
        "created_at": key.created_at,
        "last_used_at": key.last_used_at,
        "requests": key.requests,
        "refused": key.refused,
    }
