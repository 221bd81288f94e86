"""`egret policy`: show, list, lint, bind and unbind policies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Final, assert_never

import typer

from sidecar.admin.keys import bind_key
from sidecar.admin.owners import bind_organization, bind_team
from sidecar.admin.policy_changes import MAX_VERSION, compare, existing_policy
from sidecar.cli.admin_server import AdminServer, owner_address
from sidecar.cli.arguments import SERVER, KeyOption, OrgOption, TeamOption
from sidecar.cli.connection import ChangeNotice, on_connection
from sidecar.cli.in_force import NoWaitOption, wait_for_workers
from sidecar.cli.limits import owner_of
from sidecar.cli.policy_change import (
    DryRunOption,
    Manner,
    NoteOption,
    ServerChange,
    YesOption,
    carry_out,
    check_expressions,
    plan_row,
    print_code,
    read_documents,
    show_plan,
)
from sidecar.cli.policy_versions import NameArgument, show_difference, show_version
from sidecar.cli.terminal import (
    FAILED,
    WRONG_USAGE,
    Output,
    OutputOption,
    Row,
    counted,
    fail,
    note,
    print_record,
    print_rows,
)
from sidecar.domain.limits import Level
from sidecar.domain.policy import Policy
from sidecar.policy.json_schema_file import policy_schema_text
from sidecar.policy.parse import (
    PolicyDocument,
    PolicyDocumentError,
    default_policy_text,
    parse_documents,
    parse_policies,
)
from sidecar.policy.policy_lint import NEAR_DAYS, LintWarning, lint, missing_extras
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import PolicyUse, load_policies, policy_uses

policy = typer.Typer(no_args_is_help=True, help="Policies: the guardrails that content must pass.")

FILE_HELP: Final = "YAML, one policy a document; - is standard input."
FileOption = Annotated[Path, typer.Option("--file", "-f", help=FILE_HELP)]
ChosenPolicyOption = Annotated[
    str | None, typer.Option("--policy", "-p", help="Of the store, or of --policy-file.")
]
PolicyFileOption = Annotated[
    Path | None, typer.Option("--policy-file", help="A file of policies; needs no database.")
]
"""With `ChosenPolicyOption` the policy of `chosen_document`."""

_LIST_COLUMNS: Final = ("name", "version", "applied_at", "organizations", "teams", "keys")


@policy.command("apply")
def apply(
    file: FileOption,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the changes, ask, and bring them into force everywhere, all or nothing.

    A file with a mistake changes nothing: the policies in force stay. Returns once every live
    worker judges by them.

    Example: egret policy apply -f policies.yaml --note "cards are blocked from now on"
    """
    manner = Manner(
        source=str(file), output=output, note=why, yes=yes, dry_run=dry_run, no_wait=no_wait
    )
    documents = read_documents(file)
    carry_out(lambda: documents, _server_change(documents), manner)


@policy.command("diff")
def diff(
    name: Annotated[
        str | None, typer.Argument(help="Compare versions of this policy with each other.")
    ] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help=FILE_HELP)] = None,
    from_: Annotated[
        int | None,
        typer.Option("--from", min=1, max=MAX_VERSION, help="By default the one before --to."),
    ] = None,
    to: Annotated[
        int | None,
        typer.Option("--to", min=1, max=MAX_VERSION, help="By default the one in force."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show the changes of applying a file, or the difference of two versions of a policy.

    Example: egret policy diff -f policies.yaml; egret policy diff strict --from 3 --to 5
    """
    if (name is None) == (file is None) or (file is not None and (from_ or to)):
        hint = "give -f FILE, or the name of a policy and its versions"
        fail("nothing to compare", hint=hint, code=WRONG_USAGE)
    if name is not None:
        show_difference(name, from_=from_, to=to, output=output)
    elif file is not None:
        documents = read_documents(file)
        if SERVER.get() is not None:
            planned = _server_change(documents).send()
        else:
            planned = on_connection(lambda connection: compare(connection, documents))
        if output is Output.TABLE:
            show_plan(planned)
        else:
            print_rows([plan_row(one) for one in planned], columns=(), output=output)


@policy.command("show")
def show(
    name: NameArgument,
    version: Annotated[
        int | None,
        typer.Option("--version", min=1, max=MAX_VERSION, help="An earlier version of it."),
    ] = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show a policy with every default written out; values of webhook headers are masked.

    Example: egret policy show strict --version 3
    """
    found = show_version(name, version)
    if output is Output.JSON:
        print_record(asdict(found), output=output)
        return
    note(f"{found.name}, version {found.version}" if found.version else "built in")
    print_code(found.document, language="yaml")


@policy.command("list")
def list_policies(output: OutputOption = Output.TABLE) -> None:
    """List the policies in force and how many organizations, teams and keys bind them.

    Example: egret policy list
    """
    found = on_connection(
        policy_uses, remote=lambda server: tuple(server.call(list[PolicyUse], "GET", "/policies"))
    )
    rows = [asdict(use) for use in found]
    print_rows(rows, columns=_LIST_COLUMNS, output=output)


def _server_change(documents: Sequence[PolicyDocument]) -> ServerChange:
    """Return the request that applies *documents*, sent as one text."""
    text = "\n---\n".join(one.text for one in documents)
    return ServerChange("POST", "/policies/apply", {"documents": text})


def chosen_document(name: str | None, file: Path | None) -> PolicyDocument:
    """Return the policy *name* of *file*, or its first, or that of the store, or the built-in.

    Exits where there is none, or where it cannot be compiled.
    """
    if file is not None:
        documents = read_documents(file)
        check_expressions({str(file): documents})
        for document in documents:
            if name in {None, document.policy.name}:
                return document
        fail(f"{file} holds no policy {name}", hint="name one of it, or none for the first")
    if name is None:
        return parse_documents(default_policy_text(), expressions="trust")[0]
    stored = on_connection(lambda connection: existing_policy(connection, name))
    return parse_documents(stored.document, expressions="trust")[0]


_COLUMNS: Final = ("policy", "guardrail", "problem", "hint", "code")


def advise(
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="A file of policies; else those in force."),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=0, help="Report exceptions that end within so many days.")
    ] = NEAR_DAYS,
    output: OutputOption = Output.TABLE,
) -> None:
    """List settings that are valid and probably not meant, or end soon; exits with 1 if any is.

    Example: egret policy lint -f policies.yaml
    """
    if file is None:
        policies = _stored()
    else:
        documents = read_documents(file)
        check_expressions({str(file): documents})
        policies = [one.policy for one in documents]
    today = datetime.now(UTC).date()
    found = lint(policies, today=today, near_days=days, missing=missing_extras())
    if found or output is Output.JSON:
        print_rows([_row(one) for one in found], columns=_COLUMNS, output=output)
    else:
        note(f"Nothing to say about {counted(len(policies), 'policy', 'policies')}.")
    if found:
        raise typer.Exit(FAILED)


def schema() -> None:
    """Print the JSON Schema of a policy, for an editor's completion and checks.

    Example: egret policy schema > policy.schema.json
    """
    sys.stdout.write(policy_schema_text())


def _stored() -> list[Policy]:
    found: list[Policy] = []
    for one in on_connection(load_policies):
        try:
            found += parse_policies(one.document, version=one.version, expressions="trust")[:1]
        except PolicyDocumentError:
            hint = "apply it anew, or use the Egret that wrote it"
            fail(f"policy {one.name} is not one this Egret can read", hint=hint)
    return found


def _row(one: LintWarning) -> Row:
    return {
        "policy": one.policy,
        "guardrail": one.guardrail,
        "problem": one.problem,
        "hint": one.hint,
        "mend": one.hint,  # the former name, for one more version
        "code": one.code,
    }


def bind(
    name: Annotated[str, typer.Argument(help="As `egret policy list` shows it.")],
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bind a policy; the nearest level that has one decides: key, then team, then organization.

    Example: egret policy bind strict --team acme/search
    """
    _bind(name, key=key, team=team, org=org, output=output, no_wait=no_wait)


def unbind(
    key: KeyOption = None,
    team: TeamOption = None,
    org: OrgOption = None,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bind no policy at this level any more: the next level decides, in the end `default`.

    Example: egret policy unbind --team acme/search
    """
    _bind(None, key=key, team=team, org=org, output=output, no_wait=no_wait)


def _bind(
    policy: str | None,
    *,
    key: str | None,
    team: str | None,
    org: str | None,
    output: Output,
    no_wait: bool,
) -> None:
    owner = owner_of(key=key, team=team, org=org)
    level, name = owner.level, owner.name

    async def work(connection: Connection) -> str:
        match level:
            case Level.KEY:
                return (await bind_key(connection, name, policy=policy)).key_id
            case Level.TEAM:
                return f"team:{await bind_team(connection, name, policy=policy)}"
            case Level.ORGANIZATION:
                return f"organization:{await bind_organization(connection, name, policy=policy)}"
            case _:
                assert_never(level)

    def remote(server: AdminServer) -> str:
        place, body = owner_address(level, name), {"policy": policy}
        server.call(dict[str, Any], "PATCH", place, body=body, wait=not no_wait)
        return place

    on_connection(work, notice=lambda scope: ChangeNotice(keys=(scope,)), remote=remote)
    column = "org" if level is Level.ORGANIZATION else level.value
    print_record({column: name, "policy": policy}, output=output)
    note(f"This {wait_for_workers(no_wait=no_wait)}.")
