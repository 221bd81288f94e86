"""`egret orgs` and `egret teams`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Final, Generic, TypeVar

import typer

from sidecar.admin import owners as administration
from sidecar.admin.owner_deletion import Dependents, delete_owner, dependents, described
from sidecar.admin.owners import (
    AS_IT_IS,
    ExistsAlreadyError,
    Organization,
    OwnerChange,
    Rules,
    Team,
    Unchanged,
)
from sidecar.cli.admin_server import AdminServer, address, team_address
from sidecar.cli.connection import ChangeNotice, on_connection
from sidecar.cli.in_force import NoWaitOption, wait_for_workers
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    ask,
    fail,
    note,
    print_json,
    print_record,
    print_rows,
)
from sidecar.storage.pool import Connection

orgs = typer.Typer(no_args_is_help=True, help="Organizations: who pays, and rules for all teams.")
teams = typer.Typer(no_args_is_help=True, help="Teams of an organization: who owns keys.")

ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="Allowed models, as a glob with * and ?; repeat for more."),
]
AnyModelOption = Annotated[bool, typer.Option("--any-model", help="As the levels above it allow.")]
NewNameOption = Annotated[str | None, typer.Option("--name", help="Its new name.")]
IfMissingOption = Annotated[
    bool, typer.Option("--if-missing", help="Leave one of this name as it is, and exit with 0.")
]
CascadeOption = Annotated[bool, typer.Option("--cascade", help="Delete its teams and keys too.")]
CascadeToKeysOption = Annotated[bool, typer.Option("--cascade", help="Delete its keys too.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Do not ask.")]
PolicyOption = Annotated[str | None, typer.Option("--policy", help="Name of the policy to bind.")]

OrganizationArgument = Annotated[
    str, typer.Argument(metavar="NAME", help="As `egret orgs list` shows it.")
]
TeamArgument = Annotated[
    str,
    typer.Argument(
        metavar="TEAM", help="ORGANIZATION/TEAM, or the team's name if no other has it."
    ),
]

_COLUMNS: Final = ("id", "enabled", "policy", "allowed_models", "created_at")


_Owner = TypeVar("_Owner", Organization, Team)


@dataclass(frozen=True, slots=True)
class _Owners(Generic[_Owner]):
    """Organizations or teams: changes of one, in the database or with `--server` by the API."""

    word: str
    kind: type[_Owner]
    address: Callable[[str], str]
    find_id: Callable[[Connection, str], Awaitable[str]]
    change_one: Callable[[Connection, str, OwnerChange], Awaitable[_Owner]]

    def create(
        self,
        create: Callable[[Connection], Awaitable[_Owner]],
        every: Callable[[Connection], Awaitable[Sequence[_Owner]]] | None,
        *,
        place: str,
        body: Mapping[str, object],
        output: Output,
    ) -> None:
        """Create an owner; if its name is taken, show the one among *every* that has it."""
        is_new = True

        def remote(server: AdminServer) -> _Owner:
            nonlocal is_new
            try:
                return server.call(self.kind, "POST", place, body=body)
            except ExistsAlreadyError:
                if every is None:
                    raise
                is_new = False
                return server.call(self.kind, "GET", place + address(str(body["name"])))

        async def work(connection: Connection) -> _Owner:
            nonlocal is_new
            try:
                async with connection.transaction():
                    return await create(connection)
            except ExistsAlreadyError:
                if every is None:
                    raise
                is_new = False
                return next(one for one in await every(connection) if one.name == body["name"])

        print_record(_row(on_connection(work, remote=remote)), output=output)
        if not is_new:
            note("It exists already; nothing was changed.")

    def change(self, name: str, change: OwnerChange, *, output: Output, no_wait: bool) -> None:
        """Change an owner, print it, and wait for the workers."""
        changed = on_connection(
            lambda connection: self.change_one(connection, name, change),
            notice=lambda one: self._notice(one.id),
            remote=lambda server: server.call(
                self.kind, "PATCH", self.address(name), body=_body(change), wait=not no_wait
            ),
        )
        print_record(_row(changed), output=output)
        note(f"This {wait_for_workers(no_wait=no_wait)}.")

    def delete(
        self, name: str, *, cascades: bool, yes: bool, output: Output, no_wait: bool
    ) -> None:
        """Delete an owner; ask first, with the number of objects that are deleted with it."""
        if not yes:

            async def count(connection: Connection) -> Dependents:
                return await dependents(connection, await self.find_id(connection, name))

            found = on_connection(
                count,
                remote=lambda server: server.call(
                    Dependents, "GET", f"{self.address(name)}/dependents"
                ),
            )
            if cascades or found.are_none:
                ask(f"Delete {self.word} {name}{_with(found)}?")

        async def work(connection: Connection) -> tuple[str, Dependents]:
            owner_id = await self.find_id(connection, name)
            return owner_id, await delete_owner(connection, owner_id, cascades=cascades)

        def remote(server: AdminServer) -> tuple[str, Dependents]:
            query = {"cascade": cascades}
            place = self.address(name)
            return "", server.call(Dependents, "DELETE", place, query=query, wait=not no_wait)

        _, deleted = on_connection(work, notice=lambda done: self._notice(done[0]), remote=remote)
        if output is Output.JSON:
            print_json({self.word: name, **asdict(deleted)})
        words = wait_for_workers(no_wait=no_wait)
        note(f"Deleted {self.word} {name}{_with(deleted)}. This {words}.")

    def _notice(self, owner_id: str) -> ChangeNotice:
        return ChangeNotice(keys=(f"{self.word}:{owner_id}",))


def _with(found: Dependents) -> str:
    words = described(found)
    return f" with {words}" if words else ""


_ORGANIZATIONS: Final = _Owners(
    "organization",
    Organization,
    lambda name: address("organizations", name),
    administration.find_organization_id,
    administration.change_organization,
)
_TEAMS: Final = _Owners(
    "team", Team, team_address, administration.find_team_id, administration.change_team
)


@orgs.command("create")
def create_organization(
    name: Annotated[str, typer.Argument(help="Lower case, for example acme.")],
    model: ModelOption = None,
    policy: PolicyOption = None,
    if_missing: IfMissingOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create an organization. Exits with 3 if there is one of this name.

    Example: egret orgs create acme --policy strict
    """
    rules = rules_from(model, policy)
    _ORGANIZATIONS.create(
        lambda connection: administration.create_organization(connection, name, rules=rules),
        administration.organizations if if_missing else None,
        place=address("organizations"),
        body={"name": name, **asdict(rules)},
        output=output,
    )


@orgs.command("set")
def change_organization(
    name: OrganizationArgument,
    new_name: NewNameOption = None,
    model: ModelOption = None,
    any_model: AnyModelOption = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rename it, or change the models that it allows; keys stay good.

    Example: egret orgs set acme --name acme-labs --model 'gpt-*'
    """
    change = _change(new_name, model, any_model=any_model)
    _ORGANIZATIONS.change(name, change, output=output, no_wait=no_wait)


@orgs.command("delete")
def delete_organization(
    name: OrganizationArgument,
    cascade: CascadeOption = False,
    yes: YesOption = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete it, and with --cascade its teams and keys. Its usage stays, under its id.

    Its API tokens and alert routes are deleted with it.

    Example: egret orgs delete acme --cascade
    """
    _ORGANIZATIONS.delete(name, cascades=cascade, yes=yes, output=output, no_wait=no_wait)


@orgs.command("list")
def list_organizations(output: OutputOption = Output.TABLE) -> None:
    """List all organizations.

    Example: egret orgs list --output json
    """
    found = on_connection(
        administration.organizations,
        remote=lambda server: tuple(server.pages(Organization, "/organizations")),
    )
    print_rows([_row(one) for one in found], columns=("name", *_COLUMNS), output=output)


@orgs.command("disable")
def disable_organization(
    name: OrganizationArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Refuse the keys of all its teams until it is enabled again.

    Example: egret orgs disable acme
    """
    _ORGANIZATIONS.change(name, OwnerChange(enabled=False), output=output, no_wait=no_wait)


@orgs.command("enable")
def enable_organization(
    name: OrganizationArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Let its keys in again, but for those whose team or themselves are disabled.

    Example: egret orgs enable acme
    """
    _ORGANIZATIONS.change(name, OwnerChange(enabled=True), output=output, no_wait=no_wait)


@teams.command("create")
def create_team(
    name: Annotated[str, typer.Argument(help="Lower case, for example search.")],
    org: Annotated[str, typer.Option("--org", help="Name of its organization.")],
    model: ModelOption = None,
    policy: PolicyOption = None,
    if_missing: IfMissingOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a team. Exits with 3 if there is one of this name.

    Example: egret teams create search --org acme --model 'gpt-*'
    """
    rules = rules_from(model, policy)
    _TEAMS.create(
        lambda connection: administration.create_team(
            connection, name, organization=org, rules=rules
        ),
        (lambda connection: administration.teams(connection, organization=org))
        if if_missing
        else None,
        place=address("organizations", org, "teams"),
        body={"name": name, **asdict(rules)},
        output=output,
    )


@teams.command("set")
def change_team(
    team: TeamArgument,
    new_name: NewNameOption = None,
    model: ModelOption = None,
    any_model: AnyModelOption = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Rename it within its organization, or change its models; keys stay good.

    Example: egret teams set acme/search --name find --any-model
    """
    change = _change(new_name, model, any_model=any_model)
    _TEAMS.change(team, change, output=output, no_wait=no_wait)


@teams.command("delete")
def delete_team(
    team: TeamArgument,
    cascade: CascadeToKeysOption = False,
    yes: YesOption = False,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Delete it, and with --cascade its keys. Its usage stays, under its id.

    Its API tokens are deleted with it.

    Example: egret teams delete acme/search --cascade
    """
    _TEAMS.delete(team, cascades=cascade, yes=yes, output=output, no_wait=no_wait)


@teams.command("list")
def list_teams(
    org: Annotated[str | None, typer.Option("--org", help="Of this organization only.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List teams.

    Example: egret teams list --org acme
    """
    found = on_connection(
        lambda connection: administration.teams(connection, organization=org),
        remote=lambda server: tuple(server.pages(Team, "/teams", query={"organization": org})),
    )
    print_rows([_row(one) for one in found], columns=("team", *_COLUMNS), output=output)


@teams.command("disable")
def disable_team(
    team: TeamArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Refuse the team's keys until it is enabled again.

    Example: egret teams disable acme/search
    """
    _TEAMS.change(team, OwnerChange(enabled=False), output=output, no_wait=no_wait)


@teams.command("enable")
def enable_team(
    team: TeamArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Let the team's keys in again, but for those that are disabled themselves.

    Example: egret teams enable acme/search
    """
    _TEAMS.change(team, OwnerChange(enabled=True), output=output, no_wait=no_wait)


def _change(name: str | None, model: list[str] | None, *, any_model: bool) -> OwnerChange:
    models = chosen(("--model", model), ("--any-model", any_model), tuple)
    if name is None and models is AS_IT_IS:
        fail("there is nothing to change", hint="see --help for options", code=WRONG_USAGE)
    return OwnerChange(name=name, allowed_models=models)


def _body(change: OwnerChange) -> Mapping[str, object]:
    """Return the fields that change, as the API takes them."""
    given = {"name": change.name, "enabled": change.enabled}
    body: dict[str, object] = {name: value for name, value in given.items() if value is not None}
    if change.allowed_models is not AS_IT_IS:
        body["allowed_models"] = change.allowed_models
    return body


Parsed = TypeVar("Parsed")


def chosen(
    some: tuple[str, list[str] | None],
    none: tuple[str, bool],
    parse: Callable[[list[str]], tuple[Parsed, ...]],
) -> tuple[Parsed, ...] | Unchanged | None:
    """Return the values of an option, None for its opposite, or that it stays as it is."""
    (option, given), (opposite, is_none) = some, none
    if given and is_none:
        fail(f"{option} and {opposite} exclude each other", hint="choose one", code=WRONG_USAGE)
    if is_none:
        return None
    return parse(given) if given else AS_IT_IS


def rules_from(model: list[str] | None, policy: str | None) -> Rules:
    """Return the bindings of the options; without --model the level above decides."""
    return Rules(allowed_models=tuple(model) if model else None, policy=policy)


def _row(owner: Organization | Team) -> Row:
    name = {"team": owner.path} if isinstance(owner, Team) else {"name": owner.name}
    return name | {column: getattr(owner, column) for column in _COLUMNS}
