"""Which exchanges are traced although nobody sampled them: those that somebody will ask about."""

from __future__ import annotations

from typing import Final

from sidecar.domain.errors import ErrorKind
from sidecar.domain.finding import Verdict
from sidecar.telemetry.report import ExchangeOutcome, ExchangeReport

_BLOCKED: Final = frozenset({ErrorKind.CONTENT_BLOCKED, ErrorKind.UNSCANNED_CONTENT})


class Keeping:
    """Keeps what was blocked, failed, passed unjudged or was slow.

    At most *per_second*: whoever has a key can have requests blocked as fast as it likes, and
    spans cost more than the rest of telemetry. Refusals for want of a good key are not kept:
    they cost a stranger nothing.
    """

    def __init__(self, *, slow_seconds: float, per_second: float) -> None:
        self._slow_seconds = slow_seconds
        self._per_second = per_second
        self._room = max(1.0, per_second)
        self._filled_at = 0.0

    def keeps(self, report: ExchangeReport) -> bool:
        """Tell whether *report* is to be traced, and take the room for it."""
        if self._per_second <= 0 or not self.is_of_interest(report):
            return False
        now = report.timings.started_at + report.timings.seconds
        gained = max(0.0, now - self._filled_at) * self._per_second
        self._room = min(max(1.0, self._per_second), self._room + gained)
        self._filled_at = max(self._filled_at, now)
        if self._room < 1:
            return False
        self._room -= 1
        return True

    def is_of_interest(self, report: ExchangeReport) -> bool:
        """Tell whether somebody will ask about *report*."""
        if (
            report.outcome is ExchangeOutcome.FAILED
            or report.error in _BLOCKED
            or report.timings.overhead_seconds > self._slow_seconds
        ):
            return True
        # A loop, and identities: it runs for every request, and a set would hash in Python.
        for result in report.results:
            if result.verdict is Verdict.ERROR_OPEN or result.verdict is Verdict.TIMEOUT_OPEN:
                return True
        return False
