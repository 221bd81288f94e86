"""`egret policy promote` and `demote`: a guardrail from shadow to enforce, and back."""

from __future__ import annotations

import asyncio
from typing import Annotated, Final

import aiohttp
import typer
from prometheus_client.parser import text_string_to_metric_families

from sidecar.cli.database import settings_or_exit
from sidecar.cli.output import Output, OutputOption, fail, note
from sidecar.cli.policy_change import DryRunOption, Manner, NoteOption, YesOption, carry_out
from sidecar.cli.policy_versions import NameArgument, readable_document, stored_policy
from sidecar.domain.policy import Mode
from sidecar.guardrails.policy_document import PolicyDocument
from sidecar.guardrails.policy_edit import NoSuchGuardrailError, NotEditableError, with_mode
from sidecar.telemetry.names import MetricName

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
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Let a guardrail that ran in shadow enforce, after showing what it would have done so far.

    Example: egret policy promote strict cards --note "a week in shadow without a false alarm"
    """
    if output is Output.TABLE:
        _show_shadow(guardrail, metrics)
    manner = Manner(
        source=f"policy {name}", output=output, note=why or f"promote {guardrail}", yes=yes,
        dry_run=dry_run,
    )  # fmt: skip
    carry_out([_edited(name, guardrail, Mode.ENFORCE)], manner)


def demote(  # noqa: PLR0913, PLR0917 - options of a command
    name: NameArgument,
    guardrail: GuardrailArgument,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    why: NoteOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Put a guardrail into shadow: it goes on judging and reporting, and changes nothing.

    Example: egret policy demote strict cards --note "blocks invoices, SUP-81"
    """
    manner = Manner(
        source=f"policy {name}", output=output, note=why or f"demote {guardrail}", yes=yes,
        dry_run=dry_run,
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
        fail(f"policy {name} has no guardrail {guardrail}", mend=f"see `egret policy show {name}`")
    except NotEditableError:
        mend = "change the file it comes from, and apply that"
        fail(f"the text of policy {name} cannot be changed by a command", mend=mend)


def _show_shadow(guardrail: str, url: str | None) -> None:
    if url is None:
        telemetry = settings_or_exit().telemetry
        url = f"http://{telemetry.metrics_host}:{telemetry.metrics_port}/metrics"
    try:
        page = asyncio.run(_fetch(url))
    except (aiohttp.ClientError, TimeoutError, ValueError):
        note(f"What it would have done is not known: no metrics at {url} (say --metrics URL).")
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
