"""What commands print: rows for people or for programs, and errors in one line with the mend.

Results go to standard output, everything else to standard error, so that a command can be piped.
"""

from __future__ import annotations

import enum
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

FAILED: Final = 1
WRONG_USAGE: Final = 2

_PIPE_COLUMNS: Final = 10_000
"""Nothing is cut or wrapped for a reader that is a program."""

Cell = str | int | bool | datetime | Sequence[str] | None
Row = Mapping[str, Cell]


class Output(enum.Enum):
    """For people or for programs."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people or programs.")]


def print_rows(rows: Sequence[Row], *, columns: Sequence[str], output: Output) -> None:
    """Print the *columns* of *rows* as a table, or all of their fields as a JSON array."""
    if output is Output.JSON:
        print_json(rows)
        return
    table = Table()
    for column in columns:
        table.add_column(_title(column))
    for row in rows:
        table.add_row(*(Text(shown(row[column])) for column in columns))
    console().print(table)


def print_record(record: Row, *, output: Output) -> None:
    """Print one thing, a line for each field, or as a JSON object."""
    if output is Output.JSON:
        print_json(record)
        return
    table = Table(show_header=False)
    table.add_column()
    table.add_column()
    for name, value in record.items():
        table.add_row(_title(name), Text(shown(value)))
    console().print(table)


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with what it counts; *many* is *one* with an `s` where not given."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def note(message: str) -> None:
    """Tell a person what happened."""
    console(stderr=True).print(Text(message))


def fail(problem: str, *, mend: str, code: int = FAILED) -> NoReturn:
    """Say in one line what went wrong and what would be right, and exit."""
    console(stderr=True).print(Text(f"error: {problem}; {mend}".replace("\n", " ")))
    raise typer.Exit(code)


@contextmanager
def ends_quietly() -> Iterator[None]:
    """Let Ctrl-C, or a reader that has enough, end what would go on for ever."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # Whoever read has what they wanted. What Python flushes as it exits goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def console(*, stderr: bool = False, pipe_columns: int = _PIPE_COLUMNS) -> Console:
    """Return a console that wraps for terminals; elsewhere at *pipe_columns*."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else pipe_columns
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def _title(name: str) -> str:
    return name.replace("_", " ")


def shown(value: Cell) -> str:
    """Return *value* as a person reads it, times in UTC."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case datetime():
            if value.tzinfo is None:  # as asyncpg gives PostgreSQL's infinity
                value = value.replace(tzinfo=UTC)
            return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        case str() | int():
            return str(value)
        case _:
            return ", ".join(value) or "none"


def print_json(value: object) -> None:
    """Print anything that JSON can hold, times in UTC."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS
    sys.stdout.write(orjson.dumps(value, option=options).decode() + "\n")
