"""`egret policy history`, `rollback`, `promote` and `demote`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Final

import aiohttp
import typer
from prometheus_client.parser import text_string_to_metric_families

from sidecar.admin.policy_changes import (
    MAX_VERSION,
    Difference,
    ShownPolicy,
    difference,
    document_with_mode,
    earlier_document,
    existing_policy,
    shown_policy,
)
from sidecar.cli.admin_server import address
from sidecar.cli.arguments import SERVER
from sidecar.cli.connection import DEFAULT_RUN, metrics_url, on_connection
from sidecar.cli.in_force import NoWaitOption
from sidecar.cli.policy_change import (
    DryRunOption,
    Manner,
    NoteOption,
    ServerChange,
    YesOption,
    carry_out,
    print_code,
)
from sidecar.cli.terminal import (
    WRONG_USAGE,
    Output,
    OutputOption,
    fail,
    note,
    print_record,
    print_rows,
)
from sidecar.domain.policy import Mode, name_beside
from sidecar.policy.parse import PolicyDocument
from sidecar.storage.pool import Connection
from sidecar.storage.postgres_policies import PolicyVersion, StoredPolicy, policy_versions
from sidecar.telemetry.names import MetricName

NameArgument = Annotated[str, typer.Argument(help="As `egret policy list` shows it.")]

_COLUMNS: Final = ("version", "in_force", "applied_at", "author", "note")


def history(name: NameArgument, output: OutputOption = Output.TABLE) -> None:
    """List the versions of a policy, the latest first: when each came, by whom, and why.

    Example: egret policy history strict
    """
    found = on_connection(
        lambda connection: policy_versions(connection, name),
        remote=lambda server: tuple(
            server.pages(PolicyVersion, address("policies", name, "versions"))
        ),
    )
    if not found:
        fail(f"there is no policy {name}", hint="see `egret policy list`")
    print_rows([asdict(one) for one in found], columns=_COLUMNS, output=output)


def rollback(
    name: NameArgument,
    to: Annotated[
        int | None,
        typer.Option("--to", min=1, max=MAX_VERSION, help="Which version; else the one before."),
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
    version = before(name, None) if to is None else to
    manner = Manner(
        source=f"version {version} of {name}",
        output=output,
        note=why or f"rollback to version {version}",
        yes=yes,
        dry_run=dry_run,
        no_wait=no_wait,
    )
    carry_out(
        lambda: [_on_stored(earlier_document, name, version)],
        ServerChange("POST", address("policies", name, "rollback"), {"to": version}),
        manner,
    )


def show_difference(name: str, *, from_: int | None, to: int | None, output: Output) -> None:
    """Show how two versions differ in meaning; by default the latest from the one before."""
    first = before(name, to) if from_ is None else from_

    async def work(connection: Connection) -> Difference:
        old, new = [await existing_policy(connection, name, version) for version in (first, to)]
        return difference(old, new)

    found = on_connection(
        work,
        remote=lambda server: server.call(
            Difference, "GET", address("policies", name, "diff"),
            query={"from": first, "to": to},
        ),
    )  # fmt: skip
    if output is Output.TABLE:
        print_code(found.diff, language="diff")
    else:
        print_record(asdict(found), output=output)


def show_version(name: str, version: int | None) -> ShownPolicy:
    """Return a version of a policy, by default the one in force, or exit."""

    async def work(connection: Connection) -> ShownPolicy:
        return shown_policy(await existing_policy(connection, name, version))

    return on_connection(
        work,
        remote=lambda server: server.call(
            ShownPolicy, "GET", address("policies", name), query={"version": version}
        ),
    )


def before(name: str, version: int | None) -> int:
    """Return the version before *version* of a policy, by default before that in force."""
    after = show_version(name, version).version
    found = on_connection(
        lambda connection: policy_versions(connection, name, before=after, most=1),
        remote=lambda server: tuple(
            server.pages(
                PolicyVersion,
                address("policies", name, "versions"),
                query={"after": after},
                most=1,
            )
        ),
    )
    if not found:
        fail(f"there is no version of {name} before {after}", hint="see `egret policy history`")
    return found[0].version


def _on_stored(
    edit: Callable[[StoredPolicy], PolicyDocument], name: str, version: int | None = None
) -> PolicyDocument:
    async def work(connection: Connection) -> PolicyDocument:
        return edit(await existing_policy(connection, name, version))

    return on_connection(work)


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
    if SERVER.get() is not None and metrics is None and not without_results:
        hint = "pass --metrics URL, or --without-results"
        fail("a server has no results in shadow", hint=hint, code=WRONG_USAGE)
    read, request = _mode_change(name, guardrail, Mode.ENFORCE)
    if not without_results:
        # An unknown guardrail has no results, and would seem to have none.
        if SERVER.get() is None:
            read()
        else:
            request.send()
        _show_shadow(name, guardrail, metrics or metrics_url(run), is_asked=not yes or dry_run)
    manner = Manner(
        source=f"policy {name}", output=output, note=why or f"promote {guardrail}", yes=yes,
        dry_run=dry_run, no_wait=no_wait,
    )  # fmt: skip
    carry_out(read, request, manner)


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
    read, request = _mode_change(name, guardrail, Mode.SHADOW)
    carry_out(read, request, manner)


def shadow_verdicts(exposition: str, guardrail: str, *, policy: str) -> dict[str, int]:
    """Return how often a guardrail in shadow came to each verdict, from a page of metrics.

    Also beside a mandatory one of its name, where it has another name.
    """
    counted: dict[str, int] = {}
    names = {guardrail, name_beside(guardrail, policy)}
    for family in text_string_to_metric_families(exposition):
        for sample in family.samples:
            labels = sample.labels
            if (
                sample.name == f"{MetricName.GUARDRAIL_VERDICTS}_total"
                and labels["guardrail"] in names
                and labels["mode"] == Mode.SHADOW.value
            ):
                verdict = labels["verdict"]
                counted[verdict] = counted.get(verdict, 0) + int(sample.value)
    return counted


def _mode_change(
    name: str, guardrail: str, mode: Mode
) -> tuple[Callable[[], list[PolicyDocument]], ServerChange]:
    place = address("policies", name, "guardrails", guardrail, "mode")
    return (
        lambda: [_on_stored(lambda found: document_with_mode(found, guardrail, mode), name)],
        ServerChange("PUT", place, {"mode": mode.value}),
    )


def _show_shadow(policy: str, guardrail: str, url: str, *, is_asked: bool) -> None:
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
    counted = shadow_verdicts(page, guardrail, policy=policy)
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
