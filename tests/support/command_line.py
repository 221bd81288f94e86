"""Runs `egret` in this process and keeps everything it said."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from typer._click.core import Command
from typer.main import get_command
from typer.testing import CliRunner

from sidecar.cli.batch import PROGRAM
from sidecar.cli.main import COMMANDS, command_tree


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as JSON."""
        return orjson.loads(self.out)

    @property
    def lines(self) -> list[str]:
        """Lines of standard output without a table's frame, cells joined by `|`."""
        cells = [line.strip("│┃ ").replace("┃", "│") for line in self.out.splitlines()]
        return [
            "|".join(cell.strip() for cell in line.split("│"))
            for line in cells
            if line and line[0] not in "┏┡└┌━─"
        ]


@dataclass(frozen=True)
class Egret:
    """The command line with the database of a test."""

    dsn: str

    def __call__(self, *arguments: str, stdin: str | None = None) -> Ran:
        """Run one command."""
        environment = {"EGRET_POSTGRES__DSN": self.dsn, "EGRET_POSTGRES__ACQUIRE_SECONDS": "20"}
        return run_command(arguments, stdin=stdin, environment=environment)

    def prepare(self, *commands: str) -> None:
        """Run commands that must succeed, each in words without blanks."""
        for command in commands:
            ran = self(*command.split())
            assert ran.code == 0, ran


def run_command(
    arguments: Sequence[str],
    *,
    stdin: str | None = None,
    environment: Mapping[str, str | None] | None = None,
) -> Ran:
    """Run one command in this process, with these variables added to its environment."""
    command = _command(frozenset(COMMANDS.keys() & {*arguments}))
    code: object = 0
    with CliRunner().isolation(input=stdin, env=environment) as (out, err, _):
        try:
            command.main(args=arguments, prog_name=PROGRAM)
        except SystemExit as end:
            code = end.code
        sys.stdout.flush()
        sys.stderr.flush()
        written = [one.getvalue().decode() for one in (out, err)]
    assert isinstance(code, int)
    return Ran(code, *written)


@functools.cache
def _command(names: frozenset[str]) -> Command:
    """Return the command line; the runner would build all commands of a group for each call."""
    return get_command(command_tree(names))
