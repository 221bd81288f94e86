"""The command tree. Each group lives in a module of its own and is added here by name.

Only what the command line names is imported: all of it takes a second, one group a third of that.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import cache
from pkgutil import resolve_name
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typing_extensions import override

from sidecar import __version__
from sidecar.cli.arguments import ACTOR
from sidecar.cli.terminal import WRONG_USAGE, fail

_COMMANDS: Final = {
    "up": "egret_tools.cli.up:up",
    "demo": "egret_tools.cli.demo:demo",
    "serve": "sidecar.cli.serve:serve",
    "migrate": "sidecar.cli.serve:migrate",
    "doctor": "sidecar.cli.doctor:doctor",
    "health": "sidecar.cli.health:health",
    "lint": "egret_tools.cli.lint:lint",
    "conformance": "egret_tools.cli.conformance:conformance",
    "top": "sidecar.cli.top:top",
    "logs": "sidecar.cli.logs:logs",
    "replay": "sidecar.cli.replay:replay",
    "bench": "egret_tools.cli.bench:bench",
}
_GROUPS: Final = {
    "orgs": "sidecar.cli.owners:orgs",
    "teams": "sidecar.cli.owners:teams",
    "keys": "sidecar.cli.keys:keys",
    "limits": "sidecar.cli.limits:limits",
    "budget": "sidecar.cli.budget:budget",
    "guardrails": "sidecar.cli.guardrails:guardrails",
    "policy": "sidecar.cli.policy:policy",
    "usage": "sidecar.cli.usage:usage",
    "price": "sidecar.cli.price:price",
    "audit": "sidecar.cli.audit:audit",
    "envoy": "egret_tools.cli.envoy:envoy",
}
_OF_GROUPS: Final = {
    "keys": {
        "set": "sidecar.cli.keys:set_",
        "import": "sidecar.cli.key_transfer:import_",
        "export": "sidecar.cli.key_transfer:export",
    },
    "limits": {"show": "sidecar.cli.limits:show"},
    "policy": {
        "bind": "sidecar.cli.policy:bind",
        "unbind": "sidecar.cli.policy:unbind",
        "history": "sidecar.cli.policy_versions:history",
        "rollback": "sidecar.cli.policy_versions:rollback",
        "lint": "sidecar.cli.policy:advise",
        "schema": "sidecar.cli.policy:schema",
        "promote": "sidecar.cli.policy_versions:promote",
        "demote": "sidecar.cli.policy_versions:demote",
    },
}
"""Commands of a group that have modules of their own, in the order of its help."""


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"egret {__version__}")
        raise typer.Exit


class _Commands(TyperGroup):
    """All commands; no one of them is begun with words that no database takes."""

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # Typer's own class is private
        for word in args:
            if not _is_text(word):
                fail(f"{word[:60]!r} is no text", hint="write it in UTF-8", code=WRONG_USAGE)
        return super().parse_args(ctx, args)


def _is_text(word: str) -> bool:
    """Tell whether *word* is UTF-8; Python makes lone surrogates of bytes that are not."""
    try:
        return b"\0" not in word.encode()
    except UnicodeEncodeError:
        return False


def _root(
    actor: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="Who makes the change, for the audit log; else the user."
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_tell_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Guarded LLM egress for Envoy."""
    ACTOR.set(actor)


@cache
def _group(name: str) -> typer.Typer:
    group: typer.Typer = resolve_name(_GROUPS[name])
    for command, place in _OF_GROUPS.get(name, {}).items():
        group.command(command)(resolve_name(place))
    return group


def command_tree(words: Iterable[str] = ()) -> typer.Typer:
    """Return the commands that *words*, a command line, may mean; all of them where it names none.

    A word counts wherever it stands: `--as policy keys list` gets both, and the parser decides.
    """
    named = set(words)
    if named.isdisjoint(_COMMANDS | _GROUPS):
        named = set(_COMMANDS | _GROUPS)
    tree = typer.Typer(
        name="egret",
        cls=_Commands,
        help="Guarded LLM egress for Envoy.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    tree.callback()(_root)
    for name, place in _COMMANDS.items():
        if name in named:
            tree.command()(resolve_name(place))
    for name in _GROUPS:
        if name in named:
            tree.add_typer(_group(name), name=name)
    return tree


def run() -> None:
    """Run the command line; exit codes are 0 done, 1 failed, 2 wrong usage."""
    command_tree(sys.argv[1:])()
