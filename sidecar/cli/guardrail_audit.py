"""`egret guardrails audit`: the most frequent types of findings, and the role of their texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Final

import typer

from sidecar.admin.finding_reports import FindingSum, finding_sums, recorded_requests
from sidecar.admin.usage_reports import UsageSum
from sidecar.cli.admin_server import AdminServer, most_rows
from sidecar.cli.arguments import since_or_exit
from sidecar.cli.connection import on_connection
from sidecar.cli.terminal import (
    WIDTH,
    Output,
    OutputOption,
    Row,
    note,
    print_json,
    print_rows,
)
from sidecar.domain.policy import Mode
from sidecar.storage.pool import Connection

_COLUMNS: Final = (
    "guardrail", "type", "role", "verdict", "policies", "requests", "findings", "share", "chart",
)  # fmt: skip
_BLOCKS: Final = " ▏▎▍▌▋▊▉"


def audit(
    since: Annotated[
        str, typer.Option("--since", help="How long ago (1h, 7d), or a time (2027-01-31).")
    ] = "24h",
    policy: Annotated[
        str | None, typer.Option("--policy", "-p", help="Only findings under this policy.")
    ] = None,
    by_team: Annotated[bool, typer.Option("--by-team", help="A row for each team.")] = False,
    limit: Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most.")] = 50,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show which types of findings are most frequent, and in which role. Never content.

    A rule that is wrong shows here first: a type in a third of all requests, or in a role where it
    makes no sense. Times are whole hours, UTC; counts of the last seconds are not in it yet.

    `requests` had such a finding, `findings` are the values in them, `share` is of all requests
    in usage. A conversation counts with each turn.

    Example: egret guardrails audit --since 1h
    """
    start = since_or_exit(since)

    async def read(connection: Connection) -> tuple[list[FindingSum], int]:
        sums = await finding_sums(
            connection, since=start, policy=policy, limit=limit, by_team=by_team
        )
        return sums, await recorded_requests(connection, since=start)

    def remote(server: AdminServer) -> tuple[list[FindingSum], int]:
        query = {
            "since": start,
            "policy": policy,
            "by_team": by_team,
            "limit": most_rows(limit),
        }
        sums = server.call(list[FindingSum], "GET", "/findings", query=query)
        usage = server.call(list[UsageSum], "GET", "/usage", query={"since": start})
        return sums, sum(one.requests for one in usage)

    sums, requests = on_connection(read, remote=remote)
    if output is Output.JSON:
        rows = [asdict(one) | {"share": share_of(one, requests)} for one in sums]
        left_out = set() if by_team else {"team"}
        print_json([{k: v for k, v in row.items() if k not in left_out} for row in rows])
    elif sums:
        columns = ("team", *_COLUMNS) if by_team else _COLUMNS
        print_rows(rows_of(sums, requests), columns=columns, output=output)
    else:
        note("no guardrail has found anything in this time")


def share_of(one: FindingSum, requests: int) -> float | None:
    """Return the share of all *requests*; None if usage does not have all of them yet."""
    return round(one.requests / requests, 4) if requests >= one.requests else None


def rows_of(sums: Sequence[FindingSum], requests: int) -> list[Row]:
    """Return the rows of the table, each with its part of a bar chart."""
    most = max(one.requests for one in sums)
    rows: list[Row] = []
    for one in sums:
        share = share_of(one, requests)
        eighths = max(1, round(one.requests / most * WIDTH * 8))
        rows.append(
            {
                "team": one.team,
                "guardrail": one.guardrail,
                "type": one.type,
                "role": one.role,
                "verdict": one.verdict
                if one.mode == Mode.ENFORCE.value
                else f"{one.verdict} (shadow)",
                "policies": one.policies,
                "requests": f"{one.requests:,}",
                "findings": f"{one.findings:,}",
                "share": None if share is None else f"{share * 100:.1f} %",
                "chart": ("█" * (eighths // 8) + _BLOCKS[eighths % 8]).strip(),
            }
        )
    return rows
