"""`egret policy`: what content must pass, applied from files like a plan."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final

import typer
from rich.syntax import Syntax

from sidecar.cli.database import Told, on_connection
from sidecar.cli.output import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    console,
    fail,
    note,
    print_record,
    print_rows,
)
from sidecar.cli.policy_plan import Change, PlannedPolicy, plan
from sidecar.guardrails.policy_document import (
    DEFAULT_POLICY_NAME,
    PolicyDocument,
    PolicyDocumentError,
    default_policy_text,
    parse_documents,
    parse_policies,
)
from sidecar.guardrails.policy_text import render_policy
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import (
    PolicyChangedError,
    StoredPolicy,
    apply_policy,
    load_policies,
    load_policy,
    policy_uses,
)

policy = typer.Typer(no_args_is_help=True, help="Policies: the guardrails that content must pass.")

STANDARD_INPUT: Final = "-"

FileOption = Annotated[
    Path, typer.Option("--file", "-f", help="YAML, one policy a document; - is standard input.")
]

_LIST_COLUMNS: Final = ("name", "version", "applied_at", "organizations", "teams", "keys")


@policy.command("apply")
def apply(
    file: FileOption,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what would change, ask, and bring it into force everywhere, all or nothing.

    A file with a mistake changes nothing: the policies in force stay.

    Example: egret policy apply -f policies.yaml
    """
    planned = _plan(file)
    changes = [one for one in planned if one.change is not Change.NONE]
    if output is Output.TABLE:
        _show_plan(planned)
    if changes:
        if not yes:
            _ask(file, count=len(changes))
        on_connection(
            lambda connection: _apply(connection, changes),
            tells=lambda _: Told(policies=[one.name for one in changes]),
        )
    _report(planned, output=output)


@policy.command("diff")
def diff(file: FileOption, output: OutputOption = Output.TABLE) -> None:
    """Show what applying a file would change, and change nothing.

    Example: egret policy diff -f policies.yaml
    """
    planned = _plan(file)
    if output is Output.TABLE:
        _show_plan(planned)
    else:
        print_rows([_row(one) for one in planned], columns=(), output=output)


@policy.command("show")
def show(
    name: Annotated[str, typer.Argument(help="As `egret policy list` shows it.")],
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="An earlier version of it.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a policy with every default written out; values of webhook headers are masked.

    Example: egret policy show strict --version 3
    """
    stored = on_connection(lambda connection: load_policy(connection, name, version=version))
    if stored is None and name == DEFAULT_POLICY_NAME and version is None:
        stored = StoredPolicy(name, 0, default_policy_text())
    if stored is None:
        what = f"policy {name}" if version is None else f"version {version} of policy {name}"
        fail(f"there is no {what}", mend="see `egret policy list`")
    text = _canonical(stored)
    if output is Output.JSON:
        row: Row = {"name": stored.name, "version": stored.version, "document": text}
        print_record(row, output=output)
        return
    note(f"{stored.name}, version {stored.version}" if stored.version else "built in")
    _print_code(text, language="yaml")


@policy.command("list")
def list_policies(output: OutputOption = Output.TABLE) -> None:
    """List the policies in force and how many organizations, teams and keys bind them.

    Example: egret policy list
    """
    rows: list[Row] = [
        {
            "name": use.name,
            "version": use.version,
            "applied_at": use.applied_at,
            "organizations": use.organizations,
            "teams": use.teams,
            "keys": use.keys,
        }
        for use in on_connection(policy_uses)
    ]
    print_rows(rows, columns=_LIST_COLUMNS, output=output)


def _plan(file: Path) -> tuple[PlannedPolicy, ...]:
    documents = _read(file)
    return plan(documents, stored=on_connection(load_policies))


def _read(file: Path) -> tuple[PolicyDocument, ...]:
    try:
        content = sys.stdin.buffer.read() if str(file) == STANDARD_INPUT else file.read_bytes()
        return parse_documents(content.decode("utf-8"))
    except OSError as error:
        fail(f"{file}: {error.strerror}", mend="name a file that can be read", code=WRONG_USAGE)
    except UnicodeDecodeError as error:
        fail(f"{file}: byte {error.start} is not UTF-8", mend="save it as UTF-8")
    except PolicyDocumentError as error:
        for fault in error.faults:
            note(f"{file}: {fault}")
        fail(
            f"{file} holds no valid policies", mend="mend what is named above; nothing was changed"
        )


async def _apply(connection: Connection, changes: Sequence[PlannedPolicy]) -> None:
    try:
        async with connection.transaction():
            for one in changes:
                await apply_policy(
                    connection, one.name, document=one.document, expected_version=one.version
                )
    except PolicyChangedError as error:
        fail(str(error), mend="look at the new difference: run it again")


def _ask(file: Path, *, count: int) -> None:
    if str(file) == STANDARD_INPUT or not sys.stdin.isatty():
        fail("nobody is there to ask", mend="say --yes to apply", code=WRONG_USAGE)
    what = "this change" if count == 1 else f"these {count} changes"
    if not typer.confirm(f"Apply {what}?", err=True):
        note("Nothing was changed.")
        raise typer.Exit(FAILED)


def _show_plan(planned: Sequence[PlannedPolicy]) -> None:
    for one in planned:
        if one.change is Change.NONE:
            note(f"{one.name}: no change, version {one.version} stays")
        else:
            _print_code(one.diff, language="diff")


def _report(planned: Sequence[PlannedPolicy], *, output: Output) -> None:
    if output is Output.JSON:
        print_rows([_row(one) for one in planned], columns=(), output=output)
        return
    for one in planned:
        if one.change is not Change.NONE:
            note(f"{one.name}: version {one.version + 1} is in force")


def _row(one: PlannedPolicy) -> Row:
    is_change = one.change is not Change.NONE
    return {
        "name": one.name,
        "change": one.change.value,
        "from_version": one.version,
        "to_version": one.version + is_change,
        "diff": one.diff,
    }


def _canonical(stored: StoredPolicy) -> str:
    try:
        policies = parse_policies(stored.document, version=stored.version, expressions="trust")
    except PolicyDocumentError:
        fail(
            f"version {stored.version} of {stored.name} is not one this Egret can read",
            mend="apply it anew, or use the Egret that wrote it",
        )
    return render_policy(policies[0])


def _print_code(text: str, *, language: str) -> None:
    out = console()
    if out.is_terminal:
        out.print(Syntax(text, language, theme="ansi_dark", background_color="default"))
    else:
        typer.echo(text, nl=False)
