"""The rules of alerts, as one table: SQL over the database, and a text without content."""
# ruff: noqa: S608 - made of constants

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sidecar.admin.limits import budgets_of, holders_of_limits
from sidecar.domain.alerting import AlertRule, Severity
from sidecar.domain.limits import Measure
from sidecar.limits.limit_syntax import shown, shown_amount, shown_whose
from sidecar.storage.pool import Connection
from sidecar.telemetry.logs import get_logger

SPIKE_FACTOR: Final = 5
SPIKE_REQUESTS: Final = 20
"""Requests with a finding in one hour, below which nothing is a spike."""
EXPIRES_DAYS: Final = 14
UNUSED_DAYS: Final = 90
NEARLY_SPENT_PERCENT: Final = 80
LATE_HOURS: Final = 24
"""How late the record of a request is still seen."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert that a rule finds; raised once for its rule, object and period."""

    rule: AlertRule
    severity: Severity
    object: str
    period_began: datetime
    summary: str
    organization_id: str | None = None


@dataclass(frozen=True, slots=True)
class SqlRule:
    """A statement with a row for each alert: `object`, `organization_id`, `period_began`.

    Further columns fill the braces of `summary`. A rule that reads many rows is checked once in
    `seconds` by each replica, others at each check.
    """

    severity: Severity
    summary: str
    sql: str
    seconds: float = 0.0


_ALL_KEYS_SECONDS: Final = 600.0
_DAY_OF_USAGE_SECONDS: Final = 60.0
"""Few rows by their index, but a million if a guardrail let a million requests of a day pass."""
_HOUR: Final = "date_trunc('hour', now(), 'UTC')"
_DAY: Final = "date_trunc('day', now(), 'UTC')"
# Its last findings are stored, and seen by a check, after its end.
_SPIKE_HOUR: Final = "date_trunc('hour', now() - interval '2 minutes', 'UTC')"
_KEYS: Final = """api_keys AS k JOIN teams AS t ON t.id = k.team_id
    JOIN organizations AS o ON o.id = t.organization_id"""
_IN_USE: Final = "k.enabled AND k.revoked_at IS NULL AND k.replaced_by IS NULL"
_EXPIRES: Final = f"""
SELECT k.public_id AS object, o.id AS organization_id, k.expires_at AS period_began,
    o.name || '/' || t.name || '/' || k.name AS key,
    to_char(k.expires_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') AS expires
FROM {_KEYS}
WHERE {_IN_USE} AND k.expires_at > now() AND k.expires_at <= now() + interval
"""

RULES: Final[Mapping[AlertRule, SqlRule]] = {
    AlertRule.GUARDRAIL_SPIKE: SqlRule(
        Severity.WARNING,
        "Guardrail {guardrail} of policy {policy} found {type} in at least {requests} requests"
        " of this hour; the mean of the {hours} hours before is {mean} an hour",
        # The mean is of the hours since the first finding, at most seven days. A guardrail of less
        # than a day has no usual count yet. A request is counted in each role
        # in which it has a finding: no fewer requests have one than the role with the most.
        f"""
WITH by_role AS (
    SELECT began_at, policy, guardrail, type, sum(requests)::bigint AS requests
    FROM findings_by_hour
    WHERE began_at BETWEEN {_SPIKE_HOUR} - interval '7 days' AND {_SPIKE_HOUR}
    GROUP BY began_at, policy, guardrail, type, role
), by_hour AS (
    SELECT began_at, policy, guardrail, type, max(requests) AS requests
    FROM by_role GROUP BY began_at, policy, guardrail, type
), recent AS (
    SELECT policy, guardrail, type, requests FROM by_hour WHERE began_at = {_SPIKE_HOUR}
), before AS (
    SELECT policy, guardrail, type, sum(requests) AS requests FROM by_hour
    WHERE began_at < {_SPIKE_HOUR} GROUP BY policy, guardrail, type
), known AS (
    SELECT policy, guardrail,
        LEAST(7 * 24, extract(epoch FROM {_SPIKE_HOUR} - min(began_at)) / 3600) AS hours
    FROM findings_by_hour
    WHERE began_at < {_SPIKE_HOUR} - interval '1 day' GROUP BY policy, guardrail
), compared AS (
    SELECT policy, guardrail, type, recent.requests, hours,
        COALESCE(before.requests, 0) / hours AS mean
    FROM recent JOIN known USING (policy, guardrail)
    LEFT JOIN before USING (policy, guardrail, type)
)
SELECT concat_ws(' ', policy, guardrail, type) AS object, NULL AS organization_id,
    date_trunc('day', {_SPIKE_HOUR}, 'UTC') AS period_began, policy, guardrail, type, requests,
    round(mean, 1) AS mean, round(hours) AS hours
FROM compared WHERE requests >= {SPIKE_REQUESTS} AND requests > {SPIKE_FACTOR} * mean
""",
    ),
    AlertRule.FAIL_OPEN: SqlRule(
        Severity.CRITICAL,
        "Guardrail {guardrail} failed or timed out and let requests of {organization} pass"
        " unchecked: {requests} so far of the hour from {hour} UTC",
        # A request is stored when its answer has ended, or when the database is back. The
        # condition with a path is that of idx_usage_failed_open.
        f"""
SELECT concat_ws(' ', g.key, u.organization_id) AS object, u.organization_id,
    date_trunc('hour', u.occurred_at, 'UTC') AS period_began, g.key AS guardrail,
    to_char(date_trunc('hour', u.occurred_at, 'UTC') AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')
        AS hour,
    count(*) AS requests, COALESCE(o.name, u.organization_id) AS organization
FROM usage AS u CROSS JOIN LATERAL jsonb_each_text(u.guardrails) AS g
LEFT JOIN organizations AS o ON o.id = u.organization_id
WHERE u.occurred_at > now() - interval '{LATE_HOURS} hours'
    AND u.guardrails @? '$.* ? (@ == "error_open" || @ == "timeout_open")'
    AND g.value IN ('error_open', 'timeout_open')
    AND u.decision <> 'deny'
GROUP BY date_trunc('hour', u.occurred_at, 'UTC'), g.key, u.organization_id, o.name
""",
        _DAY_OF_USAGE_SECONDS,
    ),
    AlertRule.KEY_EXPIRES: SqlRule(
        Severity.WARNING, "Key {key} ({object}) expires at {expires} UTC",
        f"{_EXPIRES} '{EXPIRES_DAYS} days'", _ALL_KEYS_SECONDS,
    ),
    AlertRule.KEY_EXPIRES_TOMORROW: SqlRule(
        Severity.CRITICAL, "Key {key} ({object}) expires within a day, at {expires} UTC",
        f"{_EXPIRES} '1 day'", _ALL_KEYS_SECONDS,
    ),
    AlertRule.KEYS_UNUSED: SqlRule(
        Severity.INFO,
        f"{{keys}} keys of {{organization}} were not used for {UNUSED_DAYS} days, such as"
        " {examples}",
        f"""
SELECT o.id AS object, o.id AS organization_id, date_trunc('month', now(), 'UTC') AS period_began,
    o.name AS organization, count(*) AS keys,
    array_to_string((array_agg(k.public_id ORDER BY k.public_id))[1:3], ', ') AS examples
FROM {_KEYS} LEFT JOIN key_activity AS a ON a.key_id = k.public_id
WHERE {_IN_USE} AND (k.expires_at IS NULL OR k.expires_at > now())
    AND COALESCE(a.last_used_at, k.created_at) < now() - interval '{UNUSED_DAYS} days'
GROUP BY o.id, o.name
""",
        _ALL_KEYS_SECONDS,
    ),
    AlertRule.KEY_LEAKED: SqlRule(
        Severity.CRITICAL,
        "Guardrail {guardrail} of policy {policy} found a key of Egret in {requests} texts of"
        " the role {role}: log lines with the finding EGRET_KEY name the key that sent each",
        f"""
SELECT concat_ws(' ', policy, guardrail, role) AS object, NULL AS organization_id,
    began_at AS period_began, policy, guardrail, role, sum(requests)::bigint AS requests
FROM findings_by_hour WHERE type = 'EGRET_KEY' AND began_at >= {_HOUR} - interval '1 hour'
GROUP BY began_at, policy, guardrail, role
""",
    ),
    AlertRule.FILTER_UNATTACHED: SqlRule(
        Severity.CRITICAL,
        "No request has reached Egret for an hour, while each hour of the day before had some:"
        " check that Envoy's filter is attached",
        f"""
SELECT 'usage' AS object, NULL AS organization_id, {_DAY} AS period_began
WHERE NOT EXISTS (SELECT FROM usage_by_hour WHERE began_at >= {_HOUR} - interval '1 hour')
    AND 24 = (
        SELECT count(DISTINCT began_at) FROM usage_by_hour
        WHERE began_at >= {_HOUR} - interval '25 hours' AND began_at < {_HOUR} - interval '1 hour'
    )
""",
    ),
    AlertRule.WORKER_DIED: SqlRule(
        Severity.WARNING,
        "A worker on {object} ended unexpectedly; {deaths} times so far on this host",
        """
SELECT host AS object, NULL AS organization_id,
    date_trunc('hour', max(died_at), 'UTC') AS period_began, sum(deaths)::bigint AS deaths
FROM workers GROUP BY host HAVING max(died_at) > now() - interval '10 minutes'
""",
    ),
    AlertRule.WORKER_SILENT: SqlRule(
        Severity.WARNING,
        "{workers} workers on {object} have not reported to the database for over a minute",
        """
SELECT host AS object, NULL AS organization_id,
    date_trunc('hour', max(seen_at), 'UTC') AS period_began, count(*) AS workers
FROM workers
WHERE seen_at < now() - interval '1 minute' AND seen_at > now() - interval '10 minutes'
GROUP BY host
""",
    ),
    # Its own route gets it too, when it works again; once a day, so that it does not feed itself.
    AlertRule.ROUTE_FAILS: SqlRule(
        Severity.WARNING,
        "Alert route {object} has not delivered {messages} messages for over an hour ({error})",
        f"""
SELECT m.route AS object, r.organization_id, {_DAY} AS period_began, count(*) AS messages,
    max(m.error) AS error
FROM alert_messages AS m JOIN alert_routes AS r ON r.name = m.route
WHERE r.enabled AND m.delivered_at IS NULL AND m.error IS NOT NULL
    AND m.first_tried_at BETWEEN now() - interval '25 hours' AND now() - interval '1 hour'
GROUP BY m.route, r.organization_id
""",
    ),
}  # fmt: skip
"""Every rule but those of budgets, whose periods begin in their own time zones."""


CHECK_SECONDS: Final[Mapping[AlertRule, float]] = {
    AlertRule.BUDGET_THRESHOLD: 60.0,  # a second for some thousand budgets; finds spent ones, too
    **{rule: entry.seconds for rule, entry in RULES.items()},
}
"""The least time between two checks of a rule by one replica."""


async def alerts_by_rule(connection: Connection, rule: AlertRule) -> list[Alert]:
    """Return the alerts that one of `RULES` finds now, raised before or not.

    Raises:
        One of `UNAVAILABLE`.
    """
    entry = RULES[rule]
    return [
        Alert(
            rule,
            entry.severity,
            row["object"],
            row["period_began"],
            entry.summary.format_map(dict(row)),
            row["organization_id"],
        )
        for row in await connection.fetch(entry.sql)
    ]


async def budget_alerts(connection: Connection, *, now: float) -> list[Alert]:
    """Return an alert for each budget that is nearly spent, or spent; *now* in epoch seconds.

    An owner whose limits this version cannot read is logged, and has none.

    Raises:
        One of `UNAVAILABLE`.
    """
    holders = await holders_of_limits(connection, measure=Measure.COST)
    for holder in holders:
        if holder.unreadable is not None:
            get_logger().warning("alerts.limits_unreadable", reason=holder.unreadable.problem)
    found: list[Alert] = []
    for one in await budgets_of(connection, holders, now=now):
        limit, holder = one.limit, one.holder
        if not limit.amount or one.spent * 100 < limit.amount * NEARLY_SPENT_PERCENT:
            continue
        is_spent = one.spent >= limit.amount
        spent = shown_amount(Measure.COST, one.spent)
        found.append(
            Alert(
                AlertRule.BUDGET_SPENT if is_spent else AlertRule.BUDGET_THRESHOLD,
                Severity.CRITICAL if is_spent else Severity.WARNING,
                f"{holder.id} {limit.id}",
                datetime.fromtimestamp(one.period.start, UTC),
                f"Budget {shown(limit)} of {shown_whose(limit.level, holder.name)}:"
                f" {spent} spent{'' if is_spent else f', over {NEARLY_SPENT_PERCENT} %'}",
                holder.organization_id,
            )
        )
    return found
