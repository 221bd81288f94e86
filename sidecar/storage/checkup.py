"""What a look at one part of a set-up found, and what to mend."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

MAX_SKEW_SECONDS: Final = 1.0
"""Expiry is judged by the worker's clock, and written by whoever made the key."""


class CheckState(enum.Enum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    """It works, and yet something should be different."""
    FAILED = "failed"
    SKIPPED = "skipped"
    """There was nothing to look at, or something before it failed."""


class Use(enum.Enum):
    """What the database's role is for: a worker, or whoever runs the command line."""

    WORKER = "worker"
    ADMIN = "admin"


@dataclass(frozen=True, slots=True)
class Checked:
    """One check: its name, how it came out, what was seen, what to do about it."""

    check: str
    state: CheckState
    found: str
    mend: str | None = None


def ok(check: str, found: str) -> Checked:
    """Return a check that found all as it should be."""
    return Checked(check, CheckState.OK, found)


def failed(check: str, found: str, *, mend: str) -> Checked:
    """Return a check that found what must be mended."""
    return Checked(check, CheckState.FAILED, found, mend)


def warning(check: str, found: str, *, mend: str) -> Checked:
    """Return a check that found what should be mended."""
    return Checked(check, CheckState.WARNING, found, mend)


def skipped(check: str, why: str) -> Checked:
    """Return a check that was not made."""
    return Checked(check, CheckState.SKIPPED, why)


def clock(check: str, *, server: float, sent: float, received: float) -> Checked:
    """Compare a server's clock with ours, which it read at some time between two of our times.

    All in seconds since the epoch; only what the round trip cannot explain counts.
    """
    skew = server - sent if server < sent else max(0.0, server - received)
    where = "behind" if skew < 0 else "ahead of"
    found = (
        f"{abs(skew):.3f} s {where} this machine's clock" if skew else "as this machine's clock"
    )
    if abs(skew) > MAX_SKEW_SECONDS:
        return failed(check, found, mend="run NTP (chrony, systemd-timesyncd) on both machines")
    return ok(check, found)
