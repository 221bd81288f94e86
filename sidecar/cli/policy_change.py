"""`egret policy apply`: the plan of a change, its confirmation, and the change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.syntax import Syntax

from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin.policy_changes import apply_plan
from sidecar.admin.policy_plan import Change, PlannedPolicy, plan_policies
from sidecar.cli.arguments import STANDARD_STREAM, read_text
from sidecar.cli.connection import ChangeNotice, on_connection
from sidecar.cli.in_force import wait_for_workers
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    Row,
    ask,
    console,
    counted,
    fail,
    note,
    print_rows,
    progress,
)
from sidecar.guardrails.matching.database import CompileError
from sidecar.policy.compilation import (
    MAX_CPU_SECONDS,
    CheckFailedError,
    compile_in_subprocess,
    expression_faults,
)
from sidecar.policy.parse import (
    PolicyDocument,
    PolicyDocumentError,
    PolicyFault,
    parse_documents,
)
from sidecar.policy.policy_lint import no_longer_hold
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import StoredPolicy, load_policies

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check all that would be checked, and change nothing.")
]
NoteOption = Annotated[
    str | None, typer.Option("--note", "-m", metavar="TEXT", help="Why; kept with the version.")
]

MAX_NOTE_CHARACTERS: Final = 1_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Manner:
    """How a change is made. `source` names the documents in messages."""

    source: str
    output: Output
    note: str | None = None
    yes: bool = False
    dry_run: bool = False
    no_wait: bool = False


def read_documents(file: Path) -> tuple[PolicyDocument, ...]:
    """Read a file of policies; exit with every fault in it. Expressions are not compiled yet."""
    try:
        return parse_documents(read_text(file), expressions="syntax")
    except PolicyDocumentError as error:
        _fail_with(error.faults, source=str(file))


def carry_out(documents: Sequence[PolicyDocument], manner: Manner) -> None:
    """Show the changes, check them, ask, bring them into force, and report it."""
    if manner.note is not None and not 0 < len(manner.note) <= MAX_NOTE_CHARACTERS:
        hint = f"write at most {MAX_NOTE_CHARACTERS} characters"
        fail("that note is too long or empty", hint=hint, code=WRONG_USAGE)
    stored = on_connection(load_policies)
    planned = plan_policies(documents, stored=stored)
    changes = [one for one in planned if one.change is not Change.NONE]
    if manner.output is Output.TABLE:
        show_plan(planned)
    if changes:
        names = {one.name for one in changes}
        changed = [one for one in documents if one.policy.name in names]
        check_expressions({manner.source: changed}, stored=stored)
        if not manner.dry_run:
            _apply(changes, manner)
    if manner.output is Output.JSON:
        print_rows([plan_row(one) for one in planned], columns=(), output=manner.output)
    elif manner.dry_run:
        note("Nothing was changed: this was a dry run.")
    if changes and not manner.dry_run:
        versions = {one.name: one.version + 1 for one in changes}
        words = wait_for_workers(no_wait=manner.no_wait, policies=versions)
        for name, version in versions.items():
            note(f"{name}: version {version} {words}")


def check_expressions(
    by_source: Mapping[str, Sequence[PolicyDocument]], *, stored: Sequence[StoredPolicy]
) -> None:
    """Compile the documents of each source, alone and with all policies in force.

    Exits with the documents that do not compile. Each runs in a process of its own.
    """
    count = 0
    for source, documents in by_source.items():
        placed = [one for document in documents for one in document.expressions]
        if not placed:
            continue
        count += len(placed)
        try:
            with progress("Checking expressions", total=len(placed)) as advance:
                faults = asyncio.run(expression_faults(placed, advance=advance))
        except CheckFailedError as error:
            fail(str(error), hint="see that there is memory for it, and try again")
        if faults:
            _fail_with(faults, source=source)
    if not count:
        return
    documents = [one for each in by_source.values() for one in each]
    replaced = {one.policy.name: one.text for one in documents}
    texts = {one.name: one.document for one in stored} | replaced
    with console(stderr=True).status(
        f"Compiling {counted(len(texts), 'policy', 'policies')} together …"
    ):
        try:
            asyncio.run(
                compile_in_subprocess(
                    [(text, 1) for text in texts.values()], cpu_seconds=MAX_CPU_SECONDS // 2
                )
            )
        except CompileError as error:
            fail(
                f"{error}, {count} expressions of {', '.join(by_source)} among them",
                hint="write fewer or simpler ones; words without an expression go to denied_terms",
            )


def show_plan(planned: Sequence[PlannedPolicy]) -> None:
    """Print each difference, and the unchanged policies."""
    for one in planned:
        if one.change is Change.NONE:
            note(f"{one.name}: no change, version {one.version} stays")
        else:
            print_code(one.diff, language="diff")
        if one.lost:
            note(f"warning: {no_longer_hold(one.lost)}")


def plan_row(one: PlannedPolicy) -> Row:
    """Return one planned policy as a row of JSON output."""
    is_change = one.change is not Change.NONE
    return {
        "name": one.name,
        "change": one.change.value,
        "from_version": one.version,
        "to_version": one.version + is_change,
        "diff": one.diff,
        "lost": one.lost,
    }


def print_code(text: str, *, language: str) -> None:
    """Print YAML or a difference, in colours on a terminal."""
    out = console()
    if out.is_terminal:
        out.print(Syntax(text, language, theme="ansi_dark", background_color="default"))
    else:
        typer.echo(text, nl=False)


def _fail_with(faults: Sequence[PolicyFault], *, source: str) -> NoReturn:
    for fault in faults:
        note(f"{source}: {fault}")
    fail(f"{source} holds no valid policies", hint="correct the faults above; nothing was changed")


def _apply(changes: Sequence[PlannedPolicy], manner: Manner) -> None:
    if not manner.yes:
        changed = "this change" if len(changes) == 1 else f"these {len(changes)} changes"
        ask(f"Apply {changed}?", can_ask=manner.source != str(STANDARD_STREAM))

    async def work(connection: Connection) -> None:
        try:
            await apply_plan(connection, changes, note=manner.note)
        except ChangeRefusedError as error:
            fail(error.problem, hint=f"{error.hint}: run it again")

    on_connection(work, notice=lambda _: ChangeNotice(policies=[one.name for one in changes]))
