"""`egret orgs` and `egret teams`."""

from __future__ import annotations

from typing import Annotated, Final

import typer

from sidecar.cli.database import on_connection
from sidecar.cli.output import Output, OutputOption, Row, print_record, print_rows
from sidecar.storage import administration
from sidecar.storage.administration import Organization, Rules, Team

orgs = typer.Typer(no_args_is_help=True, help="Organizations: who pays, and rules for all teams.")
teams = typer.Typer(no_args_is_help=True, help="Teams of an organization: who owns keys.")

ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", help="Allowed models, as a glob with * and ?; repeat for more."),
]
PolicyOption = Annotated[str | None, typer.Option("--policy", help="Name of the policy to bind.")]

_ORG_COLUMNS: Final = ("name", "id", "enabled", "policy", "allowed_models", "created_at")
_TEAM_COLUMNS: Final = ("team", "id", "enabled", "policy", "allowed_models", "created_at")


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
    print_record(_organization(created), output=output)


@orgs.command("list")
def list_organizations(output: OutputOption = Output.TABLE) -> None:
    """List all organizations.

    Example: egret orgs list --output json
    """
    found = on_connection(administration.organizations)
    print_rows([_organization(one) for one in found], columns=_ORG_COLUMNS, output=output)


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
    print_record(_team(created), output=output)


@teams.command("list")
def list_teams(
    org: Annotated[str | None, typer.Option("--org", help="Of this organization only.")] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """List teams.

    Example: egret teams list --org acme
    """
    found = on_connection(lambda connection: administration.teams(connection, organization=org))
    print_rows([_team(one) for one in found], columns=_TEAM_COLUMNS, output=output)


def rules_from(model: list[str] | None, policy: str | None) -> Rules:
    """Return what the options bind; no --model at all allows what the level above does."""
    return Rules(allowed_models=tuple(model) if model else None, policy=policy)


def _organization(organization: Organization) -> Row:
    return {
        "name": organization.name,
        "id": organization.id,
        "enabled": organization.enabled,
        "policy": organization.policy,
        "allowed_models": organization.allowed_models,
        "created_at": organization.created_at,
    }


def _team(team: Team) -> Row:
    return {
        "team": team.path,
        "id": team.id,
        "enabled": team.enabled,
        "policy": team.policy,
        "allowed_models": team.allowed_models,
        "created_at": team.created_at,
    }
