"""`egret policy apply`: the plan of a change, its confirmation, and the change."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.syntax import Syntax

from sidecar.admin.owners import ChangeRefusedError
from sidecar.admin.policy_changes import (
    apply_plan,
    check_alone,
    check_packages,
    check_together,
    compare,
)
from sidecar.admin.policy_plan import Change, PlannedPolicy
from sidecar.cli.arguments import SERVER, STANDARD_STREAM, read_text
from sidecar.cli.connection import ChangeNotice, on_connection, on_server
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
from sidecar.policy.parse import (
    PolicyDocument,
    PolicyDocumentError,
    PolicyFault,
    parse_documents,
)
from sidecar.policy.policy_lint import no_longer_hold

YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Check all that would be checked, and change nothing.")
]
NoteOption = Annotated[
    str | None, typer.Option("--note", "-m", metavar="TEXT", help="Why; the audit log has it.")
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


@dataclass(frozen=True, slots=True)
class ServerChange:
    """The request by which the administration API makes a change."""

    method: str
    path: str
    body: Mapping[str, object] = field(repr=False)

    def send(
        self, *, note: str | None = None, shown: Sequence[PlannedPolicy] = (), wait: bool = False
    ) -> tuple[PlannedPolicy, ...]:
        """Make the change that was *shown*, or without one only return it."""
        found = on_server(
            lambda server: server.call(
                list[PolicyChange],
                self.method,
                self.path,
                body={**self.body, "note": note},
                query={} if shown else {"dry_run": True},
                wait=wait,
                if_match=", ".join(f'"{one.name}-{one.version}"' for one in shown) or None,
            )
        )
        return tuple(
            PlannedPolicy(
                one.name,
                one.change,
                one.from_version,
                one.to_version,
                one.diff,
                "",
                one.lost_guardrails,
            )
            for one in found
        )


@dataclass(frozen=True, slots=True)
class PolicyChange:
    """One policy of a change as the API returns it."""

    name: str
    change: Change
    from_version: int
    to_version: int
    diff: str
    lost_guardrails: tuple[str, ...]


def carry_out(
    read: Callable[[], Sequence[PolicyDocument]], request: ServerChange, manner: Manner
) -> None:
    """Show the changes, check them, ask, bring them into force, and report it.

    With `--server` by *request*; otherwise the policies are those that *read* returns.
    """
    check_note(manner.note)
    is_remote = SERVER.get() is not None
    documents: Sequence[PolicyDocument] = ()
    if is_remote:
        planned = request.send()
    else:
        documents = read()
        planned = on_connection(lambda connection: compare(connection, documents))
    changes = [one for one in planned if one.change is not Change.NONE]
    if manner.output is Output.TABLE:
        show_plan(planned)
    if changes and not is_remote:
        names = {one.name for one in changes}
        new = [one for one in documents if one.policy.name in names]
        check_expressions({manner.source: new})
    if changes and not manner.dry_run:
        if not manner.yes:
            changed = "this change" if len(changes) == 1 else f"these {len(changes)} changes"
            ask(f"Apply {changed}?", can_ask=manner.source != str(STANDARD_STREAM))
        if is_remote:
            request.send(note=manner.note, shown=planned, wait=not manner.no_wait)
        else:
            on_connection(
                lambda connection: apply_plan(connection, changes, note=manner.note),
                notice=lambda versions: ChangeNotice(policies=list(versions)),
            )
    if manner.output is Output.JSON:
        print_rows([plan_row(one) for one in planned], columns=(), output=manner.output)
    elif manner.dry_run:
        note("Nothing was changed: this was a dry run.")
    if changes and not manner.dry_run:
        versions = {one.name: one.new_version for one in changes}
        words = wait_for_workers(no_wait=manner.no_wait, policies=versions)
        for name, version in versions.items():
            note(f"{name}: version {version} {words}")


def check_note(text: str | None) -> None:
    """Exit if the note of a change is empty or too long."""
    if text is not None and not 0 < len(text) <= MAX_NOTE_CHARACTERS:
        hint = f"write at most {MAX_NOTE_CHARACTERS} characters"
        fail("that note is too long or empty", hint=hint, code=WRONG_USAGE)


def check_expressions(by_source: Mapping[str, Sequence[PolicyDocument]]) -> None:
    """Compile the expressions of each source, each alone and those of each policy together.

    Exits with the documents that do not compile. Each runs in a process of its own.
    """
    documents = [one for each in by_source.values() for one in each]
    try:
        check_packages(documents)
        if not any(one.expressions for one in documents):
            return
        for source, some in by_source.items():
            total = sum(len(one.expressions) for one in some)
            try:
                with progress("Checking expressions", total=total) as advance:
                    asyncio.run(check_alone(some, advance=advance))
            except PolicyDocumentError as error:
                _fail_with(error.faults, source=source)
        count = counted(len(documents), "policy", "policies")
        with console(stderr=True).status(f"Compiling {count} …"):
            asyncio.run(check_together(documents))
    except ChangeRefusedError as error:
        fail(error.problem, hint=error.hint)


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
    return {
        "name": one.name,
        "change": one.change.value,
        "from_version": one.version,
        "to_version": one.new_version,
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
    fail(f"{source} holds no valid policies", hint="correct the faults above")
