"""`egret keys`: create, list, rotate and revoke API keys."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import asdict, fields
from datetime import UTC, datetime
from typing import Annotated, Final, TypeVar

import typer

from sidecar.admin import keys as key_administration
from sidecar.admin.keys import (
    CreatedKey,
    Expiry,
    Key,
    KeyChange,
    KeyPage,
    KeyState,
    Listing,
    change_key,
    find_key,
)
from sidecar.admin.keys import list_keys as list_page
from sidecar.admin.owners import AS_IT_IS
from sidecar.cli.admin_server import AdminServer, address, team_address
from sidecar.cli.arguments import MomentError, parse_moment, parse_span_ahead
from sidecar.cli.connection import ChangeNotice, on_connection
from sidecar.cli.in_force import NoWaitOption, wait_for_workers
from sidecar.cli.owners import AnyModelOption, ModelOption, PolicyOption, chosen, rules_from
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    note,
    print_record,
    print_rows,
    print_secret,
)
from sidecar.domain.limits import Priority
from sidecar.domain.principal import Network
from sidecar.keys.credentials import KEY_ID_LENGTH, PREFIX, generate, parse
from sidecar.keys.scopes import ScopeError, Scopes, parse_operations, parse_sources, parse_tags
from sidecar.storage.pool import Connection


def notice_for(key: Key) -> ChangeNotice:
    """Return the notification for a change to one key."""
    return ChangeNotice(keys=(key.key_id,))


def public_id(text: str) -> str:
    """Take `egk_<id>` as well, and a whole key, whose secret is let go at once."""
    key = parse(text)
    if key is not None:
        return key.key_id
    key_id = text.removeprefix(PREFIX)
    if not (len(key_id) == KEY_ID_LENGTH and key_id.isascii() and key_id.isalnum()):
        # It may be a mistyped key or a secret: it is not repeated.
        fail("KEY_ID is not the id of a key", hint="see `egret keys list`", code=WRONG_USAGE)
    return key_id


def key_row(key: Key) -> Row:
    """Return a key as a row of output, its fields in their order."""
    return asdict(key) | {"state": key.state.value}


Parsed = TypeVar("Parsed")

MOMENT_HELP: Final = "30d, 12h, 2027-01-31T12:00:00Z, now or never."
EXPIRY_HELP: Final = "30d, 12h, 2027-01-31T12:00:00Z or never."

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
    """Return the value that *parser* reads, or exit with its error for *option*."""
    try:
        return parser()
    except (MomentError, ScopeError) as error:
        fail(f"{option}: {error}", hint="nothing was changed", code=WRONG_USAGE)


def scopes_from(
    operations: list[str] | None,
    sources: list[str] | None,
    tags: list[str] | None,
    *,
    not_before: str | None,
) -> Scopes:
    """Return the values of the options; none given is no bound."""
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
    any_model: AnyModelOption = False,
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
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Change the scopes of a key, in every worker on return; a list replaces the one before.

    Example: egret keys set 5OKO8h6jGWNP --operation chat --source 192.0.2.0/24 --tag env=prod
    """
    key_id = public_id(key_id)
    change = KeyChange(
        allowed_models=chosen(("--model", model), ("--any-model", any_model), tuple),
        allowed_operations=chosen(
            ("--operation", operation), ("--any-operation", any_operation), _operations
        ),
        allowed_sources=chosen(("--source", source), ("--any-source", any_source), _sources),
        tags=chosen(("--tag", tag), ("--no-tags", no_tags), _tags) or (),
        not_before=AS_IT_IS if not_before is None else _not_before(not_before),
        priority=AS_IT_IS if priority is None else priority.value,
    )
    if all(getattr(change, field.name) is AS_IT_IS for field in fields(change)):
        fail("nothing to set", hint="see `egret keys set --help`", code=WRONG_USAGE)
    given = {field.name: getattr(change, field.name) for field in fields(change)}
    body = {name: value for name, value in given.items() if value is not AS_IT_IS}
    _change(
        lambda connection: change_key(connection, key_id, change=change),
        ("PATCH", address("keys", key_id), body),
        output,
        no_wait,
    )


def _change(
    work: Callable[[Connection], Awaitable[Key]],
    request: tuple[str, str, Mapping[str, object] | None],
    output: Output,
    no_wait: bool,
) -> None:
    """Change one key by *work* or by the API's *request*, print it, and wait for the workers."""
    method, path, body = request
    changed = on_connection(
        work,
        notice=notice_for,
        remote=lambda server: server.call(Key, method, path, body=body, wait=not no_wait),
    )
    print_record(key_row(changed), output=output)
    note(f"This {wait_for_workers(no_wait=no_wait)}.")


def _operations(names: list[str]) -> tuple[str, ...]:
    return parsed(lambda: parse_operations(names), option="--operation")


def _sources(texts: list[str]) -> tuple[Network, ...]:
    return parsed(lambda: parse_sources(texts), option="--source")


def _not_before(text: str) -> datetime | None:
    return parsed(lambda: parse_moment(text, now=datetime.now(UTC)), option="--not-before")


def _tags(texts: list[str]) -> tuple[str, ...]:
    return parsed(lambda: parse_tags(texts), option="--tag")


keys = typer.Typer(no_args_is_help=True, help="API keys: owner, scopes, expiry.")

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY_ID", help="The key's public id, as `egret keys list` shows.")
]
TEAM_HELP: Final = "ORGANIZATION/TEAM, or the team's name if no other has it."
MAX_LIMIT: Final = 100_000
"""For more at once there is `egret keys export`."""


_COLUMNS: Final = (
    "key_id", "name", "team", "state", "expires_at", "policy", "allowed_models", "created_at",
)  # fmt: skip


@keys.command("create")
def create(  # noqa: PLR0913, PLR0917 - options of a command
    team: Annotated[str, typer.Option("--team", help=TEAM_HELP)],
    name: Annotated[str, typer.Option("--name", help="Its purpose; unique in its team.")],
    expires: Annotated[str, typer.Option("--expires", help=EXPIRY_HELP)] = "never",
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

    async def work(connection: Connection) -> tuple[str, Key]:
        created = await key_administration.create_key(
            connection, key, owner=(team, name), expires_at=expires_at, rules=rules, scopes=scopes
        )
        return key.reveal(), created

    def remote(server: AdminServer) -> tuple[str, Key]:
        body = {
            "name": name,
            "expires_at": expires_at,
            "not_before": scopes.not_before,
            "allowed_models": rules.allowed_models,
            "policy": rules.policy,
            "allowed_operations": scopes.operations,
            "allowed_sources": scopes.sources,
            "tags": scopes.tags,
        }
        made = server.call(CreatedKey, "POST", f"{team_address(team)}/keys", body=body)
        return made.key, made.details

    text, created = on_connection(work, notice=lambda made: notice_for(made[1]), remote=remote)
    _print_key(text, row=key_row(created), output=output)


@keys.command("list")
def list_keys(
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

    def remote(server: AdminServer) -> KeyPage:
        query = asdict(listing) | {"within": None, "state": None if state is None else state.value}
        found = tuple(server.pages(Key, "/keys", query=query, most=limit + 1))
        return KeyPage(found[:limit], has_more=len(found) > limit)

    page = on_connection(lambda connection: list_page(connection, listing), remote=remote)
    print_rows([key_row(key) for key in page.keys], columns=_COLUMNS, output=output)
    if page.has_more:
        note(f"there are more: --after {page.keys[-1].key_id}")


@keys.command("show")
def show(key_id: KeyArgument, output: OutputOption = Output.TABLE) -> None:
    """Show one key and how it was used, without its secret, which only its owner has.

    Example: egret keys show 5OKO8h6jGWNP
    """
    key_id = public_id(key_id)
    found = on_connection(
        lambda connection: find_key(connection, key_id),
        remote=lambda server: server.call(Key, "GET", address("keys", key_id)),
    )
    print_record(key_row(found), output=output)


@keys.command("revoke")
def revoke(
    key_id: KeyArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Revoke a key for good, in every worker on return.

    Example: egret keys revoke 5OKO8h6jGWNP
    """
    key_id = public_id(key_id)
    _change(
        lambda connection: key_administration.revoke_key(connection, key_id),
        ("POST", address("keys", key_id, "revoke"), None),
        output,
        no_wait,
    )


@keys.command("disable")
def disable(
    key_id: KeyArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Refuse a key until it is enabled again, in every worker on return.

    Example: egret keys disable 5OKO8h6jGWNP
    """
    _switch(key_id, enabled=False, output=output, no_wait=no_wait)


@keys.command("enable")
def enable(
    key_id: KeyArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Enable a disabled key; a revoked or expired one stays so.

    Example: egret keys enable 5OKO8h6jGWNP
    """
    _switch(key_id, enabled=True, output=output, no_wait=no_wait)


@keys.command("rotate")
def rotate(
    key_id: KeyArgument,
    grace: Annotated[
        str, typer.Option("--grace", help="How long the old one stays good.")
    ] = "24h",
    expires: Annotated[
        str | None,
        typer.Option("--expires", help=f"For the new one (else as it was): {EXPIRY_HELP}"),
    ] = None,
    no_wait: NoWaitOption = False,
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

    async def work(connection: Connection) -> tuple[str, Key, Key]:
        pair = await key_administration.rotate_key(
            connection, key_id, key=key, grace=span, expires_at=expires_at
        )
        return key.reveal(), *pair

    def remote(server: AdminServer) -> tuple[str, Key, Key]:
        body: dict[str, object] = {"grace_seconds": int(span.total_seconds())}
        if not isinstance(expires_at, Expiry):
            body["expires_at"] = expires_at
        made = server.call(
            CreatedKey, "POST", address("keys", key_id, "rotate"), body=body, wait=not no_wait
        )
        assert made.replaces is not None  # noqa: S101 - of a rotation
        return made.key, made.details, made.replaces

    text, new, old = on_connection(
        work,
        notice=lambda changed: ChangeNotice(keys=[one.key_id for one in changed[1:]]),
        remote=remote,
    )
    row = {**key_row(new), "replaces": old.key_id, "replaced_expires_at": old.expires_at}
    _print_key(text, row=row, output=output)
    note(f"This {wait_for_workers(no_wait=no_wait)}.")


@keys.command("expire")
def expire(
    key_id: KeyArgument,
    when: Annotated[str, typer.Argument(metavar="WHEN", help=MOMENT_HELP)] = "now",
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Set when a key stops being good; unlike a revocation this can be changed again.

    Example: egret keys expire 5OKO8h6jGWNP 7d
    """
    key_id = public_id(key_id)
    at = parsed(lambda: parse_moment(when, now=datetime.now(UTC)), option="WHEN")
    _change(
        lambda connection: key_administration.expire_key(connection, key_id, at=at),
        ("PATCH", address("keys", key_id), {"expires_at": at}),
        output,
        no_wait,
    )


def _switch(key_id: str, *, enabled: bool, output: Output, no_wait: bool) -> None:
    key_id = public_id(key_id)
    _change(
        lambda connection: key_administration.switch_key(connection, key_id, enabled=enabled),
        ("PATCH", address("keys", key_id), {"enabled": enabled}),
        output,
        no_wait,
    )


def _print_key(key: str, *, row: Row, output: Output) -> None:
    key_id = row["key_id"]
    hint = f"run `egret keys rotate {key_id}` for another, or `egret keys revoke {key_id}`"
    fields = ("key_id", "name", "team", "expires_at", "replaces", "replaced_expires_at")
    print_secret("key", key, row, fields=fields, hint=hint, output=output)
