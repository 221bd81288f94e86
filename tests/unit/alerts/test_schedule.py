from __future__ import annotations

from datetime import datetime, timedelta

import pytest

from sidecar.alerts.schedule import batch_time, retry_delay
from sidecar.domain.alerting import Severity
from tests.support.alerts import route

QUIET = {"quiet_hours": "22:00-07:00", "time_zone": "Europe/Berlin"}


def at(text: str) -> datetime:
    return datetime.fromisoformat(f"{text}Z")


@pytest.mark.parametrize(
    ("fields", "now", "due"),
    [
        ({}, "2027-01-15T23:30", None),
        (QUIET, "2027-01-15T23:30", "2027-01-16T06:00"),  # 00:30 in Berlin
        (QUIET, "2027-01-15T21:00", "2027-01-16T06:00"),  # 22:00 in Berlin
        (QUIET, "2027-01-15T20:59", None),
        (QUIET, "2027-01-15T06:00", None),  # the end is outside
        (QUIET, "2027-03-27T23:00", "2027-03-28T05:00"),  # summer time begins within
        (QUIET | {"quiet_hours": "12:00-13:00"}, "2027-01-15T11:30", "2027-01-15T12:00"),
        # The hour from 02:00 is twice when summer time ends, at 01:00 in UTC.
        (QUIET | {"quiet_hours": "01:00-02:30"}, "2026-10-24T23:30", "2026-10-25T00:30"),
        (QUIET | {"quiet_hours": "01:00-02:30"}, "2026-10-25T01:10", "2026-10-25T01:30"),
        (
            {"digest": "hourly", "time_zone": "Europe/Berlin"},
            "2026-10-25T00:40",
            "2026-10-25T01:00",
        ),
        (
            {"digest": "hourly", "time_zone": "Europe/Berlin"},
            "2026-10-25T01:40",
            "2026-10-25T02:00",
        ),
        (
            {"digest": "hourly", "time_zone": "Europe/Berlin"},
            "2026-03-29T00:40",
            "2026-03-29T01:00",
        ),
        ({"digest": "hourly"}, "2027-01-15T11:00", "2027-01-15T12:00"),
        ({"digest": "hourly"}, "2027-01-15T23:59", "2027-01-16T00:00"),
        ({"digest": "daily"}, "2027-01-15T07:59", "2027-01-15T08:00"),
        ({"digest": "daily"}, "2027-01-15T08:00", "2027-01-16T08:00"),
        (QUIET | {"digest": "hourly"}, "2027-01-15T20:30", "2027-01-16T06:00"),
        (QUIET | {"digest": "daily"}, "2027-01-15T23:30", "2027-01-16T07:00"),
    ],
)
def test_alerts_are_collected_for_the_digest_or_the_end_of_quiet_hours(
    fields: dict[str, str], now: str, due: str | None
) -> None:
    found = batch_time(route(**fields), Severity.WARNING, now=at(now))

    assert found == (None if due is None else at(due))


def test_a_critical_alert_is_sent_at_once() -> None:
    quiet = route(**QUIET, digest="daily")

    assert batch_time(quiet, Severity.CRITICAL, now=at("2027-01-15T23:30")) is None


def test_retries_wait_longer_each_time_up_to_half_an_hour() -> None:
    waits = [retry_delay(attempts, jitter=0.5).total_seconds() for attempts in range(1, 100)]

    assert waits == sorted(waits)
    assert waits[0] == pytest.approx(3.75)
    assert waits[-1] == pytest.approx(1350)


def test_jitter_spreads_retries_over_half_of_the_wait() -> None:
    assert retry_delay(1, jitter=0) == timedelta(seconds=2.5)
    assert retry_delay(1, jitter=1) == timedelta(seconds=5)
