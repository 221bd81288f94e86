"""`egret orgs` and `egret teams`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from sidecar.admin import owners as administration
from sidecar.admin.owners import Organization, Rules, Team
from sidecar.cli.connection import ChangeNotice, on_connection
from sidecar.cli.in_force import NoWaitOption, wait_for_workers
from sidecar.cli.terminal import Output, OutputOption, Row, note, print_record, print_rows

orgs = typer.Typer(no_args_is_help=True, help="Organizations: who pays, and rules for all teams.")
teams = typer.Typer(no_args_is_help=True, help="Teams of an organization: who owns keys.")

ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="Allowed models, as a glob with * and ?; repeat for more."),
]
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


@orgs.command("create")
def create_organization(
    name: Annotated[str, typer.Argument(help="Lower case, for example acme.")],
    model: ModelOption = None,
    policy: PolicyOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create an organization.

    Example: egret orgs create acme --policy strict
    """
    rules = rules_from(model, policy)
    created = on_connection(
        lambda connection: administration.create_organization(connection, name, rules=rules)
    )
    print_record(_row(created), output=output)


@orgs.command("list")
def list_organizations(output: OutputOption = Output.TABLE) -> None:
    """List all organizations.

    Example: egret orgs list --output json
    """
    found = on_connection(administration.organizations)
    print_rows([_row(one) for one in found], columns=("name", *_COLUMNS), output=output)


@orgs.command("disable")
def disable_organization(
    name: OrganizationArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Refuse the keys of all its teams until it is enabled again.

    Example: egret orgs disable acme
    """
    _switch_organization(name, enabled=False, output=output, no_wait=no_wait)


@orgs.command("enable")
def enable_organization(
    name: OrganizationArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Let its keys in again, but for those whose team or themselves are disabled.

    Example: egret orgs enable acme
    """
    _switch_organization(name, enabled=True, output=output, no_wait=no_wait)


@teams.command("create")
def create_team(
    name: Annotated[str, typer.Argument(help="Lower case, for example search.")],
    org: Annotated[str, typer.Option("--org", help="Name of its organization.")],
    model: ModelOption = None,
    policy: PolicyOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Create a team.

    Example: egret teams create search --org acme --model 'gpt-*'
    """
    rules = rules_from(model, policy)
    created = on_connection(
        lambda connection: administration.create_team(
            connection, name, organization=org, rules=rules
        )
    )
    print_record(_row(created), output=output)


@teams.command("list")
def list_teams(
    org: Annotated[str | None, typer.Option("--org", help="Of this organization only.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List teams.

    Example: egret teams list --org acme
    """
    found = on_connection(lambda connection: administration.teams(connection, organization=org))
    print_rows([_row(one) for one in found], columns=("team", *_COLUMNS), output=output)


@teams.command("disable")
def disable_team(
    team: TeamArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Refuse the team's keys until it is enabled again.

    Example: egret teams disable acme/search
    """
    _switch_team(team, enabled=False, output=output, no_wait=no_wait)


@teams.command("enable")
def enable_team(
    team: TeamArgument, no_wait: NoWaitOption = False, output: OutputOption = Output.TABLE
) -> None:
    """Let the team's keys in again, but for those that are disabled themselves.

    Example: egret teams enable acme/search
    """
    _switch_team(team, enabled=True, output=output, no_wait=no_wait)


def _switch_organization(name: str, *, enabled: bool, output: Output, no_wait: bool) -> None:
    switched = on_connection(
        lambda connection: administration.switch_organization(connection, name, enabled=enabled),
        notice=lambda one: ChangeNotice(keys=(f"organization:{one.id}",)),
    )
    print_record(_row(switched), output=output)
    note(f"This {wait_for_workers(no_wait=no_wait)}.")


def _switch_team(team: str, *, enabled: bool, output: Output, no_wait: bool) -> None:
    switched = on_connection(
        lambda connection: administration.switch_team(connection, team, enabled=enabled),
        notice=lambda one: ChangeNotice(keys=(f"team:{one.id}",)),
    )
    print_record(_row(switched), output=output)
    note(f"This {wait_for_workers(no_wait=no_wait)}.")


def rules_from(model: list[str] | None, policy: str | None) -> Rules:
    """Return the bindings of the options; without --model the level above decides."""
    return Rules(allowed_models=tuple(model) if model else None, policy=policy)


def _row(owner: Organization | Team) -> Row:
    name = {"team": owner.path} if isinstance(owner, Team) else {"name": owner.name}
    return name | {column: getattr(owner, column) for column in _COLUMNS}
