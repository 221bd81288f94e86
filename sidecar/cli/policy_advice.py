"""`egret policy lint` and `schema`: advice on policies, and help for those who write them."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Final

import typer

from sidecar.cli.database import on_connection
from sidecar.cli.output import FAILED, Output, OutputOption, Row, counted, fail, note, print_rows
from sidecar.cli.policy_change import read_documents
from sidecar.domain.policy import Policy
from sidecar.guardrails.extras import missing_extras
from sidecar.guardrails.policy_document import PolicyDocumentError, parse_policies
from sidecar.guardrails.policy_lint import NEAR_DAYS, Advice, lint
from sidecar.guardrails.policy_schema import policy_schema_text
from sidecar.storage.postgres_policies import StoredPolicy, load_policies

_COLUMNS: Final = ("policy", "guardrail", "problem", "mend", "code")


def advise(
    file: Annotated[
        Path | None,
        typer.Option("--file", "-f", help="A file of policies; else those in force."),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", min=0, help="Tell of exceptions that end within so many.")
    ] = NEAR_DAYS,
    output: OutputOption = Output.TABLE,
) -> None:
    """Say what is valid and probably not meant, or will not last; exits with 1 if anything is.

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
    return [_readable(one) for one in on_connection(load_policies)]


def _readable(stored: StoredPolicy) -> Policy:
    try:
        return parse_policies(stored.document, version=stored.version, expressions="trust")[0]
    except PolicyDocumentError:
        mend = "apply it anew, or use the Egret that wrote it"
        fail(f"policy {stored.name} is not one this Egret can read", mend=mend)


def _row(one: Advice) -> Row:
    return {
        "policy": one.policy,
        "guardrail": one.guardrail,
        "problem": one.problem,
        "mend": one.mend,
        "code": one.code,
    }
