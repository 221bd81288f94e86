"""Runs `egret` in this process and keeps everything it said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import orjson
from typer.testing import CliRunner

from sidecar.cli.main import command_tree


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
        result = CliRunner().invoke(
            command_tree(arguments), arguments, input=stdin, env=environment
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Ran(result.exit_code, result.stdout, result.stderr)
