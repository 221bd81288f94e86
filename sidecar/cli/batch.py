"""`egret batch`: many commands in one process."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from sidecar.cli.arguments import ACTOR, read_text
from sidecar.cli.main import command_tree
from sidecar.cli.terminal import FAILED, WRONG_USAGE, counted, fail, note

PROGRAM: Final = "egret"
MAX_CHARACTERS: Final = 5_000_000
MAX_LINE_CHARACTERS: Final = 32_768
"""shlex takes a microsecond a character, and for a long word the square of its length."""
_BYTE_ORDER_MARK: Final = "\ufeff"
"""Before the text in files of some editors of Windows."""
_ENDLESS: Final = frozenset({"batch", "serve", "up", "top"})


@dataclass(frozen=True, slots=True)
class BatchLine:
    """The words of one command, without `egret`, and the number of its line."""

    number: int
    words: tuple[str, ...]


def batch(
    file: Annotated[
        Path, typer.Option("--file", "-f", help="Commands, one a line; - is standard input.")
    ],
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Go on after a command that fails.")
    ] = False,
) -> None:
    """Run many commands, one a line as in a shell, with # before comments.

    Each is a change of its own: those before one that fails stay. Exits with the code of the
    command that failed.

    Example: egret batch -f teams.txt
    """
    actor = ACTOR.get()
    lines = list(batch_lines(read_text(file)))  # all of them are read before the first is run
    failed: list[int] = []
    for done, line in enumerate(lines, 1):
        code = _run(line, actor)
        if code and not keep_going:
            left = len(lines) - done
            note(f"Line {line.number} failed; {counted(left, 'command')} behind it did not run.")
            raise typer.Exit(code)
        if code:
            failed.append(line.number)
    if failed:
        where = ", ".join(map(str, failed))
        note(f"{len(failed)} of {counted(len(lines), 'command')} failed, in line {where}.")
        raise typer.Exit(FAILED)
    note(f"{counted(len(lines), 'command')} done.")


def batch_lines(text: str) -> Iterator[BatchLine]:
    """Return the commands of *text*; exit with the number of a line that holds none."""
    if len(text) > MAX_CHARACTERS:
        problem = f"the commands are longer than {MAX_CHARACTERS} characters"
        fail(problem, hint="divide the file; nothing was run", code=WRONG_USAGE)
    lines = text.removeprefix(_BYTE_ORDER_MARK).splitlines()
    for number, line in enumerate(lines, 1):
        if len(line) > MAX_LINE_CHARACTERS:
            problem = f"line {number}: longer than {MAX_LINE_CHARACTERS} characters"
            fail(problem, hint="nothing was run", code=WRONG_USAGE)
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            problem = f"line {number}: {str(error).lower()}"
            fail(problem, hint="nothing was run", code=WRONG_USAGE)
        if words[:1] == [PROGRAM]:
            del words[0]
        if _ENDLESS.intersection(words[:1]):
            problem = f"line {number}: `{words[0]}` does not run in a batch"
            fail(problem, hint="nothing was run", code=WRONG_USAGE)
        if words:
            yield BatchLine(number, tuple(words))


def _run(line: BatchLine, actor: str | None) -> int:
    """Run one command; return its exit code."""
    words = [*(("--as", actor) if actor else ()), *line.words]
    try:
        command_tree(words)(words, prog_name=PROGRAM)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    return 0
