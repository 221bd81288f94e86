from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from sidecar.cli.arguments import (
    MomentError,
    parse_moment,
    parse_span,
    parse_span_ahead,
    parse_time,
)

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", timedelta(seconds=90)),
        ("15m", timedelta(minutes=15)),
        ("12h", timedelta(hours=12)),
        ("30d", timedelta(days=30)),
        ("2w", timedelta(weeks=2)),
        ("0s", timedelta()),
    ],
)
def test_a_span_is_a_number_and_a_unit(text: str, expected: timedelta) -> None:
    """Seconds to weeks."""
    assert parse_span(text) == expected


@pytest.mark.parametrize(
    "text", ["", "30", "d", "-1d", "1.5h", "30 d", "1y", "9999999d", "\u0663d"]
)
def test_what_is_no_span_is_refused(text: str) -> None:
    """The message says what would be one."""
    with pytest.raises(MomentError, match="write for example 12h or 30d"):
        parse_span(text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("never", None, id="never"),
        pytest.param("now", NOW, id="now"),
        pytest.param("30d", NOW + timedelta(days=30), id="span"),
        pytest.param("2027-01-31", datetime(2027, 1, 31, tzinfo=UTC), id="date is UTC"),
        pytest.param(
            "2027-01-31T12:30:00", datetime(2027, 1, 31, 12, 30, tzinfo=UTC), id="time is UTC"
        ),
        pytest.param("2027-01-31T12:30:00Z", datetime(2027, 1, 31, 12, 30, tzinfo=UTC), id="Z"),
        pytest.param(
            "2027-01-31T12:30:00+02:00",
            datetime(2027, 1, 31, 12, 30, tzinfo=timezone(timedelta(hours=2))),
            id="offset",
        ),
    ],
)
def test_a_moment_is_a_span_from_now_or_an_iso_time(text: str, expected: datetime | None) -> None:
    """What names no zone is UTC."""
    assert parse_moment(text, now=NOW) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "soon",
        "tomorrow",
        "2027-13-01",
        "999999w",
        "31.01.2027",
        "0001-01-01",
        "0001-01-01T00:00:00+14:00",
        "1969-12-31T23:59:59Z",
        "9999-12-31T23:59:59-12:00",
        pytest.param("416000w", id="in the last year of the calendar"),
    ],
)
def test_what_is_no_moment_is_refused(text: str) -> None:
    """Typos and times beyond the calendar alike."""
    with pytest.raises(MomentError, match="write"):
        parse_moment(text, now=NOW)


def test_a_span_that_begins_now_ends_within_the_calendar() -> None:
    """Long is fine."""
    assert parse_span_ahead("5000w", now=NOW) == timedelta(weeks=5000)
    for text in ("999999w", "416000w"):
        with pytest.raises(MomentError, match="ends beyond any calendar"):
            parse_span_ahead(text, now=NOW)


def test_never_is_not_a_time() -> None:
    """Nor does the error propose it."""
    with pytest.raises(MomentError, match=r"'never' is no time, write for example .*Z or now$"):
        parse_time("never", now=NOW)
