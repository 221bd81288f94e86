"""`egret policy history`, `rollback`, `promote` and `demote`."""

from __future__ import annotations

import asyncio
import difflib
from pathlib import Path
from typing import Annotated, Final, NoReturn

import aiohttp
import typer
from prometheus_client.parser import text_string_to_metric_families

from sidecar.cli.connection import DEFAULT_RUN, metrics_url, on_connection
from sidecar.cli.in_force import NoWaitOption
from sidecar.cli.policy_change import (
    DryRunOption,
    Manner,
    NoteOption,
    YesOption,
    carry_out,
    print_code,
)
from sidecar.cli.terminal import Output, OutputOption, Row, fail, note, print_record, print_rows
from sidecar.domain.policy import Mode
from sidecar.policy.parse import (
    PolicyDocument,
    PolicyDocumentError,
    parse_documents,
    parse_policies,
)
from sidecar.policy.text import NoSuchGuardrailError, NotEditableError, render_policy, with_mode
from sidecar.storage.postgres_policies import (
    PolicyVersion,
    StoredPolicy,
    load_policy,
    policy_versions,
)
from sidecar.telemetry.names import MetricName

NameArgument = Annotated[str, typer.Argument(help="As `egret policy list` shows it.")]

_COLUMNS: Final = ("version", "in_force", "applied_at", "author", "note")


def history(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """List the versions of a policy, the latest first: when each came, by whom, and why.

    Example: egret policy history strict
    """
    found = on_connection(lambda connection: policy_versions(connection, name))
    if not found:
        fail(f"there is no policy {name}", hint="see `egret policy list`")
    print_rows([_row(one) for one in found], columns=_COLUMNS, output=output)


def rollback(
    name: NameArgument,
    to: Annotated[
        int | None, typer.Option("--to", min=1, help="Which version; else the one before.")
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Bring an earlier version back as the next one, after showing the difference.

    Example: egret policy rollback strict --to 3
    """
    earlier = stored_policy(name, to) if to is not None else _before(stored_policy(name, None))
    carry_out(
        [readable_document(earlier)],
        Manner(
            source=f"version {earlier.version} of {name}",
            output=output,
            note=why or f"rollback to version {earlier.version}",
            yes=yes,
            dry_run=dry_run,
            no_wait=no_wait,
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
        wanted = f"policy {name}" if version is None else f"version {version} of policy {name}"
        fail(f"there is no {wanted}", hint="see `egret policy list`")
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
        hint="apply it anew, or use the Egret that wrote it",
    )


def _before(after: StoredPolicy) -> StoredPolicy:
    if after.version == 1:
        fail(f"there is no version of {after.name} before 1", hint="see `egret policy history`")
    return stored_policy(after.name, after.version - 1)


def _row(one: PolicyVersion) -> Row:
    return {
        "version": one.version,
        "in_force": one.in_force,
        "applied_at": one.applied_at,
        "author": one.author,
        "database_role": one.database_role,
        "note": one.note,
    }


GuardrailArgument = Annotated[str, typer.Argument(help="The guardrail's name in that policy.")]
MetricsOption = Annotated[
    str | None,
    typer.Option("--metrics", metavar="URL", help="Where workers' metrics are; else as settings."),
]

METRICS_SECONDS: Final = 5.0


def promote(  # noqa: PLR0913, PLR0917 - options of a command
    name: NameArgument,
    guardrail: GuardrailArgument,
    metrics: MetricsOption = None,
    run: Annotated[Path, typer.Option("--run", help="Directory of `egret up`.")] = DEFAULT_RUN,
    without_results: Annotated[
        bool, typer.Option("--without-results", help="Though its results in shadow are unknown.")
    ] = False,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a guardrail that ran in shadow enforce, after showing its results so far.

    Without metrics, and so without results, --yes is not enough.

    Example: egret policy promote strict cards --note "a week in shadow without a false alarm"
    """
    if not without_results:
        _show_shadow(guardrail, metrics or metrics_url(run), is_asked=not yes or dry_run)
    manner = Manner(
        source=f"policy {name}", output=output, note=why or f"promote {guardrail}", yes=yes,
        dry_run=dry_run, no_wait=no_wait,
    )  # fmt: skip
    carry_out([_edited(name, guardrail, Mode.ENFORCE)], manner)


def demote(
    name: NameArgument,
    guardrail: GuardrailArgument,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    no_wait: NoWaitOption = False,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put a guardrail into shadow: it goes on judging and reporting, and changes nothing.

    Example: egret policy demote strict cards --note "blocks invoices, SUP-81"
    """
    manner = Manner(
        source=f"policy {name}", output=output, note=why or f"demote {guardrail}", yes=yes,
        dry_run=dry_run, no_wait=no_wait,
    )  # fmt: skip
    carry_out([_edited(name, guardrail, Mode.SHADOW)], manner)


def shadow_verdicts(exposition: str, guardrail: str) -> dict[str, int]:
    """Return how often a guardrail in shadow came to each verdict, from a page of metrics."""
    counted: dict[str, int] = {}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = sample.labels
            if (
                sample.name == f"{MetricName.GUARDRAIL_VERDICTS}_total"
                and labels["guardrail"] == guardrail
                and labels["mode"] == Mode.SHADOW.value
            ):
                verdict = labels["verdict"]
                counted[verdict] = counted.get(verdict, 0) + int(sample.value)
    return counted


def _edited(name: str, guardrail: str, mode: Mode) -> PolicyDocument:
    document = readable_document(stored_policy(name, None))
    try:
        return with_mode(document, guardrail, mode=mode)
    except NoSuchGuardrailError:
        fail(f"policy {name} has no guardrail {guardrail}", hint=f"see `egret policy show {name}`")
    except NotEditableError:
        hint = "change the file it comes from, and apply that"
        fail(f"the text of policy {name} cannot be changed by a command", hint=hint)


def _show_shadow(guardrail: str, url: str, *, is_asked: bool) -> None:
    """Show the results; if they are unknown, exit unless a person will be asked."""
    try:
        page = asyncio.run(_fetch(url))
    except (aiohttp.ClientError, TimeoutError, ValueError):
        problem = f"its results in shadow are unknown: no metrics at {url}"
        if not is_asked:
            hint = "nothing was changed: pass --metrics URL, or --without-results"
            fail(problem, hint=hint)
        note(f"warning: {problem} (pass --metrics URL)")
        return
    counted = shadow_verdicts(page, guardrail)
    if not counted:
        note(f"In shadow {guardrail} has judged nothing since the workers at {url} started.")
        return
    verdicts = ", ".join(f"{verdict} {count}" for verdict, count in sorted(counted.items()))
    note(
        f"In shadow {guardrail} came to: {verdicts}"
        f" (all policies with a guardrail of this name, since the workers at {url} started)."
    )


async def _fetch(url: str) -> str:
    timeout = aiohttp.ClientTimeout(total=METRICS_SECONDS)
    async with (
        aiohttp.ClientSession(timeout=timeout, raise_for_status=True) as client,
        client.get(url) as response,
    ):
        return await response.text()
