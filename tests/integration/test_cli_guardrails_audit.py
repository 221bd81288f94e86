from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

from sidecar.domain.finding import FindingCount, Verdict
from sidecar.domain.policy import Guardrail
from sidecar.storage.finding_counts import FindingCounts
from sidecar.storage.pool import open_pool
from sidecar.storage.usage_store import PostgresUsage
from sidecar.usage.prices import PriceList
from tests.support.command_line import Egret
from tests.support.postgres import Database
from tests.support.reports import PII, PRINCIPAL, SECRETS
from tests.support.usage import judged, record

NOW = datetime.now(UTC)
HEADER = "guardrail|type|role|verdict|policies|requests|findings|share|chart"


def found(type_: str, role: str, findings: int, guardrail: Guardrail = PII) -> FindingCount:
    return FindingCount(guardrail, Verdict.REDACT, type_, role, findings)


async def fill(database: Database, *, requests: int = 0) -> None:
    """Add findings of now, and of ten days ago, and so many requests."""
    async with open_pool(database.settings) as pool:
        counts = FindingCounts(pool, database.settings, most=100)
        for _ in range(3):
            counts.note(
                "default", (found("PHONE", "tool", 400),), of=PRINCIPAL, at=NOW.timestamp()
            )
        counts.note("finance", (found("PHONE", "tool", 1),), of=PRINCIPAL, at=NOW.timestamp())
        counts.note("default", (found("EMAIL", "user", 2),), of=PRINCIPAL, at=NOW.timestamp())
        counts.note(
            "default", (found("AWS_KEY", "answer", 1, SECRETS),), of=PRINCIPAL, at=NOW.timestamp()
        )
        old = (NOW - timedelta(days=10)).timestamp()
        counts.note("default", (found("IBAN", "user", 1),), of=PRINCIPAL, at=old)
        await counts.aclose()
        store = PostgresUsage(pool, database.settings, batch_seconds=20)
        records = [record(request=judged(n, occurred_at=NOW)) for n in range(requests)]
        if records:
            await store.add(records, PriceList())


def test_the_most_frequent_type_comes_first_with_its_role(
    database: Database, egret: Egret
) -> None:
    asyncio.run(fill(database, requests=20))
    ran = egret("guardrails", "audit", "--since", "1h", "-o", "json")
    assert ran.code == 0, ran
    common = {"guardrail": "pii", "verdict": "redact", "mode": "enforce"}
    assert ran.json == [
        common
        | {"type": "PHONE", "role": "tool", "policies": ["default", "finance"]}
        | {"requests": 4, "findings": 1201, "share": 0.2},
        common
        | {"type": "EMAIL", "role": "user", "policies": ["default"]}
        | {"requests": 1, "findings": 2, "share": 0.05},
        common
        | {"guardrail": "keys", "mode": "shadow"}
        | {"type": "AWS_KEY", "role": "answer", "policies": ["default"]}
        | {"requests": 1, "findings": 1, "share": 0.05},
    ]


def test_people_see_a_table_with_bars(database: Database, egret: Egret) -> None:
    asyncio.run(fill(database, requests=20))
    ran = egret("guardrails", "audit")
    assert ran.code == 0, ran
    assert [line.split("|") for line in ran.lines] == [
        HEADER.split("|"),
        ["pii", "PHONE", "tool", "redact", "default, finance", "4", "1,201", "20.0 %", "█" * 20],
        ["pii", "EMAIL", "user", "redact", "default", "1", "2", "5.0 %", "█" * 5],
        ["keys", "AWS_KEY", "answer", "redact (shadow)", "default", "1", "1", "5.0 %", "█" * 5],
    ]


def test_a_longer_time_and_one_policy_can_be_chosen(database: Database, egret: Egret) -> None:
    asyncio.run(fill(database))
    ran = egret("guardrails", "audit", "--since", "30d", "-o", "json")
    assert [one["type"] for one in ran.json] == ["PHONE", "EMAIL", "AWS_KEY", "IBAN"]
    ran = egret("guardrails", "audit", "--since", "30d", "--limit", "1", "-o", "json")
    assert [one["type"] for one in ran.json] == ["PHONE"]
    ran = egret("guardrails", "audit", "--policy", "finance", "-o", "json")
    assert [(one["type"], one["requests"]) for one in ran.json] == [("PHONE", 1)]


def test_without_usage_no_share_is_shown(database: Database, egret: Egret) -> None:
    asyncio.run(fill(database))
    ran = egret("guardrails", "audit", "-o", "json")
    assert {one["share"] for one in ran.json} == {None}
    assert "%" not in egret("guardrails", "audit").out


def test_an_audit_without_findings_says_so_and_passes(egret: Egret) -> None:
    ran = egret("guardrails", "audit")
    assert (ran.code, ran.out) == (0, "")
    assert "found" in ran.err
    assert egret("guardrails", "audit", "-o", "json").json == []


def test_an_audit_of_an_unknown_policy_does_not_pass_for_one_without_findings(
    egret: Egret,
) -> None:
    """The built-in one is known."""
    ran = egret("guardrails", "audit", "--policy", "nope")
    assert (ran.code, ran.err) == (1, "error: there is no policy nope; see `egret policy list`\n")
    assert egret("guardrails", "audit", "--policy", "default", "-o", "json").json == []


def test_a_time_that_is_none_is_refused(egret: Egret) -> None:
    assert egret("guardrails", "audit", "--since", "soon").code == 2
