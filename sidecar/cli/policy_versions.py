"""`egret policy history` and `rollback`: every version is kept, and any can come back."""

from __future__ import annotations

import difflib
from typing import Annotated, Final, NoReturn

import typer

from sidecar.cli.database import on_connection
from sidecar.cli.output import (
    Output,
    OutputOption,
    Row,
    fail,
    print_record,
    print_rows,
)
from sidecar.cli.policy_change import (
    DryRunOption,
    Manner,
    NoteOption,
    YesOption,
    carry_out,
    print_code,
)
from sidecar.guardrails.policy_document import (
    PolicyDocument,
    PolicyDocumentError,
    parse_documents,
    parse_policies,
)
from sidecar.guardrails.policy_text import render_policy
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import (
    PolicyVersion,
    StoredPolicy,
    load_policy,
    policy_versions,
)

NameArgument = Annotated[str, typer.Argument(help="As `egret policy list` shows it.")]

_COLUMNS: Final = ("version", "in_force", "applied_at", "author", "note")


def history(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """List the versions of a policy, the latest first: when each came, by whom, and why.

    Example: egret policy history strict
    """
    rows = [_row(one) for one in _versions(name)]
    print_rows(rows, columns=_COLUMNS, output=output)


def rollback(  # noqa: PLR0913, PLR0917 - options of a command
    name: NameArgument,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Which version; else the one before.")
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring an earlier version back as the next one, after showing what that changes.

    Example: egret policy rollback strict --to 3
    """
    earlier = _earlier(name, to)
    carry_out(
        [readable_document(earlier)],
        Manner(
            source=f"version {earlier.version} of {name}",
            output=output,
            note=why or f"rollback to version {earlier.version}",
            yes=yes,
            dry_run=dry_run,
        ),
    )


def show_difference(name: str, *, from_: int | None, to: int | None, output: Output) -> None:
    """Show how two versions differ in meaning; by default the latest from the one before."""
    after = stored_policy(name, to)
    before = stored_policy(name, from_) if from_ is not None else _before(after)
    old, new = (canonical(one).splitlines(keepends=True) for one in (before, after))
    old_title, new_title = (f"{name} version {one.version}" for one in (before, after))
    text = "".join(difflib.unified_diff(old, new, fromfile=old_title, tofile=new_title))
    if output is Output.TABLE:
        print_code(text, language="diff")
        return
    row: Row = {
        "name": name,
        "from_version": before.version,
        "to_version": after.version,
        "diff": text,
    }
    print_record(row, output=output)


def stored_policy(name: str, version: int | None) -> StoredPolicy:
    """Return a version of a policy, by default the one in force, or exit."""
    stored = on_connection(lambda connection: load_policy(connection, name, version=version))
    if stored is None:
        what = f"policy {name}" if version is None else f"version {version} of policy {name}"
        fail(f"there is no {what}", mend="see `egret policy list`")
    return stored


def readable_document(stored: StoredPolicy) -> PolicyDocument:
    """Return a stored policy's document, or exit where this Egret cannot read it."""
    try:
        return parse_documents(stored.document, expressions="syntax")[0]
    except PolicyDocumentError:
        _fail_unreadable(stored)


def canonical(stored: StoredPolicy) -> str:
    """Return a stored policy with every default written out."""
    try:
        policies = parse_policies(stored.document, version=stored.version, expressions="trust")
    except PolicyDocumentError:
        _fail_unreadable(stored)
    return render_policy(policies[0])


def _fail_unreadable(stored: StoredPolicy) -> NoReturn:
    fail(
        f"version {stored.version} of {stored.name} is not one this Egret can read",
        mend="apply it anew, or use the Egret that wrote it",
    )


def _earlier(name: str, version: int | None) -> StoredPolicy:
    if version is not None:
        return stored_policy(name, version)
    return _before(stored_policy(name, None))


def _before(after: StoredPolicy) -> StoredPolicy:
    if after.version == 1:
        fail(f"there is no version of {after.name} before 1", mend="see `egret policy history`")
    return stored_policy(after.name, after.version - 1)


def _versions(name: str) -> tuple[PolicyVersion, ...]:
    async def work(connection: Connection) -> tuple[PolicyVersion, ...]:
        return await policy_versions(connection, name)

    found = on_connection(work)
    if not found:
        fail(f"there is no policy {name}", mend="see `egret policy list`")
    return found


def _row(one: PolicyVersion) -> Row:
    return {
        "version": one.version,
        "in_force": one.in_force,
        "applied_at": one.applied_at,
        "author": one.author,
        "database_role": one.database_role,
        "note": one.note,
    }
