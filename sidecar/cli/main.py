"""The command tree, from `commands.tsv`: all commands and groups, each with the place of its code.

Only commands that the command line names are imported; of others the help has the table's summary.
Commands of egret-tools, a distribution of its own, are imported only here, by their names: without
it they report the way to install it.
"""

from __future__ import annotations

import errno
import importlib.resources
import os
import re
import signal
import sys
from collections.abc import Iterable
from functools import cache
from importlib.util import find_spec
from pkgutil import resolve_name
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typing_extensions import override

from sidecar import __version__
from sidecar.cli.arguments import ACTOR, SERVER
from sidecar.cli.terminal import (
    FAILED,
    UNWRITABLE,
    WRONG_USAGE,
    drop_output,
    fail,
    fail_without_tools,
    note,
)
from sidecar.domain.validation import is_text, plain_fault
from sidecar.settings.sections import inherited_environment

_TABLE: Final = importlib.resources.files("sidecar.cli").joinpath("commands.tsv")
COMMANDS: Final = {
    name: (place, summary)
    for line in _TABLE.read_text(encoding="utf-8").splitlines()
    if not line.startswith("#")
    for name, place, summary in (line.split("\t"),)
}
"""Every command and group: the place of its code, and its line in the help.

A group is a `typer.Typer`, whose module adds most of its commands; a name of two words adds a
command from another place to it.
"""
_TOOLS: Final = "egret_tools"
_NOT_INSTALLED: Final = "Not installed: a part of egret-tools."
_AFTER_COMMAND: Final = "egret.after_command"
_COMPLETE: Final = "_EGRET_COMPLETE"
_COMPLETED: Final = ("COMP_WORDS", "_TYPER_COMPLETE_ARGS")
"""The command line that bash, or zsh and fish, complete; set by Typer's completion scripts."""


def _show_version(asked: bool) -> None:
    if asked:
        typer.echo(f"egret {__version__}")
        raise typer.Exit


class _Commands(TyperGroup):
    """All commands. Words that no database can hold are refused before any of them begins."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        _simplify_help(self)

    @override
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:  # Typer's own class is private
        command = next((word for word in args if word in COMMANDS), None)
        for word in args:
            if not is_text(word):
                hint, code = "write it in UTF-8", _wrong_usage_of(command)
                fail(f"{word[:60]!r} is no text", hint=hint, code=code)
        try:
            ctx.meta[_AFTER_COMMAND] = rest = super().parse_args(ctx, args)
        except typer.TyperException as error:
            error.exit_code = _wrong_usage_of(command)
            raise
        return rest

    @override
    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except typer.TyperException as error:
            if isinstance(error, typer.BadParameter):
                # Typer reads values by pydantic, and has its words; only this needs the import.
                from pydantic import ValidationError  # noqa: PLC0415

                if isinstance(error.__cause__, ValidationError):
                    error.message = "; ".join(map(plain_fault, error.__cause__.errors()))
            if ctx.invoked_subcommand == "diff":
                error.exit_code = FAILED
            raise


def _wrong_usage_of(command: str | None) -> int:
    return FAILED if command == "diff" else WRONG_USAGE  # 2 of `diff` is a difference


_LINE_END: Final = re.compile(r"(?<!\n)\n(?!\n)")
"""Within a paragraph, whose lines in a docstring have a width of their own."""


def _simplify_help(command: Any) -> None:
    """Show no type behind flags, the type of one value for a list, and paragraphs unbroken."""
    if command.help is not None:
        command.help = _LINE_END.sub(" ", command.help)
    for parameter in command.get_params(typer.Context(command)):
        if getattr(parameter, "is_flag", False):
            parameter.metavar = ""  # shown in place of the type
        else:
            parameter.display_type = lambda context, of_all=parameter.display_type: (
                of_all(context).replace("list[", "").replace("]", "")
            )
    for subcommand in getattr(command, "commands", {}).values():
        _simplify_help(subcommand)


def _root(
    context: typer.Context,
    actor: Annotated[
        str | None,
        typer.Option(
            "--as", metavar="NAME", help="Who makes the change, for the audit log; else the user."
        ),
    ] = None,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            help="Administer by `egret admin` there, with the token of EGRET_SERVER_TOKEN.",
        ),
    ] = None,
    _version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Guarded LLM egress for Envoy."""
    ACTOR.set(actor)
    SERVER.set(server)
    if server is not None and context.invoked_subcommand is not None:
        # Here, since most command lines name no server.
        from sidecar.cli.admin_server import refuse_local  # noqa: PLC0415

        refuse_local([context.invoked_subcommand, *context.meta[_AFTER_COMMAND]])


@cache
def _command(name: str) -> Any:
    """Return the function or the group behind *name*, with all its commands.

    Raises:
        ModuleNotFoundError: egret-tools, or a package that it needs, is not installed.
    """
    found = resolve_name(COMMANDS[name][0])
    for path, (place, _) in COMMANDS.items():
        group, _, command = path.partition(" ")
        if group == name and command:
            found.command(command)(resolve_name(place))
    return found


def _add_hint(tree: typer.Typer, name: str, missing: str) -> None:
    """Add a command that only reports the *missing* module, whatever its arguments are."""

    @tree.command(
        name,
        help=_NOT_INSTALLED,
        add_help_option=False,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    )
    def hint() -> None:
        fail_without_tools(f"egret {name}", missing)


def command_tree(words: Iterable[str] | None = None) -> typer.Typer:
    """Return the commands; of those that *words*, a command line, do not name only the summary.

    Without *words* all can run. A word counts wherever it stands: `--as policy keys list` names
    both, and the parser decides.
    """
    tree = typer.Typer(
        name="egret",
        cls=_Commands,
        help="Guarded LLM egress for Envoy.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
    )
    tree.callback()(_root)
    named = COMMANDS if words is None else {*words}
    for name, (place, summary) in COMMANDS.items():
        if " " in name:
            continue
        is_tool = place.startswith(_TOOLS)
        if name not in named:
            is_here = not is_tool or find_spec(_TOOLS) is not None
            tree.command(name, help=summary if is_here else _NOT_INSTALLED)(lambda: None)
            continue
        try:
            command = _command(name)
        except ModuleNotFoundError as error:
            if not is_tool:
                raise
            _add_hint(tree, name, (error.name or "").partition(".")[0])
            continue
        if isinstance(command, typer.Typer):
            tree.add_typer(command, name=name)
        else:
            tree.command(name)(command)
    return tree


def run() -> None:
    """Run the command line; exit codes are 0 done, 1 failed, 2 wrong usage, 3 exists already."""
    # Python has None in place of a closed stream, and the next file that is opened would take its
    # number. Standard input is empty then, writes to standard output fail, and those to standard
    # error are dropped.
    for number, name, flags, mode in (
        (0, "stdin", os.O_RDONLY, "r"),
        (1, "stdout", os.O_RDONLY, "w"),
        (2, "stderr", os.O_WRONLY, "w"),
    ):
        if getattr(sys, name) is None:
            os.dup2(os.open(os.devnull, flags), number)
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))
    words = sys.argv[1:]
    environment = inherited_environment()
    if _COMPLETE in environment:  # a shell completes a command line, which is in a variable
        words = " ".join(environment.get(name, "") for name in _COMPLETED).split()
    tree = command_tree(words)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # imports are over
    try:
        try:
            tree(prog_name="egret")
        finally:
            typer.echo(nl=False)  # flushes, if there is a standard output
    except OSError as error:
        if error.errno not in {*UNWRITABLE, errno.EPIPE}:
            raise
        drop_output()
        if error.errno != errno.EPIPE:  # a reader that has enough is no failure to report
            problem = f"cannot write the output: {error.strerror}"
            note(f"error: {problem}; free space for it, or name another place")
        sys.exit(FAILED)
