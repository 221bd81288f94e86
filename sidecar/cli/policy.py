"""`egret policy`: what content must pass, applied from files like a plan."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from sidecar.cli.database import on_connection
from sidecar.cli.output import (
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    fail,
    note,
    print_record,
    print_rows,
)
from sidecar.cli.policy_change import (
    DryRunOption,
    Manner,
    NoteOption,
    YesOption,
    carry_out,
    plan_row,
    print_code,
    read_documents,
    show_plan,
)
from sidecar.cli.policy_plan import plan
from sidecar.cli.policy_versions import NameArgument, canonical, show_difference, stored_policy
from sidecar.guardrails.policy_document import DEFAULT_POLICY_NAME, default_policy_text
from sidecar.storage.postgres_policies import (
    StoredPolicy,
    load_policies,
    load_policy,
    policy_uses,
)

policy = typer.Typer(no_args_is_help=True, help="Policies: the guardrails that content must pass.")

FILE_HELP: Final = "YAML, one policy a document; - is standard input."
FileOption = Annotated[Path, typer.Option("--file", "-f", help=FILE_HELP)]

_LIST_COLUMNS: Final = ("name", "version", "applied_at", "organizations", "teams", "keys")


@policy.command("apply")
def apply(
    file: FileOption,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what would change, ask, and bring it into force everywhere, all or nothing.

    A file with a mistake changes nothing: the policies in force stay.

    Example: egret policy apply -f policies.yaml --note "cards are blocked from now on"
    """
    manner = Manner(source=str(file), output=output, note=why, yes=yes, dry_run=dry_run)
    carry_out(read_documents(file), manner)


@policy.command("diff")
def diff(
    name: Annotated[
        str | None, typer.Argument(help="Compare versions of this policy with each other.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help=FILE_HELP)] = None,
    from_: Annotated[
        int | None, typer.Option("--from", min=1, help="By default the one before --to.")
    ] = None,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="By default the one in force.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what applying a file would change, or how two versions of a policy differ.

    Example: egret policy diff -f policies.yaml; egret policy diff strict --from 3 --to 5
    """
    if (name is None) == (file is None) or (file is not None and (from_ or to)):
        mend = "give -f FILE, or the name of a policy and its versions"
        fail("say what to compare", mend=mend, code=WRONG_USAGE)
    if name is not None:
        show_difference(name, from_=from_, to=to, output=output)
    elif file is not None:
        planned = plan(read_documents(file), stored=on_connection(load_policies))
        if output is Output.TABLE:
            show_plan(planned)
        else:
            print_rows([plan_row(one) for one in planned], columns=(), output=output)


@policy.command("show")
def show(
    name: NameArgument,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="An earlier version of it.")
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a policy with every default written out; values of webhook headers are masked.

    Example: egret policy show strict --version 3
    """
    stored = None
    if name == DEFAULT_POLICY_NAME and version is None:
        stored = on_connection(lambda connection: load_policy(connection, name))
        stored = stored or StoredPolicy(name, 0, default_policy_text())
    stored = stored or stored_policy(name, version)
    text = canonical(stored)
    if output is Output.JSON:
        row: Row = {"name": stored.name, "version": stored.version, "document": text}
        print_record(row, output=output)
        return
    note(f"{stored.name}, version {stored.version}" if stored.version else "built in")
    print_code(text, language="yaml")


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
