"""`egret policy bind` and `unbind`: which policy holds for a key, a team or an organization."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Final

import typer

from sidecar.cli.database import Told, on_connection
from sidecar.cli.key_output import public_id
from sidecar.cli.output import WRONG_USAGE, Output, OutputOption, fail, print_record
from sidecar.storage.administration import bind_organization, bind_team
from sidecar.storage.key_administration import bind_key
from sidecar.storage.pool import Connection

KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY_ID", help="For one key: its public id.")
]
TeamOption = Annotated[
    str | None, typer.Option("--team", metavar="TEAM", help="For a team: ORGANIZATION/TEAM.")
]
OrgOption = Annotated[
    str | None, typer.Option("--org", metavar="NAME", help="For an organization: its name.")
]

_LEVELS: Final = ("--key", "--team", "--org")


@dataclass(frozen=True, slots=True)
class _Target:
    """What a policy is bound to: the option that named it, and the name."""

    level: str
    name: str


def bind(
    name: Annotated[str, typer.Argument(help="As `egret policy list` shows it.")],
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bind a policy; the nearest level that has one decides: key, then team, then organization.

    Example: egret policy bind strict --team acme/search
    """
    _bind(_target(key=key, team=team, org=org), policy=name, output=output)


def unbind(
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bind no policy at this level any more: the next level decides, in the end `default`.

    Example: egret policy unbind --team acme/search
    """
    _bind(_target(key=key, team=team, org=org), policy=None, output=output)


def _target(*, key: str | None, team: str | None, org: str | None) -> _Target:
    named = [
        _Target(level, name)
        for level, name in zip(_LEVELS, (key, team, org), strict=True)
        if name is not None
    ]
    if len(named) != 1:
        fail("say for what", mend="give one of --key, --team and --org", code=WRONG_USAGE)
    target = named[0]
    return _Target(target.level, public_id(target.name)) if key is not None else target


def _bind(target: _Target, *, policy: str | None, output: Output) -> None:
    async def work(connection: Connection) -> str:
        match target.level:
            case "--key":
                return (await bind_key(connection, target.name, policy=policy)).key_id
            case "--team":
                return f"team:{await bind_team(connection, target.name, policy=policy)}"
            case _:
                bound = await bind_organization(connection, target.name, policy=policy)
                return f"organization:{bound}"

    on_connection(work, tells=lambda scope: Told(keys=(scope,)))
    print_record(
        {target.level.removeprefix("--"): target.name, "policy": policy},
        output=output,
    )
