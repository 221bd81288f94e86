"""Raises alerts, and keeps their messages until they are delivered: all SQL of the outbox.

A row of `alerts` for each rule, object and period is the claim on raising it. Messages are taken
by one replica at a time for `LEASE_SECONDS`; one that dies leaves them to the others. A receiver
that answered gets a message once; if the answer was lost it gets it again, with the same id.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import orjson
from pydantic import ValidationError

from sidecar.admin.installation.objects import AlertRouteDocument, Kind
from sidecar.admin.installation.statements import TABLES
from sidecar.admin.owners import ChangeRefusedError
from sidecar.alerts.rules import Alert
from sidecar.alerts.schedule import GIVE_UP_AFTER, batch_time, takes
from sidecar.domain.alerting import AlertRule, Severity
from sidecar.storage.pool import Connection

LEASE_SECONDS: Final = 60.0
"""Longer than any attempt takes."""
KEPT_DAYS: Final = 400


@dataclass(frozen=True, slots=True)
class RaisedAlert:
    """An alert with its id, as messages have it."""

    id: str
    rule: str
    severity: str
    object: str
    period_began: datetime
    summary: str
    organization: str | None
    raised_at: datetime


@dataclass(frozen=True, slots=True)
class AlertMessage:
    """A message to send: `id` is the same at each attempt."""

    id: str
    route: str
    attempts: int
    due_at: datetime
    alerts: tuple[RaisedAlert, ...]


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """An alert with one of its messages; `route` is None if no route took it."""

    alert: RaisedAlert
    route: str | None
    state: str
    attempts: int
    at: datetime | None
    error: str | None


_RAISE: Final = """
INSERT INTO alerts (rule, object, period_began, severity, organization_id, summary)
SELECT * FROM unnest($1::text[], $2::text[], $3::timestamptz[], $4::text[], $5::text[], $6::text[])
ORDER BY 1, 2, 3
ON CONFLICT (rule, object, period_began) DO NOTHING
RETURNING id, rule, object, period_began
"""
# A batch that was taken meanwhile is not added to: its alerts get a message of their own.
_COLLECT: Final = """
INSERT INTO alert_messages AS m (route, alerts, due_at, batch, next_try_at)
VALUES ($1, $2, $3, $3, $3)
ON CONFLICT (route, batch) DO UPDATE SET alerts = m.alerts || EXCLUDED.alerts
    WHERE m.attempts = 0
RETURNING id
"""
_SEND: Final = """
INSERT INTO alert_messages (route, alerts, due_at, next_try_at) VALUES ($1, $2, now(), now())
RETURNING id
"""
# One of each route, so that a receiver that hangs holds up no other.
_CLAIM: Final = """
WITH due AS (
    SELECT id FROM alert_messages
    WHERE delivered_at IS NULL AND gave_up_at IS NULL AND next_try_at <= now() AND id IN (
        SELECT DISTINCT ON (route) id FROM alert_messages
        WHERE delivered_at IS NULL AND gave_up_at IS NULL AND next_try_at <= now()
            AND route IN (SELECT name FROM alert_routes WHERE enabled) AND route <> ALL($3)
        ORDER BY route, next_try_at
    )
    ORDER BY next_try_at LIMIT $1 FOR UPDATE SKIP LOCKED
)
UPDATE alert_messages AS m
SET attempts = attempts + 1, first_tried_at = COALESCE(m.first_tried_at, now()),
    next_try_at = now() + make_interval(secs => $2::float8)
FROM due WHERE m.id = due.id
RETURNING m.id, m.route, m.attempts, m.due_at, m.alerts
"""
_ALERTS: Final = """
SELECT a.id, a.rule, a.severity, a.object, a.period_began, a.summary,
    COALESCE(o.name, a.organization_id) AS organization, a.raised_at
FROM alerts AS a LEFT JOIN organizations AS o ON o.id = a.organization_id
WHERE a.id = ANY($1) ORDER BY a.raised_at, a.id
"""
# By the number of the attempt: a replica that was too slow does not undo another's outcome.
_DELIVERED: Final = """
UPDATE alert_messages SET delivered_at = now(), error = NULL WHERE id = $1 AND attempts = $2
"""
_FAILED: Final = """
UPDATE alert_messages SET error = $3, next_try_at = now() + $4,
    gave_up_at = CASE WHEN now() + $4 > first_tried_at + $5 THEN now() END
WHERE id = $1 AND attempts = $2 AND delivered_at IS NULL
RETURNING gave_up_at IS NOT NULL
"""
_HISTORY: Final = """
SELECT a.id, a.rule, a.severity, a.object, a.period_began, a.summary,
    COALESCE(o.name, a.organization_id) AS organization, a.raised_at,
    m.route, COALESCE(m.attempts, 0) AS attempts, m.error,
    CASE WHEN m.id IS NULL THEN 'no route' WHEN m.delivered_at IS NOT NULL THEN 'delivered'
        WHEN m.gave_up_at IS NOT NULL THEN 'given up' WHEN m.attempts > 0 THEN 'retried'
        ELSE 'waiting' END AS state,
    COALESCE(m.delivered_at, m.gave_up_at, m.next_try_at) AS at
FROM alerts AS a LEFT JOIN organizations AS o ON o.id = a.organization_id
LEFT JOIN alert_messages AS m ON m.alerts @> ARRAY[a.id]
WHERE ($1::timestamptz IS NULL OR a.raised_at >= $1) AND ($2::text IS NULL OR o.name = $2)
ORDER BY a.raised_at DESC, a.id, m.route LIMIT $3
"""
_OF_MESSAGE: Final = ("route", "state", "attempts", "at", "error")
_FORGET: Final = """
WITH old AS (DELETE FROM alerts WHERE raised_at < now() - make_interval(days => $1))
DELETE FROM alert_messages WHERE due_at < now() - make_interval(days => $1)
"""


async def alert_routes(connection: Connection) -> tuple[AlertRouteDocument, ...]:
    """Return all routes, by name.

    Raises:
        ChangeRefusedError: this version cannot read a route.
    """
    routes, unreadable = await readable_routes(connection)
    for name in unreadable:
        raise ChangeRefusedError(
            f"alert route {name} is not one this Egret can read",
            hint="apply it anew, or use the Egret that wrote it",
        )
    return routes


async def readable_routes(
    connection: Connection,
) -> tuple[tuple[AlertRouteDocument, ...], tuple[str, ...]]:
    """Return the routes by name, and the names of those that this version cannot read.

    A newer version may have stored a field before a rollback.
    """
    rows = await connection.fetch(f"{TABLES[Kind.ALERT_ROUTE].load} ORDER BY a.name")
    found: list[AlertRouteDocument] = []
    unreadable: list[str] = []
    for row in rows:
        fields = orjson.loads(row[1])
        try:
            found.append(AlertRouteDocument.model_validate(fields))
        except ValidationError:
            unreadable.append(fields["name"])
    return tuple(found), tuple(unreadable)


async def raise_alerts(
    connection: Connection,
    alerts: Sequence[Alert],
    routes: Iterable[AlertRouteDocument],
    *,
    now: datetime,
) -> int:
    """Store the alerts that are new, with the messages for *routes*; return their number.

    To be called in a transaction: an alert and its messages are stored together.
    """
    columns = [
        (one.rule.value, one.object, one.period_began, one.severity.value, one.organization_id,
         one.summary)
        for one in alerts
    ]  # fmt: skip
    rows = await connection.fetch(_RAISE, *map(list, zip(*columns, strict=True))) if alerts else []
    ids = {(row["rule"], row["object"], row["period_began"]): row["id"] for row in rows}
    new = [
        (ids[key], one)
        for one in alerts
        if (key := (one.rule.value, one.object, one.period_began)) in ids
    ]
    owners = await connection.fetch(
        "SELECT id, name FROM organizations WHERE id = ANY($1)",
        [one.organization_id for _, one in new if one.organization_id is not None],
    )
    names = {row["id"]: row["name"] for row in owners}
    for route in routes:
        batches: dict[datetime | None, list[str]] = {}
        for alert_id, one in new:
            if takes(route, one, names.get(one.organization_id)):
                due = batch_time(route, one.severity, now=now)
                batches.setdefault(due, []).append(alert_id)
        for due, taken in batches.items():
            if due is None or await connection.fetchval(_COLLECT, route.name, taken, due) is None:
                await connection.execute(_SEND, route.name, taken)
    return len(new)


async def raise_test(connection: Connection, route: str, *, now: datetime) -> str:
    """Store a test for *route*, sent at once even in quiet hours; return the message's id.

    Raises:
        ChangeRefusedError: there is no such route, or it is disabled.
    """
    routes = {one.name: one for one in await alert_routes(connection)}
    if route not in routes:
        raise ChangeRefusedError(
            f"there is no alert route {route}", hint="see `egret alerts list`"
        )
    if not routes[route].enabled:
        raise ChangeRefusedError(f"alert route {route} is disabled", hint="enable it first")
    alert = AlertRule.TEST.value, route, now, Severity.INFO.value, None, f"Test of route {route}"
    rows = await connection.fetch(_RAISE, *([value] for value in alert))
    message: str = await connection.fetchval(_SEND, route, [row["id"] for row in rows])
    return message


async def claim_messages(
    connection: Connection,
    *,
    limit: int,
    lease_seconds: float = LEASE_SECONDS,
    unreadable: Sequence[str] = (),
) -> list[AlertMessage]:
    """Take up to *limit* messages that are due, one of a route, for *lease_seconds*.

    Messages of the routes *unreadable* wait, and lose no attempt.
    """
    rows = await connection.fetch(_CLAIM, limit, lease_seconds, unreadable)
    wanted = [alert_id for row in rows for alert_id in row["alerts"]]
    found = {row["id"]: RaisedAlert(**row) for row in await connection.fetch(_ALERTS, wanted)}
    return [
        AlertMessage(
            row["id"],
            row["route"],
            row["attempts"],
            row["due_at"],
            tuple(found[one] for one in row["alerts"] if one in found),
        )
        for row in rows
    ]


async def mark_delivered(connection: Connection, message: AlertMessage) -> None:
    """Store that the receiver has accepted *message*."""
    await connection.execute(_DELIVERED, message.id, message.attempts)


async def mark_failed(
    connection: Connection, message: AlertMessage, error: str, *, retry_in: timedelta
) -> bool:
    """Store that an attempt has failed; return whether it was the last, after a day."""
    values = message.id, message.attempts, error, retry_in, GIVE_UP_AFTER
    return bool(await connection.fetchval(_FAILED, *values))


async def message_state(connection: Connection, message_id: str) -> tuple[bool, str | None] | None:
    """Return whether a message is delivered, and the error of its last attempt; None without it.

    A message goes with its route.
    """
    row = await connection.fetchrow(
        "SELECT delivered_at IS NOT NULL, error FROM alert_messages WHERE id = $1", message_id
    )
    return None if row is None else (row[0], row[1])


async def alert_history(
    connection: Connection,
    *,
    since: datetime | None = None,
    organization: str | None = None,
    limit: int = 100,
) -> list[HistoryEntry]:
    """Return alerts since a time, each with its messages, the newest first."""
    entries: list[HistoryEntry] = []
    for row in await connection.fetch(_HISTORY, since, organization, limit):
        fields = dict(row)
        message = {name: fields.pop(name) for name in _OF_MESSAGE}
        entries.append(HistoryEntry(RaisedAlert(**fields), **message))
    return entries


async def forget_old_alerts(connection: Connection) -> None:
    """Delete alerts and messages of more than `KEPT_DAYS`."""
    await connection.execute(_FORGET, KEPT_DAYS)
