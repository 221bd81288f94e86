"""Output of commands: tables, JSON, progress and bars."""

from __future__ import annotations

import enum
import errno
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Annotated, Final, NoReturn

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from sidecar import __version__

FAILED: Final = 1
WRONG_USAGE: Final = 2
EXISTS_ALREADY: Final = 3
"""Of `create`, for scripts that may run twice; `--if-missing` exits with 0."""
UNWRITABLE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
"""Errors of a file that takes no more, or of a standard output that is closed."""
TOOLS_EXTRA: Final = "tools"
"""Packages of the distribution egret-tools."""

_PIPE_COLUMNS: Final = 10_000
"""Nothing is cut or wrapped for a reader that is a program."""

Cell = str | int | bool | datetime | Sequence[str] | None
Row = Mapping[str, Cell]


class Output(enum.Enum):
    """For people or for programs."""

    TABLE = "table"
    JSON = "json"


OutputOption = Annotated[Output, typer.Option("--output", "-o", help="For people or programs.")]


def print_rows(
    rows: Sequence[Row], *, columns: Sequence[str], output: Output, stderr: bool = False
) -> None:
    """Print the *columns* of *rows* as a table, or all of their fields as a JSON array."""
    if output is Output.JSON:
        print_json(rows)
        return
    cells = [[Text(shown(row[column])) for column in columns] for row in rows]
    print_table(cells, columns=[_title(column) for column in columns], stderr=stderr)


def print_table(
    rows: Sequence[Sequence[Text | Table]], *, columns: Sequence[str], stderr: bool = False
) -> None:
    """Print a table; on a terminal too narrow for its words, each row as a record of lines.

    So that no identifier or number is cut or broken; psql has it as "expanded auto".
    """
    screen = console(stderr=stderr)
    widths = _widths([[Text(column) for column in columns], *rows], screen)
    if widths is None:
        records = [[*zip(columns, row, strict=True)] for row in rows]
        screen.print(_records(records) if rows else "(0 rows)")
        return
    table = Table()
    for column, width in zip(columns, widths, strict=True):
        table.add_column(column, width=width)
    for row in rows:
        table.add_row(*row)
    screen.print(table)


_BORDER: Final = 3
"""Columns that a cell's padding and its rule take."""


def _widths(rows: Sequence[Sequence[Text | Table]], screen: Console) -> list[int] | None:
    """Return widths that break lines between words only; None if *screen* is too narrow."""
    cells = [[screen.measure(cell) for cell in column] for column in zip(*rows, strict=True)]
    least = [max(cell.minimum for cell in column) for column in cells]
    widths = [max(cell.maximum for cell in column) for column in cells]
    excess = sum(widths) + _BORDER * len(widths) + 1 - screen.width
    for _ in range(excess):
        widest = max(
            (at for at, width in enumerate(widths) if width > least[at]),
            key=widths.__getitem__,
            default=None,
        )
        if widest is None:
            return None
        widths[widest] -= 1
    return widths


def _records(records: Sequence[Sequence[tuple[str, Text | Table]]]) -> Table:
    """Return a table of a line for each field, and a rule after each record."""
    table = Table(show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for record in records:
        for name, cell in record:
            table.add_row(name, cell)
        table.add_section()
    return table


def print_record(record: Row, *, output: Output) -> None:
    """Print one thing, a line for each field, or as a JSON object."""
    if output is Output.JSON:
        print_json(record)
        return
    fields = [(_title(name), Text(shown(value))) for name, value in record.items()]
    console().print(_records([fields]))


def in_one_line(error: Exception) -> str:
    """Return the faults of *error*, which has each in a line of its own."""
    return "; ".join(str(error).splitlines())


def counted(count: int, one: str, many: str = "") -> str:
    """Return a number with its noun; *many* defaults to *one* with an `s`."""
    return f"{count} {one if count == 1 else many or one + 's'}"


def note(message: str) -> None:
    """Print a note on standard error."""
    console(stderr=True).print(Text(harmless(message)))


def fail(problem: str, *, hint: str, code: int = FAILED) -> NoReturn:
    """Print the error and its hint in one line, and exit."""
    line = harmless(f"error: {problem}; {hint}".replace("\n", " "))
    console(stderr=True).print(Text(line))
    raise typer.Exit(code)


_HARMFUL: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]"
)
"""Control characters, which a terminal obeys, and marks that change the direction of a line."""


def harmless(text: str) -> str:
    """Return *text* with characters that a terminal would act on as escapes of JSON."""
    return _HARMFUL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def ask(question: str, *, can_ask: bool = True) -> None:
    """Ask for a yes on the terminal, and exit without one; *can_ask* if input is not in use."""
    if not can_ask or not sys.stdin.isatty():
        fail("cannot ask for confirmation without a terminal", hint="pass --yes", code=WRONG_USAGE)
    if not typer.confirm(question, err=True):
        note("Nothing was changed.")
        raise typer.Exit(FAILED)


@contextmanager
def ends_quietly() -> Iterator[None]:
    """End an endless command on Ctrl-C, or if its reader closes the pipe."""
    try:
        yield
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        drop_output()


def drop_output() -> None:
    """Drop output that cannot be written, and that Python would try to write again on exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_secret(
    kind: str, secret: str, row: Row, *, fields: Sequence[str], hint: str, output: Output
) -> None:
    """Print a new secret alone and the *fields* of its *row* beside it, or both as JSON.

    If it cannot be written, report that the key or token, named by the first field, exists and
    that its secret is lost. *kind* is the word for it, and the secret's name in JSON.
    """
    try:
        if output is Output.JSON:
            print_record({kind: secret, **row}, output=output)
        else:
            for name in fields:
                if row.get(name) is not None:
                    note(f"{_title(name)}: {shown(row[name])}")
            typer.echo(secret)
        sys.stdout.flush()
    except OSError as error:
        drop_output()
        thing = f"{kind} {row[fields[0]]}"
        fail(f"{thing} exists, but its secret is lost: {error.strerror}", hint=hint)
    if output is Output.TABLE:
        note("Keep it now: it is shown this once.")


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
            return harmless(str(value))
        case _:
            return harmless(", ".join(value)) or "none"


def print_json(value: object) -> None:
    """Print anything that JSON can hold, times in UTC."""
    options = orjson.OPT_INDENT_2 | orjson.OPT_UTC_Z | orjson.OPT_OMIT_MICROSECONDS
    sys.stdout.write(orjson.dumps(value, option=options).decode() + "\n")


Advance = Callable[[int], None]
"""Takes how much is done in all."""


@contextmanager
def progress(label: str, *, total: int) -> Iterator[Advance]:
    """Show a bar on standard error as long as the block lasts."""
    screen = console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn(),
    )  # fmt: skip
    with Progress(*columns, console=screen, disable=not screen.is_terminal) as bars:
        bar = bars.add_task(label, total=total)

        def advance(done: int) -> None:
            bars.update(bar, completed=done)

        yield advance


WIDTH: Final = 20
_WARNED: Final = 80
_ALARMED: Final = 95


def percent(used: int, room: int) -> int:
    """Return how much of *room* is used, rounded down; of no room, all of it."""
    return used * 100 // room if room else 100


def bar(used: int | None, room: int) -> Table | Text:
    """Return a bar with its percentage, in colours where there are any; nothing is `-`."""
    if used is None:
        return Text("-")
    share = percent(used, room)
    style = "red" if share >= _ALARMED else "yellow" if share >= _WARNED else "green"
    line = Table.grid(padding=(0, 1))
    line.add_row(
        ProgressBar(
            total=100,
            completed=min(share, 100),
            width=WIDTH,
            complete_style=style,
            finished_style="red",
        ),
        Text(f"{share} %"),
    )
    return line


def install_hint(extra: str) -> str:
    """Return the ways to install the packages of *extra*.

    Never by name: the package `egret` of the public index is by another author.
    """
    wheels = f"'dist/egret-{__version__}-py3-none-any.whl[{extra}]'"
    if extra == TOOLS_EXTRA:
        wheels += f" dist/egret_tools-{__version__}-py3-none-any.whl"
    return (
        "run `make setup` in a checkout and then its .venv/bin/egret, or build the wheels"
        f" (docs/deploy.md) and run pip install {wheels}"
    )


def fail_without_tools(command: str, missing: str) -> NoReturn:
    """Report the module that *command* lacks, with the way to install it, and exit with 2."""
    problem = f"`{command}` needs egret-tools, and {missing} is not installed"
    fail(problem, hint=install_hint(TOOLS_EXTRA), code=WRONG_USAGE)
