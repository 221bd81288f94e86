"""Which alerts a route takes, when they are sent, and when again: no I/O, no clock."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from sidecar.admin.installation.objects import AlertRouteDocument
from sidecar.alerts.rules import Alert
from sidecar.domain.alerting import Digest, Severity

DAILY_DIGEST_AT: Final = time(8)
GIVE_UP_AFTER: Final = timedelta(days=1)
_FIRST_RETRY_SECONDS: Final = 5.0
_LONGEST_RETRY_SECONDS: Final = 1_800.0


def takes(route: AlertRouteDocument, alert: Alert, organization: str | None) -> bool:
    """Return whether *route* takes *alert*, which is of *organization* if it has a name.

    A disabled route takes alerts too: their messages wait.
    """
    return (
        alert.severity.reaches(route.severity)
        and (route.rules is None or alert.rule in route.rules)
        and route.organization in {None, organization}
    )


def batch_time(route: AlertRouteDocument, severity: Severity, *, now: datetime) -> datetime | None:
    """Return the time for which *route* collects an alert; None to send it at once."""
    if severity is Severity.CRITICAL:
        return None
    zone = ZoneInfo(route.time_zone)
    local = now.astimezone(zone)
    due = None
    match route.digest:
        case None:
            pass
        case Digest.HOURLY:
            # In UTC: by the clock, the hour that a change of the clocks repeats would take two.
            hour = local.replace(minute=0, second=0, microsecond=0).astimezone(UTC)
            due = (hour + timedelta(hours=1)).astimezone(zone)
        case Digest.DAILY:
            due = _next(DAILY_DIGEST_AT, after=local)
        case _:
            assert_never(route.digest)
    quiet_ends = (
        None if route.quiet_hours is None else quiet_until(route.quiet_hours, due or local)
    )
    due = quiet_ends or due
    return None if due is None else due.astimezone(now.tzinfo)


def quiet_until(quiet_hours: str, local: datetime) -> datetime | None:
    """Return the end of quiet hours such as 22:00-07:00, if *local* is within them."""
    start, end = map(time.fromisoformat, quiet_hours.split("-"))
    at = local.time()
    is_within = start <= at < end if start < end else at >= start or at < end
    return _next(end, after=local) if is_within else None


def _next(at: time, *, after: datetime) -> datetime:
    """Return the next time of day *at* by the clocks of the time zone of *after*.

    Of an hour that comes twice it is in the same one as *after*.
    """
    due = datetime.combine(after.date(), at.replace(fold=after.fold), tzinfo=after.tzinfo)
    return due if due > after else due + timedelta(days=1)


def retry_delay(attempts: int, *, jitter: float) -> timedelta:
    """Return the wait after so many failed *attempts*; *jitter* is between 0 and 1.

    Doubles up to half an hour. Between half and all of it, so that replicas and messages of one
    outage do not come back at one moment.
    """
    longest = min(_FIRST_RETRY_SECONDS * 2.0 ** min(attempts - 1, 30), _LONGEST_RETRY_SECONDS)
    return timedelta(seconds=longest * (1 + jitter) / 2)
