"""Times and spans as people type them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from sidecar.cli.output import WRONG_USAGE, fail

_SPAN: Final = re.compile(r"([0-9]{1,6})([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


class MomentError(ValueError):
    """Not a time or a span; the message says what would be one."""


def parse_span(text: str) -> timedelta:
    """Read 90s, 15m, 12h, 30d or 2w.

    Raises:
        MomentError: anything else.
    """
    match = _SPAN.fullmatch(text)
    if match is None:
        raise MomentError(f"{text!r} is no span of time, write for example 12h or 30d")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def parse_moment(text: str, *, now: datetime) -> datetime | None:
    """Read a span from *now*, an ISO 8601 time (UTC unless it says otherwise), now or never.

    Never is None.

    Raises:
        MomentError: anything else.
    """
    match text:
        case "never":
            return None
        case "now":
            return now
        case _ if _SPAN.fullmatch(text):
            return _later(now, by=parse_span(text))
        case _:
            return _iso(text)


def since_or_exit(text: str | None) -> datetime | None:
    """Read --since: how long ago, or a time. None is the beginning of time."""
    if text is None:
        return None
    now = datetime.now(UTC)
    try:
        return now - parse_span(text)
    except OverflowError:
        return None
    except MomentError:
        pass
    try:
        return parse_moment(text, now=now)
    except MomentError as error:
        fail(f"--since: {error}", mend="give another", code=WRONG_USAGE)


def _later(now: datetime, *, by: timedelta) -> datetime:
    try:
        return now + by
    except OverflowError:
        raise MomentError("that is later than any calendar goes, write never") from None


def _iso(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise MomentError(
            f"{text!r} is no time, write for example 30d, 2027-01-31T12:00:00Z, now or never"
        ) from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
