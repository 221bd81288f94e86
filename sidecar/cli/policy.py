"""`egret policy`: show, list, lint, bind and unbind policies."""

from __future__ import annotations

import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from sidecar.admin.keys import bind_key
from sidecar.admin.owners import bind_organization, bind_team
from sidecar.admin.policy_plan import plan_policies
from sidecar.cli.connection import ChangeNotice, on_connection
from sidecar.cli.in_force import NoWaitOption, wait_for_workers
from sidecar.cli.keys import public_id
from sidecar.cli.policy_change import (
    DryRunOption,
    Manner,
    NoteOption,
    YesOption,
    carry_out,
    check_expressions,
    plan_row,
    print_code,
    read_documents,
    show_plan,
)
from sidecar.cli.policy_versions import NameArgument, canonical, show_difference, stored_policy
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
from sidecar.domain.policy import Policy
from sidecar.policy.json_schema_file import policy_schema_text
from sidecar.policy.parse import (
    DEFAULT_POLICY_NAME,
    PolicyDocument,
    PolicyDocumentError,
    default_policy_text,
    parse_documents,
    parse_policies,
)
from sidecar.policy.policy_lint import NEAR_DAYS, LintWarning, lint, missing_extras
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import StoredPolicy, load_policies, load_policy, policy_uses

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
    """Show the changes of applying a file, or the difference of two versions of a policy.

    Example: egret policy diff -f policies.yaml; egret policy diff strict --from 3 --to 5
    """
    if (name is None) == (file is None) or (file is not None and (from_ or to)):
        hint = "give -f FILE, or the name of a policy and its versions"
        fail("nothing to compare", hint=hint, code=WRONG_USAGE)
    if name is not None:
        show_difference(name, from_=from_, to=to, output=output)
    elif file is not None:
        planned = plan_policies(read_documents(file), stored=on_connection(load_policies))
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
    rows = [asdict(use) for use in on_connection(policy_uses)]
    print_rows(rows, columns=_LIST_COLUMNS, output=output)


def chosen_document(name: str | None, file: Path | None) -> PolicyDocument:
    """Return the policy *name* of *file*, or its first, or that of the store, or the built-in.

    Exits where there is none, or where it cannot be compiled.
    """
    if file is not None:
        documents = read_documents(file)
        check_expressions({str(file): documents}, stored=())
        for document in documents:
            if name in {None, document.policy.name}:
                return document
        fail(f"{file} holds no policy {name}", hint="name one of it, or none for the first")
    if name is None:
        return parse_documents(default_policy_text(), expressions="trust")[0]
    stored = on_connection(lambda connection: load_policy(connection, name))
    if stored is None and name != DEFAULT_POLICY_NAME:
        fail(f"there is no policy {name}", hint="see `egret policy list`")
    text = default_policy_text() if stored is None else stored.document
    return parse_documents(text, expressions="trust")[0]


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
    policies = _stored() if file is None else [one.policy for one in read_documents(file)]
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


KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="KEY_ID", help="For one key: its public id.")
]
TeamOption = Annotated[
    str | None, typer.Option("--team", metavar="TEAM", help="For a team: ORGANIZATION/TEAM.")
]
OrgOption = Annotated[
    str | None, typer.Option("--org", metavar="NAME", help="For an organization: its name.")
]


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
    levels = {"key": key, "team": team, "org": org}
    named = [(level, name) for level, name in levels.items() if name is not None]
    if len(named) != 1:
        fail("no object is named", hint="pass one of --key, --team and --org", code=WRONG_USAGE)
    level, name = named[0]
    name = public_id(name) if level == "key" else name

    async def work(connection: Connection) -> str:
        match level:
            case "key":
                return (await bind_key(connection, name, policy=policy)).key_id
            case "team":
                return f"team:{await bind_team(connection, name, policy=policy)}"
            case _:
                return f"organization:{await bind_organization(connection, name, policy=policy)}"

    on_connection(work, notice=lambda scope: ChangeNotice(keys=(scope,)))
    print_record({level: name, "policy": policy}, output=output)
    note(f"This {wait_for_workers(no_wait=no_wait)}.")
